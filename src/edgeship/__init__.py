"""edgeship: from a PyTorch vision model to an engine that may ship, with evidence."""

from __future__ import annotations

from edgeship.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgeship.bundle.trust import Trust
    from edgeship.runtime.model import load

__all__ = ["Trust", "__version__", "load"]
_HOME = {"Trust": "edgeship.bundle.trust", "load": "edgeship.runtime.model"}


def __getattr__(name: str) -> object:
    """``edgeship.load`` and ``edgeship.Trust`` without loading numpy at ``import edgeship``."""
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgeship' has no attribute {name!r}")
