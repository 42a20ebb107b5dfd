"""Standard output for our own lines alone: models, plugins and libraries print too."""

from __future__ import annotations

import os


def take_stdout() -> int:
    """A new descriptor of standard output; what anything prints from now on goes to standard error."""
    own = os.dup(1)
    os.dup2(2, 1)
    return own
