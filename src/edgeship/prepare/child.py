"""A native library that may end the process runs in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from edgeship.errors import EdgeshipError, ModelError, StageError

T = TypeVar("T")


def in_child(work: Callable[..., T], *arguments: Any) -> T:
    """What ``work`` returns, computed in a child process.

    Args:
        work: A function of a module, which the child can import; it raises errors of edgeship alone.
        arguments: What pickle can carry.

    Raises:
        EdgeshipError: As ``work`` raised it.
        StageError: The child ended without an answer; names the signal.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.send((work, arguments))  # not with the process: one that ends before it reads them would be waited for
        good, answer = ours.recv()
    except (EOFError, ConnectionError):
        process.join()
        raise StageError(
            f"{work.__module__.rpartition('.')[2]} {work.__name__.strip('_')}: the library ended its process "
            f"({_how(process.exitcode)})",
            do="report the graph to the library's makers; edgeship itself goes on",
        ) from None
    finally:
        ours.close()
    process.join()
    if good:
        result: T = answer
        return result
    kind, found, expected, do = answer
    raise (ModelError if kind == "ModelError" else StageError)(found, expected=expected, do=do)


def _answer(pipe: Connection) -> None:
    work, arguments = pipe.recv()
    try:
        pipe.send((True, work(*arguments)))
    except EdgeshipError as error:
        pipe.send((False, (type(error).__name__, error.found, error.expected, error.do)))


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
