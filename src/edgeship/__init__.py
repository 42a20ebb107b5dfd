"""edgeship: from a PyTorch vision model to an engine that may ship, with evidence."""

from __future__ import annotations

__version__ = "0.1.0"
