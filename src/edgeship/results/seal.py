"""The seal of a finished folder: one digest over all its files, so that a changed one is seen before it is believed.

A seal shows damage and edits, not fraud: who can write the folder can seal it anew. What leaves the workstation is
signed in its bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from edgeship.errors import ArtifactError
from edgeship.files import sha256_file, sha256_json
from edgeship.results.base import SCHEMA_VERSION, Result, read, write

SEAL = "seal.json"
UNSEALED = frozenset({SEAL, "lock"})
"""The seal itself, and the lock of whoever works in the folder."""
Hash = Callable[[Path], str]


class Seal(Result):
    """Every file of a finished folder by its hash."""

    schema_version: int = SCHEMA_VERSION
    name: str
    """What is sealed: the stage's name."""
    seconds: float
    """How long the work took."""
    files: dict[str, str]
    """Path relative to the folder → SHA-256."""
    digest: str
    """SHA-256 over the other fields."""


def _digest(name: str, seconds: float, files: dict[str, str]) -> str:
    return sha256_json({"name": name, "seconds": seconds, "files": files})


def _listed(folder: Path) -> list[str]:
    """All files below the folder but the unsealed and the hidden ones, which are leftovers of killed writes."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    hidden = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(path.as_posix() for path in hidden if path.as_posix() not in UNSEALED)


def seal(
    folder: Path, name: str, seconds: float, files: Iterable[str] | None = None, hash_of: Hash = sha256_file
) -> Seal:
    """Seal a folder; written last, so a sealed folder is finished.

    Args:
        folder: Its files must all be there.
        name: What it is.
        seconds: How long the work took.
        files: Only these, in a folder that holds more; default: all.
        hash_of: Hashes a file; one that remembers spares the next run the hashing.

    Raises:
        StorageError: Not writable.
    """
    hashes = {file: hash_of(folder / file) for file in (_listed(folder) if files is None else files)}
    made = Seal(name=name, seconds=seconds, files=hashes, digest=_digest(name, seconds, hashes))
    write(made, folder / SEAL)
    return made


def read_seal(folder: Path) -> Seal:
    """The seal of a folder, which is not compared with its files.

    Raises:
        ArtifactError: There is none, or it is malformed.
    """
    return read(Seal, folder / SEAL)


def fault(folder: Path, hash_of: Hash = sha256_file, *, listed_only: bool = False) -> str:
    """What is wrong with a sealed folder, in words that continue "because"; empty where it is whole.

    Args:
        folder: A folder that is said to be finished.
        hash_of: Hashes a file; one that remembers makes an unchanged folder quick.
        listed_only: The folder may hold files beside those that the seal names.
    """
    try:
        found = read_seal(folder)
    except ArtifactError:
        state = "damaged" if (folder / SEAL).is_file() else "missing"
        return f"its {SEAL} is {state}"
    if found.digest != _digest(found.name, found.seconds, found.files):
        return f"its {SEAL} was changed"
    present = set(found.files) if listed_only else {*found.files, *_listed(folder)}
    for file in sorted(present):
        path = folder / file
        if file not in found.files:
            return f"{file} was added"
        if not path.is_file() or path.is_symlink():
            return f"{file} is missing"
        if hash_of(path) != found.files[file]:
            return f"{file} has changed"
    return ""


def require_sealed(folder: Path, *, listed_only: bool = False) -> Seal:
    """The seal of a folder that is as it was when it was finished.

    Raises:
        ArtifactError: A file was changed, added or removed since.
    """
    wrong = fault(folder, listed_only=listed_only)
    if wrong:
        raise ArtifactError(
            f"{folder} is not as the run left it: {wrong}",
            expected="every file as it was sealed",
            do="run edgeship ship again: what has changed is made again",
        )
    return read_seal(folder)
