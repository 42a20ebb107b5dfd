"""Text from files and from users: what a terminal may show of it, and the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SIMILARITY = 0.6
"""Least similarity of a name to be offered, as ``difflib`` measures it: 1 is equal, 0 shares nothing."""
SURROGATES = ("\ud800", "\udfff")


def printable(text: str) -> str:
    """``text`` without what steers a terminal: control and format characters are removed, line ends are kept.

    A tab or an unusual space becomes one space; a byte of a file name that is not UTF-8 becomes U+FFFD.
    """
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    if SURROGATES[0] <= character <= SURROGATES[1]:
        return "\ufffd"
    return " " if character.isspace() else ""


def line(text: str) -> str:
    """:func:`printable` text on one line: each run of white space is one space."""
    return " ".join(printable(text).split())


def byte_count(count: int) -> str:
    """A number of bytes for people: ``840 KiB``, ``12 MiB``."""
    return f"{count >> 20} MiB" if count >= 10 << 20 else f"{-(-count // 1024)} KiB"


def alike(name: str, known: Iterable[str], count: int) -> list[str]:
    """Up to ``count`` known names that are like ``name``, the nearest first; upper and lower case are alike."""
    folded = {item.casefold(): item for item in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=count, cutoff=SIMILARITY)
    return [folded[item] for item in close]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``; None where none is like it."""
    return next(iter(alike(name, known, 1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``'name'``, and ``(did you mean 'other'?)`` where a known name is like it."""
    close = nearest(name, known)
    return f"{name!r} (did you mean {close!r}?)" if close is not None else repr(name)


def other_encoding(data: bytes) -> str:
    """What a file that should be UTF-8 text looks like instead; empty where it is UTF-8 without zero bytes."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it begins with the byte order mark of UTF-16"
    if b"\0" in data:
        pairs = bytes(data[:200])
        wide = pairs[1::2].count(0) > len(pairs) // 4 or pairs[::2].count(0) > len(pairs) // 4
        return "every other byte is 0, as in UTF-16" if wide else "it holds zero bytes, as a binary file does"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return f"line {line} holds the byte {data[error.start]:#04x}, as in Latin-1 or a binary file"
    return ""
