"""``module:callable`` values of the config."""

from __future__ import annotations

import functools
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeship.errors import DataError, EdgeshipError

INSTALLED = frozenset({"site-packages", "dist-packages"})


def is_reference(value: str | Path) -> bool:
    """Whether a value is ``module:callable`` rather than a path or a known name."""
    module, separator, name = str(value).partition(":")
    return bool(separator) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def resolve(reference: str | Path) -> Callable[..., Any]:
    """Import what ``module:callable`` names, from the Python path or the working folder.

    Raises:
        DataError: The module does not import, or has no such callable. The callable raises it too, for whatever the
            user's code raises.
    """
    module, _, name = str(reference).partition(":")
    own = own_places()
    with importable(Path.cwd()):
        try:
            found = getattr(import_own(module, [*own, str(Path.cwd())]), name, None)
        except EdgeshipError:
            raise
        except (Exception, SystemExit) as error:  # the user's code: it may raise anything, and must not end the process
            kind = "" if isinstance(error, ImportError | SyntaxError) else f"{type(error).__name__}: "
            raise DataError(
                f"{reference}: {module} cannot be imported: {kind}{error}{_place(error)}",
                do="check the name, or put its folder on PYTHONPATH",
            ) from error
    if not callable(found):
        raise DataError(f"{reference}: {module} has no callable {name!r}", do="name a function of that module")

    @functools.wraps(found, updated=())
    def guarded(*arguments: Any) -> Any:
        with user_code(reference):
            return found(*arguments)

    return guarded


def call(reference: str | Path, *arguments: Any) -> Any:
    """Import and call ``module:callable``."""
    return resolve(reference)(*arguments)


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported, after everything that is installed: none of its files hides a module that
    edgeship or its libraries need."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.reverse()
            sys.path.remove(str(folder))
            sys.path.reverse()


def import_own(name: str, places: Sequence[str]) -> ModuleType:
    """Import a module that the user names: from the first of ``places`` that has it, else as it is installed.

    Raises:
        DataError: Their file has the name of a module that Python or an installed package brings and that is in use.
        Exception: Whatever the module raises.
    """
    top = name.partition(".")[0]
    spec = PathFinder.find_spec(top, places)
    if spec is None or spec.loader is None:
        return importlib.import_module(name)
    loaded = sys.modules.get(top)
    if loaded is not None and _origin(loaded) == spec.origin:
        return importlib.import_module(name)
    if top in sys.stdlib_module_names or (loaded is not None and INSTALLED & set(Path(_origin(loaded)).parts)):
        raise DataError(
            f"{spec.origin or top} has the name of another module: {_origin(loaded) or 'one of Python itself'}",
            do="rename the file, and what names it in the config",
        )
    for key in [key for key in sys.modules if key == top or key.startswith(f"{top}.")]:
        del sys.modules[key]
    sys.modules[top] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[top])
    except BaseException:
        sys.modules.pop(top, None)
        raise
    return importlib.import_module(name)


def _origin(module: ModuleType | None) -> str:
    return getattr(module, "__file__", None) or ""


def own_places() -> list[str]:
    """The entries of the Python path that hold neither Python itself nor installed packages, the last one first: what
    was made :func:`importable` comes before what stood in ``PYTHONPATH``."""
    paths = sysconfig.get_paths()
    python = {paths["stdlib"], paths["platstdlib"], sysconfig.get_config_var("DESTSHARED") or ""}
    others = [place for place in reversed(sys.path) if place and place not in python]
    return [place for place in others if not INSTALLED & set(Path(place).parts)]


@contextmanager
def user_code(reference: str | Path) -> Iterator[None]:
    """Tell what the user's code raises as theirs, with the file and the line.

    Raises:
        DataError: It raised something that is not an error of edgeship's own.
    """
    try:
        yield
    except EdgeshipError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(
            f"{reference} raised {type(error).__name__}: {error}{_place(error)}",
            do="fix it there; nothing was judged",
        ) from error


def _place(error: BaseException) -> str:
    """The line of the user's file that raised, or that called what raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours, python = str(Path(__file__).resolve().parents[1]), sysconfig.get_paths()["stdlib"]
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith((ours, python)) and not INSTALLED & set(Path(frame.filename).parts)
    ]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
