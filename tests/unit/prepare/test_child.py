"""Work in a process of its own."""

from __future__ import annotations

import subprocess
import sys

FROM_STDIN = """
from edgeship.errors import StageError
from edgeship.prepare.child import in_child
try:
    in_child(len, bytes(1 << 22))
except StageError as error:
    print(error)
"""


def test_a_child_that_cannot_begin_is_an_error_and_not_waited_for() -> None:
    """A program without a file, as ``python -``, cannot be imported by its child, which ends at once."""
    done = subprocess.run(
        [sys.executable, "-"], input=FROM_STDIN, capture_output=True, text=True, timeout=60, check=False
    )
    assert "the library ended its process (exit code 1)" in done.stdout, done.stderr
