"""The user's Python code as part of a stage's key: the files beside the config, and what they take from elsewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.data.reference import is_reference
from edgeship.files import sha256_json
from edgeship.pipeline.stages import Run, versions

if TYPE_CHECKING:
    from importlib.metadata import Distribution

INSTALLED = frozenset({"site-packages", "dist-packages"})


def code_hashes(run: Run, *values: str | Path | None) -> dict[str, Any]:
    """The user's code that ``module:callable`` values may run; empty when none of the values is one."""
    named = [str(value) for value in values if value is not None and is_reference(value)]
    return source_hashes(run, *named) if named else {}


def source_hashes(run: Run, *references: str) -> dict[str, Any]:
    """The Python files beside the config and those of packages there, by their hashes, and each module from elsewhere
    that these files import or that a ``module:callable`` of ``references`` names, by what :func:`_elsewhere` tells.
    """
    root = run.config.root
    found = sorted(root.glob("*.py"))
    for package in sorted({path.parent for path in root.glob("*/*.py")}):
        found += sorted(package.rglob("*.py"))
    hashes: dict[str, Any] = {path.relative_to(root).as_posix(): run.hasher.file(path) for path in found}
    here = {path.relative_to(root).parts[0].removesuffix(".py") for path in found}
    names = {reference.partition(":")[0].partition(".")[0] for reference in references}
    names.update(*(_imports(path) for path in found))
    return hashes | {f"import {name}": _elsewhere(run, name) for name in sorted(names - here - sys.stdlib_module_names)}


def _imports(path: Path) -> set[str]:
    """The top-level modules that a file imports anywhere; none where it is not Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _elsewhere(run: Run, name: str) -> Any:
    """A module outside the config's folder: the versions of the installed packages that bring it, or the hash of its
    Python files where it is installed in place or lies on the Python path. None where it is not found.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    origin = spec.origin or ""
    places = [Path(place) for place in spec.submodule_search_locations or ()] or [Path(origin)]
    if any(INSTALLED & set(place.parts) for place in places):
        told = versions(name) or versions(*_distributions(name))
        if told:
            return told
    return sha256_json([(str(path), run.hasher.file(path)) for place in places for path in _python(place)])


def _distributions(name: str) -> tuple[str, ...]:
    """The installed packages that bring a module of another name, such as ``PIL``.

    Their lists of files are read as text: ``importlib.metadata.packages_distributions`` makes an object of every file
    of every package, which took a second of a run that reuses all.
    """
    from importlib.metadata import distributions

    return tuple(sorted({str(found.metadata["Name"]) for found in distributions() if _brings(found, name)}))


def _brings(found: Distribution, name: str) -> bool:
    """Whether a package brings the module ``name``: as it declares, else by its files."""
    declared = (found.read_text("top_level.txt") or "").split()
    if declared:
        return name in declared
    record = found.read_text("RECORD")
    listed = (str(path) for path in found.files or ()) if record is None else record.splitlines()
    pattern = re.compile(rf"{re.escape(name)}(/.*)?(\.[\w-]+)*\.(py|so|pyd)(,|$)")
    return any(line.startswith(name) and pattern.match(line) is not None for line in listed)


def _python(place: Path) -> Iterable[Path]:
    return sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.is_file() else []
