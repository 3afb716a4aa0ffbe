"""Processor ``unicode``: repair of mis-decoded text, normalisation, removal of control characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import Any, Literal

from llmasos.api import Decision, Document, HubAPI, read_options

#: Control characters (category Cc) other than tab and newline, the byte order mark and the non-characters U+FFFE, U+FFFF.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")

#: In ASCII text, only these can start anything that ftfy would change (entities, escapes, line ends, controls).
_SUSPECT = re.compile("[&\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class UnicodeOptions:
    """``repair``: undo mojibake with ftfy. ``quotes``: also straighten curly quotes, which loses information."""

    repair: bool = True
    form: Literal["NFC", "NFKC", "none"] = "NFC"
    control_characters: Literal["remove", "keep"] = "remove"
    quotes: bool = False


class UnicodeRepair:
    """ftfy's ``fix_text`` (Speer 2019), then a normal form (UAX #15), then control characters. Never drops a document."""

    def __init__(self, options: Mapping[str, Any], hub: HubAPI) -> None:
        import ftfy

        self.options = read_options(UnicodeOptions, options, what="processor unicode")
        self.version = f"1;ftfy={installed('ftfy')};unicode={unicodedata.unidata_version}"
        self._fix_text = ftfy.fix_text
        self._config = ftfy.TextFixerConfig(
            normalization=None,
            uncurl_quotes=self.options.quotes,
            remove_control_chars=self.options.control_characters == "remove",
        )

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for document in documents:
            text = self.clean(document.text)
            same = text == document.text
            yield Decision(document if same else Document(document.id, text, document.meta))

    def clean(self, text: str) -> str:
        """The cleaned text."""
        if text.isascii() and not _SUSPECT.search(text):
            return text
        if self.options.repair:
            text = self._fix_text(text, self._config)
        if self.options.form != "none":
            text = unicodedata.normalize(self.options.form, text)
        if self.options.control_characters == "remove":
            text = _CONTROL.sub("", text)
        return text
