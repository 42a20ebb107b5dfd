"""Whether a finished run would end as it did, asked before anything heavy is imported.

A run notes when it ends how every file stands that went in or came out, what is installed and what the machine is.
Asked for the same again in the same folder, ``edgeship ship`` says the verdict that stands there while all of that
agrees. A file agrees by its size, inode and times; the time of change is the kernel's own, which no program sets. A
folder agrees by the names in it, so that a file which was not there is seen too. Whatever differs, even in vain, leads
to an ordinary run, which compares contents.

The note shows changes, not fraud: who can write the work folder can write it too. What leaves the workstation is
hashed whole, as ``verify``, ``bundle`` and the runtime do it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship.commit import commit_of
from edgeship.engines import processor
from edgeship.errors import EdgeshipError
from edgeship.files import read_bytes, sha256_json, write_text

NOTE = "stages/unchanged.json"
"""In the work folder; a run that begins removes it."""
RESULT = "result.json"
CHANGING = ("lock", "hashes.json", "stages/times.json", NOTE)
"""Files of the work folder that a run which reuses everything writes all the same."""
SETTINGS = ("PYTHONPATH", "SOURCE_DATE_EPOCH", "OMP_NUM_THREADS", "COLUMNS", "LANG", "LC_ALL", "TZ", "PATH")
"""Variables of the environment that count beside those of edgeship's own."""
PACKAGE = Path(__file__).resolve().parent
PATHS = tuple(sys.path[1:])
"""Where packages are imported from, as this process began: libraries add to it while they work."""


@dataclass(frozen=True)
class Asked:
    """What was asked for: the config file, settings that replace its own, and the screen that is written to."""

    config: Path
    changes: tuple[str, ...]
    screen: tuple[bool, int]
    """Whether it is a terminal, and its width."""


def note(folder: Path, looked_at: Iterable[str], stages: Iterable[str], root: Path) -> None:
    """Write how everything stands; :func:`complete` makes it an answer.

    Args:
        folder: The work folder of a run that has ended.
        looked_at: Every file that the run hashed.
        stages: The folders of its stages, relative to ``folder``.
        root: The config's folder.
    """
    files = {str(Path(path).absolute()) for path in looked_at}
    files |= {str(path) for path in _left(folder.absolute(), stages)} | {str(path) for path in _own()}
    known = {path: stamp for path in sorted(files) if (stamp := _stamp(path)) is not None}
    listed = _around(known, root.resolve(), folder.absolute())
    write_text(
        folder / NOTE,
        json.dumps(
            {
                "files": known,
                "folders": {place: _names(place) for place in listed},
                "installed": _installed(),
                "machine": machine(root),
                "root": str(root),
            }
        ),
    )


def complete(folder: Path, asked: Asked, said: str) -> None:
    """Add to the note what was asked for and how it was answered; nothing where there is no note."""
    found = _read(folder)
    if found is not None:
        stands = {"asked": _asked(asked), "said": said, "result": _stamp(folder / RESULT)}
        made = {**found, **stands}
        write_text(folder / NOTE, json.dumps({**made, "digest": sha256_json(made)}))


def answered(folder: Path, asked: Asked) -> str | None:
    """What the run said whose verdict stands in ``folder``; None where anything is not as it was then."""
    found = _read(folder)
    if found is None or found.pop("digest", None) != sha256_json(found):
        return None
    same = (
        found.get("asked") == _asked(asked)
        and found.get("result") == _stamp(folder / RESULT)
        and all(_stamp(path) == stamp for path, stamp in found["files"].items())
        and all(_names(place) == names for place, names in found["folders"].items())
        and found["installed"] == _installed()
        and found["machine"] == json.loads(json.dumps(machine(Path(found["root"]))))
    )
    return str(found["said"]) if same else None


def machine(root: Path) -> dict[str, Any]:
    """The processor and system, the interpreter, variables of the environment and the commit of the config's folder."""
    variables = {name: value for name, value in os.environ.items() if name in SETTINGS or name.startswith("EDGESHIP_")}
    return {
        "facts": processor.facts(),
        "system": platform.release(),
        "python": [sys.version, sys.executable, PATHS],
        "variables": variables,
        "commit": commit_of(root),
    }


def _asked(asked: Asked) -> Any:
    config = asked.config / "edgeship.toml" if asked.config.is_dir() else asked.config
    return [str(config.absolute()), _stamp(config), list(asked.changes), list(asked.screen), str(Path.cwd())]


def _read(folder: Path) -> dict[str, Any] | None:
    """The note, where this user wrote it: what it says is printed as it stands."""
    try:
        if (folder / NOTE).lstat().st_uid != os.geteuid():
            return None
        found = json.loads(read_bytes(folder / NOTE, follow=False))
    except (OSError, ValueError, RecursionError, EdgeshipError):
        return None
    return found if isinstance(found, dict) else None


def _left(folder: Path, stages: Iterable[str]) -> list[Path]:
    """What the run left: the files of its stages, of its bundles, and those that stand beside them."""
    places = [folder / stage for stage in dict.fromkeys(stages)]
    places += [path for path in folder.iterdir() if path.is_dir() and (path / "manifest.json").is_file()]
    inside = [path for place in places for path in place.rglob("*")]
    beside = [*folder.iterdir(), *(folder / "stages").iterdir()]
    own = {folder / name for name in CHANGING}
    hidden = (path for path in (*inside, *beside) if path.is_file() and not path.name.startswith("."))
    return [path for path in hidden if path not in own and path.name != "lock"]


def _own() -> list[Path]:
    """edgeship's own files."""
    return [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _around(files: Mapping[str, Any], root: Path, folder: Path) -> list[str]:
    """The folders of files and those above them that may hold labels or settings; not those above the config's."""
    places = {Path(path).parent for path in files} | {root}
    places |= {place.parent for place in places if place != root and place not in (folder, folder.parent)}
    return sorted(str(place) for place in places if place.is_dir())


def _names(place: str) -> str | None:
    """A hash of the names in a folder but for hidden and compiled files, a database's own, and locks."""
    try:
        with os.scandir(place) as found:
            names = sorted(entry.name for entry in found)
    except OSError:
        return None
    left_out = ("__pycache__", *(Path(name).name for name in CHANGING))
    kept = [
        name
        for name in names
        if name not in left_out and not name.startswith(".") and not name.endswith(("-journal", "-wal", "-shm"))
    ]
    return sha256_json(kept)


def _installed() -> dict[str, Sequence[int] | None]:
    """How the folders stand that packages are imported from: installing one changes them."""
    return {place: _stamp(place) for place in PATHS if Path(place).is_dir()}


def _stamp(path: str | Path) -> list[int] | None:
    """Size, times of modification and of change in ns, inode; None where nothing is there."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
