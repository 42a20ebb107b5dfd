"""Text from files: what is shown of it, and the nearest name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeship.text import byte_count, did_you_mean, line, nearest, other_encoding, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pedestrian", "pedestrian"),
        ("\x1b[31mblue\x1b[0m", "[31mblue[0m"),
        ("stop [/sign]", "stop [/sign]"),
        ("a\tb\u00a0c", "a b c"),
        ("two\nlines\r", "two\nlines "),
        ("\ufeffred", "red"),
        ("right\u202eleft", "rightleft"),
        ("caf\udce9", "caf\ufffd"),
        ("名前 → ✓", "名前 → ✓"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 KiB"), (1, "1 KiB"), (4096, "4 KiB"), (12 << 20, "12 MiB"), (5 << 30, "5120 MiB")]
)
def test_byte_count(count: int, shown: str) -> None:
    assert byte_count(count) == shown


@given(st.text())
def test_nothing_that_steers_a_terminal_is_printable(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in printable(text))
    assert line(text).isprintable()


def test_the_nearest_name() -> None:
    known = ["onnxruntime", "tensorrt", "tensorrt-rtx"]
    assert nearest("OnnxRuntim", known) == "onnxruntime"
    assert nearest("zzz", known) is None
    assert did_you_mean("tensort", known) == "'tensort' (did you mean 'tensorrt'?)"
    assert did_you_mean("zzz", known) == "'zzz'"


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        ("[model]\n# 名前\n".encode(), ""),
        (b"\xef\xbb\xbf[model]\n", ""),
        ("[model]\n".encode("utf-16"), "it begins with the byte order mark of UTF-16"),
        ("[model]\n".encode("utf-16-le"), "every other byte is 0, as in UTF-16"),
        ("[model]\n".encode("utf-16-be"), "every other byte is 0, as in UTF-16"),
        (b"[model]\n# caf\xe9\n", "line 2 holds the byte 0xe9, as in Latin-1 or a binary file"),
        (b"ONNX model of a network\0with weights", "it holds zero bytes, as a binary file does"),
    ],
)
def test_what_is_not_utf8_is_told_by_its_look(data: bytes, looks: str) -> None:
    assert other_encoding(data) == looks
