"""``python -m edgeship``."""

from edgeship.cli import main

main()
