"""What every result is made of: frozen values, files by hash, JSON both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeship.config import Dim
from edgeship.errors import ArtifactError
from edgeship.files import parse_json, read_text, sha256_file, write_text

SCHEMA_VERSION = 1
VerdictWord = Literal["SHIP", "NO-SHIP", "INCONCLUSIVE"]
Outcome = Literal["pass", "fail", "inconclusive"]


class Result(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


R = TypeVar("R", bound=Result)


class Artifact(Result):
    """A file, by its path relative to the JSON that names it."""

    path: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path, folder: Path) -> Artifact:
        """Describe the file ``path`` below ``folder``."""
        return cls(path=path.relative_to(folder).as_posix(), sha256=sha256_file(path), size_bytes=path.stat().st_size)


class TensorInfo(Result):
    """A tensor as the artifact names it. A string in ``shape`` is a dynamic axis; ``dtype`` is numpy's name."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


def write(result: Result, path: Path) -> None:
    """Write a result as JSON, atomically."""
    write_text(path, result.model_dump_json(indent=2) + "\n")


def read(kind: type[R], path: Path) -> R:
    """Read a result.

    Raises:
        ArtifactError: Absent, not a regular file, malformed, or of another schema version.
    """
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} does not exist",
            expected=f"a {kind.__name__} result in JSON",
            do="check the path; the stage that writes it may have failed",
        ) from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not text: {error}", expected=f"a {kind.__name__} result in JSON") from None
    try:
        parse_json(text)
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not a {kind.__name__} result: {error}",
            expected="JSON with each key once and finite numbers",
            do="run the stage that writes it again",
        ) from None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ArtifactError(
            f"{path} is not a {kind.__name__} result: {where}: {first['msg']}",
            expected=f"schema version {SCHEMA_VERSION}",
            do="run the stage that writes it again with this version of edgeship",
        ) from None
