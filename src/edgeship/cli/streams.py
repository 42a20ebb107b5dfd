"""The standard streams of the command line: they take every sign, and a full disk behind them changes no exit code.

With ``--json`` standard output carries the result alone: :func:`results_alone`.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from edgeship.standard_output import take_stdout

SIGNS = {
    "≤": "<=", "≥": ">=", "→": "->", "←": "<-", "–": "-", "—": "-", "…": "...", "✓": "+", "✗": "x", "×": "x", "±": "+-",
    "µ": "u", "μ": "u", "·": ".", "•": "*", "²": "2", "−": "-", "“": '"', "”": '"', "’": "'", "━": "-", "─": "-",
}  # fmt: skip
"""What stands for a sign where the terminal's encoding lacks it; another sign becomes ``?``."""


class Stream(io.TextIOWrapper):
    """Standard output or standard error. What cannot be written is left out, and ``lost`` says why.

    A verdict stands whether or not somebody reads it, so a closed pipe or a full disk changes no exit code.
    """

    lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; nothing after a failure. Returns the length of the text."""
        if self.lost is None:
            try:
                super().write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush, unless a write failed."""
        if self.lost is None:
            try:
                super().flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # else Python fails again at its end


def prepare_streams() -> None:
    """Put a :class:`Stream` in the place of each standard stream; a closed one leads nowhere."""
    codecs.register_error("edgeship-signs", _replace)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, Stream(io.FileIO(number, "w", closefd=False), "utf-8", write_through=True))
        elif isinstance(stream, io.TextIOWrapper) and not isinstance(stream, Stream):
            stream.flush()
            lines = stream.line_buffering or name == "stderr"
            setattr(sys, name, Stream(stream.buffer, stream.encoding, "edgeship-signs", line_buffering=lines))


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


_RESULTS: list[TextIO] = []
"""The stream of results while :func:`results_alone` lasts."""


def results() -> TextIO:
    """The stream that results as JSON are written to."""
    return _RESULTS[-1] if _RESULTS else sys.stdout


@contextmanager
def results_alone() -> Iterator[None]:
    """Keep standard output for :func:`results` inside the block; all else that is printed goes to standard error.

    All else is the user's modules, tasks and training steps, and libraries: in Python or through the descriptor, in
    this process or in those that it starts.
    """
    if _RESULTS:
        yield
        return
    usual = sys.stdout
    usual.flush()
    told = _twin(usual) if _descriptor(usual) == 1 else usual
    kept = take_stdout()
    _RESULTS.append(told)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        for stream in (sys.stdout, usual, told):  # what was printed by way of ``usual`` leaves it before it leads back
            stream.flush()
        flush_native()
        sys.stdout = usual
        _RESULTS.clear()
        os.dup2(kept, 1)
        os.close(kept)
        if isinstance(told, Stream) and told is not usual:
            told.close()
            if isinstance(usual, Stream):
                usual.lost = usual.lost or told.lost


def _twin(usual: TextIO) -> Stream:
    """A stream to where standard output leads now."""
    raw = io.FileIO(os.dup(1), "w")
    return Stream(io.BufferedWriter(raw), usual.encoding, usual.errors, line_buffering=usual.isatty())


def _descriptor(stream: TextIO) -> int:
    """The file descriptor behind a stream; -1 for one in memory."""
    try:
        return stream.fileno()
    except (OSError, AttributeError):
        return -1


def flush_native() -> None:
    """Write out what C libraries hold of what was printed."""
    if sys.platform != "win32":
        import ctypes

        ctypes.CDLL(None).fflush(None)


def close_streams(*, as_json: bool = False) -> None:
    """Flush what was printed, and say on standard error where it could not be written.

    Args:
        as_json: Whether standard output carried a result as JSON: what is printed while the process ends goes to
            standard error then.
    """
    sys.stdout.flush()
    if as_json:
        os.dup2(2, 1)
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        sys.stderr.write(f"not all of the output could be written: {lost.strerror}\n")
    sys.stderr.flush()
