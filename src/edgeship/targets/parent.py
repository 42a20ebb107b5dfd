"""A process that ends with the one that started it, also where that one is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable


def stop_kindly() -> None:
    """Stop this process as SIGTERM does: what it runs elsewhere ends too."""
    os.kill(os.getpid(), signal.SIGTERM)


def end_with_stdin(end: Callable[[], None] = stop_kindly) -> None:
    """Call ``end`` once standard input closes: whoever started us holds its other end, and never writes to it."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        end()

    threading.Thread(target=watch, daemon=True).start()
