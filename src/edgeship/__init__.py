"""edgeship: from a PyTorch vision model to an engine that may ship, with evidence.

``ship``, ``check`` and ``open_run`` do on a workstation what the commands of these names do; ``load`` opens a bundle in
the vehicle's program, with ``Trust`` in what signed it.
"""

from __future__ import annotations

from edgeship.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgeship.api import check, open_run, ship
    from edgeship.bundle.trust import Trust
    from edgeship.runtime.model import load

__all__ = ["Trust", "__version__", "check", "load", "open_run", "ship"]
_PLACES = {
    "Trust": "edgeship.bundle.trust",
    "load": "edgeship.runtime.model",
    "ship": "edgeship.api",
    "check": "edgeship.api",
    "open_run": "edgeship.api",
}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for: ``import edgeship`` loads nothing heavy."""
    if name in _PLACES:
        import importlib

        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'edgeship' has no attribute {name!r}")
