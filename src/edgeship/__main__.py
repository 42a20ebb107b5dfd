"""``python -m edgeship``."""

import sys

if not getattr(sys.flags, "safe_path", False) and not __file__.startswith(sys.path[0]):
    del sys.path[0]  # the working folder: a file in it must not hide a module that edgeship needs

from edgeship.cli import main

main()
