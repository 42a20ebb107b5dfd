"""All that the command line prints: results as text or JSON, and errors.

Text is printed as text: names from files carry no markup, and nothing that steers a terminal reaches it. Rich is
imported when there is something to draw.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TextIO

import typer

from edgeship.cli.streams import flush_native, results

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console, RenderableType
    from rich.text import Text

    Lines = Iterable[RenderableType]
    """What a command prints: text, tables."""

JSON_OPTION = typer.Option(False, "--json", help="Print the result as JSON.")
LOG_WIDTH = 120
"""Columns of a table where there is no terminal and COLUMNS is not set."""


def show(*lines: RenderableType, error: bool = False) -> None:
    """Print lines and tables to standard output, or to standard error: the one way by which text is printed.

    In a terminal, text breaks between words. A word that is longer than the terminal is wide, as a path may be, is left
    to the terminal, which copies it whole.
    """
    from rich.text import Text

    screen = console(error=error)
    for item in lines:
        if isinstance(item, str | Text):
            text = Text(item) if isinstance(item, str) else item
            broken = [text] if screen.soft_wrap or text.no_wrap else _broken(text, screen.width)
            for part in broken:
                screen.print(part, overflow="ignore", crop=False)
        else:
            screen.print(item)


def rendered(*lines: RenderableType) -> str:
    """Lines and tables as :func:`show` prints them to this standard output; :func:`repeat` prints them."""
    with console().capture() as taken:
        show(*lines)
    return taken.get()


def repeat(text: str) -> None:
    """Print what :func:`rendered` gave."""
    sys.stdout.write(text)


def _broken(text: Text, width: int) -> Iterator[Text]:
    """The lines of a text, broken between words where one is wider than ``width`` columns."""
    from rich.cells import cell_len

    for row in text.split("\n", allow_blank=True):
        breaks, column = [], 0
        for word in re.finditer(r"\s*\S+", row.plain):
            if column and column + cell_len(word.group()) > width:
                breaks.append(word.end() - len(word.group().lstrip()))
                column = cell_len(word.group().lstrip())
            else:
                column += cell_len(word.group())
        for part in row.divide(breaks):
            part.rstrip()
            yield part


def console(*, error: bool = False) -> Console:
    """The console of standard output or standard error; it wraps nothing where there is no terminal."""
    return _screen(sys.stderr if error else sys.stdout)


@lru_cache(maxsize=2)
def _screen(stream: TextIO) -> Console:
    from edgeship.cli.screen import Screen

    plain = not stream.isatty()
    columns = os.environ.get("COLUMNS", "")
    width = (int(columns) if columns.isdecimal() and int(columns) > 0 else LOG_WIDTH) if plain else None
    return Screen(
        file=stream, highlight=False, markup=False, emoji=False, legacy_windows=False, width=width, soft_wrap=plain
    )


def emit(result: BaseModel | dict[str, Any], *, as_json: bool, lines: Callable[[], Lines]) -> None:
    """Print a result: JSON to standard output, or its ``lines``, where a line end in a name is a space."""
    if as_json:
        write_json(result if isinstance(result, dict) else result.model_dump(mode="json"))
    else:
        show_each(lines())


def show_each(lines: Lines) -> None:
    """Print lines one by one as they come; a line end in a name is a space."""
    for item in lines:
        show(item.replace("\n", " ") if isinstance(item, str) else item)


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON, in ASCII with escapes."""
    results().write(json.dumps(value, indent=indent) + "\n")


def write_json_rows(name: str, rows: Iterable[str], rest: dict[str, Any]) -> None:
    """Print an object as JSON whose first entry is a list of many: ``rows`` are its values, written one by one.

    Args:
        name: The key of the list.
        rows: Each value as JSON on one line.
        rest: The other entries, at least one.
    """
    stream = results()
    stream.write(f"{{\n  {json.dumps(name)}: [")
    for number, row in enumerate(rows):
        stream.write(("," if number else "") + f"\n    {row}")
    stream.write("\n  ],\n" + json.dumps(rest, indent=2)[2:] + "\n")


@contextmanager
def native_output_aside() -> Iterator[None]:
    """Send what a vendor's library prints from C++ to standard error: standard output carries our result alone."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        flush_native()
        os.dup2(saved, 1)
        os.close(saved)
