"""The one function between a file's strings and a terminal."""

from __future__ import annotations

import re
import unicodedata

# Cc control, Cf format (bidi, zero-width), Cs surrogates, Zl and Zp separators; the others draw nothing.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def printable(text: str, *, keep: str = "") -> str:
    r"""Text that draws itself and does nothing else: unsafe characters as `\u{…}`.

    Characters in `keep` (a newline, say) pass as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or _is_safe(c) else f"\\u{{{ord(c):x}}}" for c in text)


def has_control(text: str) -> bool:
    """Whether text holds U+0000-1F or U+007F-9F."""
    return not (text.isascii() and text.isprintable()) and _CONTROL.search(text) is not None


def _is_safe(character: str) -> bool:
    return character not in _INVISIBLE and unicodedata.category(character) not in _UNSAFE_CATEGORIES
