"""The command runs in a child process, so that a crash of a native library is one sentence and exit code 4.

onnxruntime, onnxslim's shape inference, TensorRT's parser and builder are C++ and meet graphs that no one has tried:
what they do not survive would end edgeship without a word. The parent imports nothing of theirs; it waits, passes
signals on, and says what crashed from the traceback that Python's fault handler leaves. Linux only; elsewhere, and for
the commands whose caller reads the signal itself, the command runs as it is.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from edgeship.errors import EngineError

UNGUARDED = frozenset(("trial", "worker"))
"""Who starts these waits for them, and tells by the signal how they ended."""
CRASHES = frozenset((signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))
PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FRAME = re.compile(r'File "([^"]+)", line \d+ in (\S+)')
_HOME = f"{Path(__file__).resolve().parents[1]}/"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def guarded(work: Callable[[], int], report: Callable[[EngineError, str], None]) -> int:
    """The exit code of ``work``, which runs in a child of this process.

    Args:
        work: The command; what it returns is the exit code.
        report: Says an error, and the trace that it was told by; called in this process after a crash of the child.

    Returns:
        What ``work`` returned, or 4 after a crash. A child that another signal ended ends this process alike.
    """
    if sys.platform != "linux" or (sys.argv[1:2] and sys.argv[1] in UNGUARDED):
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    traces = os.memfd_create("faults")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, no status of a child is kept
    passed = {number for number in PASSED if signal.getsignal(number) is not signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, passed | {signal.SIGCHLD})
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _die_with(parent)
        faulthandler.enable(file=traces)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return work()
    status = _wait(child, passed)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = signal.Signals(os.WTERMSIG(status))
    if number not in CRASHES and number != signal.SIGKILL:
        _end_by(number)
    os.lseek(traces, 0, os.SEEK_SET)
    trace = os.read(traces, 1 << 20).decode(errors="replace")
    report(crash(number, trace), trace)
    return EngineError.exit_code


def crash(number: signal.Signals, trace: str) -> EngineError:
    """The error that tells of a crash: which library, and what edgeship had asked of it.

    Args:
        number: The signal that ended the process.
        trace: What Python's fault handler wrote; empty where it could not.
    """
    if number == signal.SIGKILL:
        return EngineError(
            "the process was killed (SIGKILL), as the system does when memory is full",
            do="free memory, or take a smaller batch or fewer frames; the same command goes on from what is finished",
        )
    current = trace.partition("Current thread")[2].partition("\n\n")[0]
    frames = _FRAME.findall(current)
    place = next((index for index, (file, _) in enumerate(frames) if _own(file)), len(frames))
    asked = "".join(f"; called by {file.removeprefix(_HOME)} in {where}" for file, where in frames[place : place + 1])
    library = next((name for file, _ in frames[:place] if (name := _library(file))), "")
    remedy = f"export the model anew or try another version of {library}" if library else "try the steps one by one"
    return EngineError(
        f"{library or 'a native library'} crashed and ended the process ({number.name}){asked}",
        expected="a result, or a refusal in words",
        do=f"{remedy}, and report the file to the library's makers; EDGESHIP_DEBUG=1 shows the whole trace; "
        "the same command continues after what is finished",
    )


def _library(file: str) -> str:
    """The installed package that a source file belongs to, as it is named on import; empty for edgeship's own."""
    inside = file.rpartition("/site-packages/")[2] if "/site-packages/" in file else ""
    name = inside.partition("/")[0].removesuffix(".py")
    return "" if name == "edgeship" else name


def _own(file: str) -> bool:
    return file.startswith(_HOME) and not file.startswith(f"{_HOME}cli/")


def _wait(child: int, passed: set[signal.Signals]) -> int:
    """The wait status of the child. Signals that came to this process alone are passed on to it."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        told = signal.sigwaitinfo(passed | {signal.SIGCHLD})
        # What the terminal sends goes to its whole group, the child too; a hang-up to the session's leader alone.
        from_terminal = told.si_code > 0 and told.si_signo != signal.SIGHUP
        if told.si_signo != signal.SIGCHLD and not from_terminal:
            os.kill(child, told.si_signo)


def _die_with(parent: int) -> None:
    """End this process by SIGKILL when its parent ends, whatever ends it."""
    import ctypes

    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(4)


def _end_by(number: signal.Signals) -> NoReturn:
    """End this process by a signal, so that whoever waits sees what ended the command."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)
