"""What a trial process says to the process that waits for it: JSON, one object a line, on standard output.

``{"done": 1, "total": 5, "what": "int8: audit"}`` is progress, ``{"finished": true}`` ends a trial, and
``{"error": {…}}`` is an error that stops the run.
"""

from __future__ import annotations

import json
from typing import Any, TextIO

from edgeship import errors
from edgeship.errors import EdgeshipError, MissingExtra, TargetError
from edgeship.files import parse_json
from edgeship.progress import Progress

PROTOCOL = 3
"""Version of the requests and replies between a workstation and a device."""


def speaker(stream: TextIO) -> Progress:
    """A progress callback that writes lines to ``stream``."""

    def report(done: int, total: int | None, what: str) -> None:
        say(stream, {"done": done, "total": total, "what": what})

    return report


def say(stream: TextIO, message: dict[str, Any]) -> None:
    """Write one line and flush it."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def hear(line: str) -> dict[str, Any]:
    """A line as a message; anything that is not one of ours (a library's own print) is an empty message."""
    try:
        message = parse_json(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def pass_on(message: dict[str, Any], progress: Progress) -> None:
    """Forward a progress message."""
    what, done, total = message.get("what"), message.get("done"), message.get("total")
    if isinstance(what, str) and isinstance(done, int) and (total is None or isinstance(total, int)):
        progress(done, total, what)


def describe(error: EdgeshipError) -> dict[str, Any]:
    """An error as a message, in the form the command line prints with ``--json``; a MissingExtra names its extra."""
    told = {"kind": type(error).__name__, "found": error.found, "expected": error.expected, "do": error.do}
    return {"error": told | ({"extra": error.extra} if isinstance(error, MissingExtra) else {})}


def kind_of(name: str) -> type[EdgeshipError]:
    """The class of error that is called ``name``; TargetError where this version has none."""
    kind = getattr(errors, name, TargetError)
    return kind if isinstance(kind, type) and issubclass(kind, EdgeshipError) else TargetError


def revive(message: dict[str, Any]) -> EdgeshipError | None:
    """The error that a message describes, of its own class where this version knows it."""
    told = message.get("error")
    if not isinstance(told, dict):
        return None
    kind = kind_of(str(told.get("kind")))
    error = kind.__new__(kind)
    expected, do = told.get("expected"), told.get("do")
    EdgeshipError.__init__(
        error,
        str(told.get("found")),
        expected=None if expected is None else str(expected),
        do=None if do is None else str(do),
    )
    if isinstance(error, MissingExtra) and isinstance(told.get("extra"), str):
        error.extra = told["extra"]
    return error
