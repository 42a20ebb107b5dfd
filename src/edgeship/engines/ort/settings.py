"""How a session of one file runs on the CPU: threads, spinning, arenas, denormals. The file says it itself.

A trial that is asked to (``target.tune``) times the choices and marks the engine's file with the one that won, in a
metadata entry; whoever opens the file then, in the trial or on the vehicle, gets the session that was timed. A file
without a mark opens as onnxruntime has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship.engines.onnx_file import opened, opened_bytes, read_metadata, with_metadata
from edgeship.errors import ModelError
from edgeship.files import CHUNK, replacing

KEY = "edgeship.session"
MOST_THREADS = 1024
_FORM = re.compile(r"threads=([0-9]{1,4}) spinning=([01]) arena=([01]) flush_denormals=([01])")


@dataclass(frozen=True)
class Settings:
    """What onnxruntime leaves to its user on the CPU; the defaults are its own.

    Args:
        threads: Of one inference; 0: as the target has it.
        spinning: Whether a thread that waits for work spins for a while before it sleeps.
        arena: Whether the session keeps memory in an arena of its own.
        flush_denormals: Whether numbers too small to be normal count as zero.
    """

    threads: int = 0
    spinning: bool = True
    arena: bool = True
    flush_denormals: bool = False

    def text(self) -> str:
        """As the mark has it: ``threads=2 spinning=0 arena=1 flush_denormals=0``."""
        flags = {"spinning": self.spinning, "arena": self.arena, "flush_denormals": self.flush_denormals}
        return " ".join([f"threads={self.threads}", *(f"{name}={int(value)}" for name, value in flags.items())])

    def apply(self, options: Any) -> None:
        """Put them into onnxruntime's SessionOptions; a number of threads that is asked for there stays."""
        options.intra_op_num_threads = options.intra_op_num_threads or self.threads
        if not self.spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not self.arena:
            options.enable_cpu_mem_arena = False
        if self.flush_denormals:
            options.add_session_config_entry("session.set_denormal_as_zero", "1")


OWN = Settings()
"""onnxruntime's own choice."""


def settings_of(source: str | bytes) -> Settings:
    """What an ONNX file (its path, or its bytes) is marked with; :data:`OWN` without a mark.

    Raises:
        ModelError: Not ONNX, or the mark is none that :meth:`Settings.text` writes.
    """
    with opened(Path(source)) if isinstance(source, str) else opened_bytes(source, "the model") as model:
        mark = read_metadata(model).get(KEY)
    if mark is None:
        return OWN
    found = _FORM.fullmatch(mark)
    if found is None or int(found[1]) > MOST_THREADS:
        raise ModelError(
            f"the file is marked {KEY} = {mark[:80]!r}", expected=f"a mark such as {OWN.text()!r}", do="build it again"
        )
    threads, spinning, arena, flush = (int(part) for part in found.groups())
    return Settings(threads, bool(spinning), bool(arena), bool(flush))


def mark(path: Path, settings: Settings) -> None:
    """Mark an ONNX file, atomically. Raises StorageError."""
    entry = with_metadata(b"", KEY, settings.text())
    with path.open("rb") as source, replacing(path) as sink:
        while chunk := source.read(CHUNK):
            sink.write(chunk)
        sink.write(entry)
