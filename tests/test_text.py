"""One function stands between a file's strings and a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgan._text import has_control, printable


@pytest.mark.parametrize(
    "character",
    ["\0", "\x07", "\x1b", "\r", "\n", "\t", "\x7f", "\x85", "\x9b", "\u061c", "\u200b", "\u200d", "\u200e",
     "\u202e", "\u2066", "\u2028", "\u2029", "\ufeff", "\u00ad", "\ud800", "\U000e0041", "\u3164"],
)  # fmt: skip
def test_what_draws_nothing_or_does_something_comes_out_spelled(character: str) -> None:
    assert printable(f"a{character}b") == f"a\\u{{{ord(character):x}}}b"


@pytest.mark.parametrize(
    "text", ["plain", "Grüße", "雨の音", "[red]x[/]", "<b>&amp;", "\\u{1b}", "👍", "e\u0301"]
)
def test_what_draws_itself_stays(text: str) -> None:
    assert printable(text) == text


def test_what_is_kept_passes_and_nothing_more() -> None:
    assert printable("a\n\x1bb", keep="\n") == "a\n\\u{1b}b"


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_reaches_the_terminal_unsafe(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
    assert printable(shown) == shown
    assert not has_control(shown)
    shown.encode()


@given(st.text(st.characters(exclude_categories=())))
def test_control_characters_are_those_of_the_format(text: str) -> None:
    expected = any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in text)
    assert has_control(text) == expected
