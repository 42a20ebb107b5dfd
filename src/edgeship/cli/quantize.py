"""Commands: see the docstring of each."""

from __future__ import annotations
