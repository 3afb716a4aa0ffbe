"""Tokens to text, a piece at a time, without ever taking a piece back."""

from __future__ import annotations

from collections.abc import Sequence

from llmasos.contracts.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
#: Tokens that are decoded again with each new one, at most twice as many; the last of them never settle.
WINDOW, OPEN = 64, 16


class TextStream:
    """Decodes a growing list of tokens; holds back what a later token could still change or turn into a stop string.

    Held back are a trailing run of U+FFFD (the bytes of one character may be spread over several tokens) and the longest
    end of the text that begins a stop string. All pieces together are ``text``, which is the decoded tokens up to the
    first stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        #: The last tokens, and the text of those before them.
        self._tokens: list[int] = []
        self._settled = ""
        self._window = WINDOW
        self._sent = 0
        self.text = ""
        #: Whether a stop string was found; no tokens are taken after that.
        self.stopped = False

    def push(self, token: int) -> str:
        """The new text that is certain after one more token; often empty."""
        self._tokens.append(token)
        # How a token reads can depend on its neighbours, so that the last ones are decoded again.
        tail = self._decoded(self._tokens)
        text = self._settled + tail
        if len(self._tokens) >= self._window:
            self._settle(tail)
        certain = text.rstrip(REPLACEMENT)
        until = up_to_stop(certain, self._stop, self._sent)
        if len(until) < len(certain):
            self.stopped = True
            self.text = until
            return self._send(len(self.text))
        self.text = text
        return self._send(len(certain) - self._open_stop(certain))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        return self._send(len(self.text))

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _settle(self, tail: str) -> None:
        """Part with the first tokens of the window where it reads the same in two parts; later, when it does not anywhere."""
        for place in range(len(self._tokens) - OPEN, len(self._tokens) - 2 * OPEN, -1):
            before = self._decoded(self._tokens[:place])
            if before + self._decoded(self._tokens[place:]) == tail:
                self._settled += before
                del self._tokens[:place]
                self._window = WINDOW
                return
        self._window *= 2

    def _send(self, end: int) -> str:
        piece = self.text[self._sent : end]
        self._sent = max(self._sent, end)
        return piece

    def _open_stop(self, text: str) -> int:
        """Length of the longest end of ``text`` that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(text) - self._sent), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0


def up_to_stop(text: str, stop: Sequence[str], begin: int = 0) -> str:
    """``text`` up to the first of the strings ``stop`` that is found from ``begin`` on; all of it without one."""
    return text[: min((at for one in stop if (at := text.find(one, begin)) >= 0), default=len(text))]
