"""``module:callable`` values of the config."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeship.errors import DataError


def is_reference(value: str | Path) -> bool:
    """Whether a value is ``module:callable`` rather than a path or a known name."""
    module, separator, name = str(value).partition(":")
    return bool(separator) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def resolve(reference: str | Path) -> Callable[..., Any]:
    """Import what ``module:callable`` names, from the Python path or the working folder.

    Raises:
        DataError: The module does not import, or has no such callable.
    """
    module, _, name = str(reference).partition(":")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (ImportError, SyntaxError) as error:
        raise DataError(
            f"{reference}: {module} cannot be imported: {error}", do="check the name, or put its folder on PYTHONPATH"
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise DataError(f"{reference}: {module} has no callable {name!r}", do="name a function of that module")
    return found  # type: ignore[no-any-return]


def call(reference: str | Path, *arguments: Any) -> Any:
    """Import and call ``module:callable``."""
    return resolve(reference)(*arguments)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let ``module:callable`` of a config's folder be imported, here and in processes that are started meanwhile."""
    before = os.environ.get("PYTHONPATH")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
