"""Tokens to text, a piece at a time, without ever taking a piece back."""

from __future__ import annotations

from collections.abc import Sequence

from llmasos.contracts.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"


class TextStream:
    """Decodes a growing list of tokens; holds back what a later token could still change or turn into a stop string.

    Held back are a trailing run of U+FFFD (the bytes of one character may be spread over several tokens) and the longest
    end of the text that begins a stop string. All pieces together are ``text``, which is the decoded tokens up to the
    first stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        self._sent = 0
        self.text = ""
        #: Whether a stop string was found; no tokens are taken after that.
        self.stopped = False

    def push(self, token: int) -> str:
        """The new text that is certain after one more token; often empty."""
        self._tokens.append(token)
        # All tokens are decoded again: how a token reads can depend on its neighbours, and even a thousand take less
        # than a millisecond.
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
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
