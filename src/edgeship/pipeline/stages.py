"""The work folder: a stage runs once for one key, and a killed run continues.

A key is the hash of everything that goes into a stage: settings, the hashes of files, versions. A stage works in a
temporary folder that is renamed when its result is written; a trial, which resumes by itself, works in place.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from edgeship.config import Config
from edgeship.errors import ArtifactError, EdgeshipError
from edgeship.files import Hasher, finished_folder, sha256_file, sha256_json
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Result, StageRun, read, write
from edgeship.version import __version__

R = TypeVar("R", bound=Result)
KEY_LENGTH = 16


@dataclass(frozen=True)
class Stage(Generic[R]):
    """One step: what came before plus the config in, one result out.

    ``key`` says what the result depends on; ``work`` writes files into the folder it is given and returns the
    result. ``in_place``: the work resumes by itself in its folder and leaves ``finished`` there when it is done.
    """

    name: str
    result: type[R]
    key: Callable[[Run], Any]
    work: Callable[[Run, Path], R]
    in_place: bool = False
    file: str = "result.json"
    keep: Callable[[R], bool] = lambda result: True
    """Whether a stored result is good enough to be reused: a trial that crashed is tried again."""


@dataclass
class Run:
    """A run under way: the config, the work folder and the results so far."""

    config: Config
    folder: Path
    progress: Progress = silent
    on_stage: Callable[[str, StageRun | None], None] = lambda name, run: None
    """Told the name when a stage begins (None), and how it went when it ends."""
    hasher: Hasher = field(default_factory=Hasher)
    results: dict[str, Result] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    stages: list[StageRun] = field(default_factory=list)
    locks: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))
    """By stage: targets that are tried side by side share the stages that make graphs."""
    machines: dict[tuple[str | None, ...], dict[str, Any]] = field(default_factory=dict)
    """By target: what its trials are bound to, as it said in this run."""

    def result(self, name: str, kind: type[R]) -> R:
        """The result of an earlier stage."""
        value = self.results[name]
        assert isinstance(value, kind)
        return value

    def path(self, name: str, file: str) -> Path:
        """A file of an earlier stage."""
        return self.folders[name] / file


def execute(run: Run, stages: Sequence[Stage[Any]]) -> None:
    """Run the stages in order. See :func:`execute_one`."""
    for stage in stages:
        execute_one(run, stage)


def execute_one(run: Run, stage: Stage[R]) -> R:
    """Run a stage, or take its stored result when nothing that goes into it has changed.

    Raises:
        EdgeshipError: What the stage raised, with the stage and the finished ones before it noted.
    """
    return execute_in(run, stage)[0]


def execute_in(run: Run, stage: Stage[R]) -> tuple[R, Path]:
    """The result of :func:`execute_one` and its folder, also where another thread runs the stage with another key."""
    with run.locks[stage.name]:
        return _execute(run, stage)


def _execute(run: Run, stage: Stage[R]) -> tuple[R, Path]:
    start = time.perf_counter()
    run.on_stage(stage.name, None)
    try:
        key = sha256_json({"stage": stage.name, "in": stage.key(run), "edgeship": source_digest()})[:KEY_LENGTH]
        folder = run.folder / "stages" / f"{stage.name.replace('/', '-').replace(':', '-')}-{key}"
        if run.folders.get(stage.name) == folder:
            return run.result(stage.name, stage.result), folder
        result = _stored(run, folder / stage.file, stage.result)
        if result is not None and not stage.keep(result):
            (folder / stage.file).unlink()
            result = None
        cached = result is not None
        if result is None:
            result = _work(run, stage, folder)
    except EdgeshipError as error:
        if error.stage is None:
            error.stage = stage.name
            error.finished = tuple(item.name for item in run.stages)
        raise
    done = StageRun(
        name=stage.name,
        seconds=time.perf_counter() - start,
        cached=cached,
        folder=folder.relative_to(run.folder).as_posix(),
    )
    run.results[stage.name], run.folders[stage.name] = result, folder
    run.stages.append(done)
    run.hasher.save()
    run.on_stage(stage.name, done)
    return result, folder


def _stored(run: Run, path: Path, kind: type[R]) -> R | None:
    """A stage's finished result; None where there is none, or where it or a file that it names is damaged."""
    if not path.is_file():
        return None
    try:
        result = read(kind, path)
    except ArtifactError:
        return None
    return result if all(_whole(run, path.parent / item.path, item) for item in _artifacts(result)) else None


def _artifacts(result: Result) -> list[Artifact]:
    return [value for _, value in result if isinstance(value, Artifact)]


def _whole(run: Run, path: Path, said: Artifact) -> bool:
    return path.is_file() and path.stat().st_size == said.size_bytes and run.hasher.file(path) == said.sha256


def _work(run: Run, stage: Stage[R], folder: Path) -> R:
    if stage.in_place:
        folder.mkdir(parents=True, exist_ok=True)
        return stage.work(run, folder)
    with finished_folder(folder) as temporary:
        result = stage.work(run, temporary)
        write(result, temporary / stage.file)
    return read(type(result), folder / stage.file)


@functools.lru_cache(maxsize=1)
def source_digest() -> str:
    """Version and hash of edgeship's own code: a changed edgeship trusts no stage of another one."""
    root = Path(__file__).resolve().parents[1]
    files = [(str(path.relative_to(root)), sha256_file(path)) for path in sorted(root.rglob("*.py"))]
    return f"{__version__}-{sha256_json(files)[:12]}"


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of packages, read without importing them; absent ones are left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
