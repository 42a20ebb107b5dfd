"""The standard streams of the command line: they take every sign, and a full disk behind them changes no exit code."""

from __future__ import annotations

import codecs
import io
import os
import sys

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


def close_streams() -> None:
    """Flush what was printed, and say on standard error where it could not be written."""
    sys.stdout.flush()
    lost = getattr(sys.stdout, "lost", None)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        sys.stderr.write(f"not all of the output could be written: {lost.strerror}\n")
    sys.stderr.flush()
