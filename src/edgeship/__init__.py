"""edgeship: from a PyTorch vision model to an engine that may ship, with evidence."""

from __future__ import annotations

from edgeship.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgeship.runtime.model import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """``edgeship.load`` without loading numpy at ``import edgeship``."""
    if name == "load":
        import importlib

        return importlib.import_module("edgeship.runtime.model").load
    raise AttributeError(f"module 'edgeship' has no attribute {name!r}")
