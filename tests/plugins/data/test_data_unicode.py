"""Processor ``unicode``."""

from __future__ import annotations

import unicodedata

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos.api import Document, InputError
from llmasos_data.unicode import UnicodeRepair


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("schÃ¶n", "schön"),
        ("âœ” No problems", "✔ No problems"),
        ("The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.", "The Mona Lisa doesn’t have eyebrows."),
        ("L&AMP;AMP;ATILDE;&AMP;AMP;SUP3;PEZ", "LóPEZ"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("x\x1b[31mred\x1b[0m\x00\x0c", "xred"),
        ("“curly” quotes stay", "“curly” quotes stay"),
        ("e\u0301", "é"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("plain", "plain"),
    ],
)
def test_examples(text: str, clean: str) -> None:
    assert UnicodeRepair({}, None).clean(text) == clean


@pytest.mark.parametrize(("form", "expected"), [("NFC", "x²"), ("NFKC", "x2"), ("none", "x²")])
def test_forms(form: str, expected: str) -> None:
    assert UnicodeRepair({"form": form}, None).clean("x²") == expected


def test_repair_can_be_left_out() -> None:
    keep = UnicodeRepair({"repair": False, "form": "none", "control_characters": "keep"}, None)
    assert keep.clean("schÃ¶n\x00") == "schÃ¶n\x00"


def test_ids_and_meta_stay_and_unchanged_documents_are_the_same_object() -> None:
    dirty, clean = Document("1", "schÃ¶n", {"k": 1}), Document("2", "fine")
    first, second = UnicodeRepair({}, None).process([dirty, clean])
    assert first.document == Document("1", "schön", {"k": 1})
    assert second.document is clean


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=0x250), max_size=60))
def test_the_shortcut_for_plain_text_changes_nothing(text: str) -> None:
    step = UnicodeRepair({}, None)
    config = ftfy.TextFixerConfig(normalization=None, uncurl_quotes=False, remove_control_chars=True)
    slow = unicodedata.normalize("NFC", ftfy.fix_text(text, config))
    slow = "".join(c for c in slow if c in "\t\n" or unicodedata.category(c) != "Cc")
    assert step.clean(text) == slow


def test_an_unknown_form_is_an_input_error() -> None:
    with pytest.raises(InputError, match="did you mean `NFC`"):
        UnicodeRepair({"form": "NFCC"}, None)
