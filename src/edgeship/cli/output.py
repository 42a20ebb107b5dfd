"""What the command line shows: results as text or JSON, and progress bars. Imports rich only when it draws."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from edgeship.progress import Progress

JSON_OPTION = typer.Option(False, "--json", help="Print the result as JSON.")


def console(*, stderr: bool = False) -> Console:
    """A rich console that wraps nothing when it is not a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    return Console(stderr=stderr, highlight=False, emoji=False, width=width, soft_wrap=not sys.stdout.isatty())


def emit(result: BaseModel | dict[str, Any], *, as_json: bool, text: Callable[[Console], None]) -> None:
    """Print a result: JSON to standard output, or text by ``text``."""
    if as_json:
        value = result if isinstance(result, dict) else result.model_dump(mode="json")
        print(json.dumps(value, indent=2))
    else:
        text(console())


@contextmanager
def native_output_aside() -> Iterator[None]:
    """Send what a vendor's library prints from C++ to standard error: standard output carries our result alone."""
    import ctypes

    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved, 1)
        os.close(saved)


@contextmanager
def progress_bar(*, quiet: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error for anything longer than a second; nothing when it is no terminal."""
    from edgeship.progress import silent

    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console(stderr=True), transient=True) as bar:
        shown: dict[str, Any] = {}
        turn = Lock()

        def report(done: int, total: int | None, what: str) -> None:
            with turn:
                if what not in shown:
                    for old in shown.values():
                        bar.remove_task(old)
                    shown.clear()
                    shown[what] = bar.add_task(what, total=total)
                bar.update(shown[what], completed=done, total=total)

        yield report


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """A moving bar on standard error for a step that cannot tell how far it is."""
    with progress_bar(quiet=quiet) as progress:
        progress(0, None, what)
        yield
