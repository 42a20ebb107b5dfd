"""edgeship: from a PyTorch vision model to an engine that may ship, with evidence."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgeship.runtime import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """``edgeship.load`` without loading numpy at ``import edgeship``."""
    if name == "load":
        import importlib

        return importlib.import_module("edgeship.runtime").load
    raise AttributeError(f"module 'edgeship' has no attribute {name!r}")
