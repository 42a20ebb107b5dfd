"""Stages and steps: what a workflow is made of, and how a run goes through it.

A stage runs once for one key, and a killed run continues. A key is the hash of everything that goes into a stage:
settings, the hashes of files, versions. A stage works in a temporary folder that is renamed when its result is
written; a trial, which resumes by itself, works in place. A finished stage is sealed: where one of its files is not as
it was left, it is made again, and that is said. A step runs in every run and keeps nothing.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pydantic import BaseModel

from edgeship.config import Config
from edgeship.errors import ArtifactError, EdgeshipError
from edgeship.files import Hasher, finished_folder, sha256_file, sha256_json, storage_errors
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.progress import Progress, silent
from edgeship.results import Result, StageRun, read, write
from edgeship.results.seal import SEAL, fault, seal
from edgeship.version import __version__

if TYPE_CHECKING:
    from edgeship.qat.team import Team

R = TypeVar("R", bound=Result)
T = TypeVar("T")
KEY_LENGTH = 16
SAVE_EVERY_S = 10.0
"""Hashes of files are written so often, and when the run ends: a killed run hashes what is newer once more."""


@dataclass(frozen=True)
class Stage(Generic[R]):
    """What came before plus the config in, one result out, which is kept.

    Args:
        name: Unique in a run.
        result: The type of its result.
        key: What the result depends on.
        work: Writes files into the folder it is given and returns the result.
        needed: Whether a run needs it.
        in_place: The work resumes by itself in its folder and writes ``file`` when it is done.
        file: The result's name in the folder.
        keep: Why a stored result is not good enough to be reused, as that of a trial that crashed; empty: it is.
    """

    name: str
    result: type[R]
    key: Callable[[Run], Any]
    work: Callable[[Run, Path], R]
    needed: Callable[[Run], bool] = lambda run: True
    in_place: bool = False
    file: str = "result.json"
    keep: Callable[[Run, R], str] = lambda run, result: ""


@dataclass(frozen=True)
class Step(Generic[T]):
    """What came before plus the config in, one result out, made anew in every run."""

    name: str
    work: Callable[[Run], T]


Workflow = tuple[Stage[Any] | Step[Any], ...]


@dataclass
class Run:
    """A run under way: the config, the work folder and the results so far."""

    config: Config
    folder: Path
    progress: Progress = silent
    on_stage: Callable[[str, StageRun | None], None] = lambda name, run: None
    """Told the name when a stage begins (None), and how it went when it ends."""
    hasher: Hasher = field(default_factory=Hasher)
    results: dict[str, Any] = field(default_factory=dict)
    """By the name of the stage or step; read them with :meth:`result`."""
    folders: dict[str, Path] = field(default_factory=dict)
    targets: list[TargetTrials] = field(default_factory=list)
    """The trials of every target, in the config's order."""
    stages: list[StageRun] = field(default_factory=list)
    locks: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))
    """By stage: targets that are tried side by side share the stages that make graphs."""
    dry: bool = False
    """Reuse what is there; a stage that would have to work raises :class:`WouldRun`."""
    notes: list[str] = field(default_factory=list)
    """What went wrong beside the verdict and does not change it, in sentences."""
    machines: dict[tuple[str | None, ...], dict[str, Any]] = field(default_factory=dict)
    """By target: what its trials are bound to, as it said in this run."""
    team: Team | None = None
    """The processes that train together, where several were started."""

    @overload
    def result(self, stage: Stage[R]) -> R: ...
    @overload
    def result(self, stage: Step[T]) -> T: ...
    def result(self, stage: Stage[Any] | Step[Any]) -> Any:
        """The result of an earlier stage or step."""
        return self.results[stage.name]

    def path(self, stage: Stage[Any], file: str) -> Path:
        """A file of an earlier stage."""
        return self.folders[stage.name] / file


class WouldRun(Exception):
    """The first stage of a dry run whose work is not there yet; its text is the stage's name."""


def execute(run: Run, workflow: Workflow) -> None:
    """Go through a workflow in order; stages that the run does not need are left out.

    Raises:
        EdgeshipError: What a stage or step raised, with its name and the stages that were finished before it.
    """
    for item in workflow:
        if isinstance(item, Step):
            with _named(run, item.name):
                run.results[item.name] = item.work(run)
        elif item.needed(run):
            execute_one(run, item)


@contextmanager
def _named(run: Run, name: str) -> Iterator[None]:
    """Note the stage and the finished ones before it in an error that names none yet."""
    try:
        yield
    except EdgeshipError as error:
        if error.stage is None:
            error.stage = name
            error.finished = tuple(item.name for item in run.stages)
        raise


def execute_one(run: Run, stage: Stage[R]) -> R:
    """Run a stage, or take its stored result when nothing that goes into it has changed.

    Raises:
        EdgeshipError: What the stage raised, with the stage and the finished ones before it noted.
    """
    return execute_in(run, stage)[0]


def execute_in(run: Run, stage: Stage[R]) -> tuple[R, Path]:
    """The result of :func:`execute_one` and its folder, also where another thread runs the stage with another key."""
    with run.locks[stage.name], _named(run, stage.name):
        start = time.perf_counter()
        run.on_stage(stage.name, None)
        key = sha256_json({"stage": stage.name, "in": stage.key(run), "edgeship": source_digest()})[:KEY_LENGTH]
        folder = run.folder / "stages" / f"{stage.name.replace('/', '-').replace(':', '-')}-{key}"
        if run.folders.get(stage.name) == folder:
            return run.result(stage), folder
        result, again = _stored(run, stage, folder)
        cached = result is not None
        if result is None:
            if run.dry:
                raise WouldRun(stage.name)
            result = _work(run, stage, folder)
        seconds, place = time.perf_counter() - start, folder.relative_to(run.folder).as_posix()
        done = StageRun(name=stage.name, seconds=seconds, cached=cached, folder=place, again=again)
        run.results[stage.name], run.folders[stage.name] = result, folder
        run.stages.append(done)
        run.hasher.save(every_s=SAVE_EVERY_S)
        run.on_stage(stage.name, done)
        return result, folder


def _stored(run: Run, stage: Stage[R], folder: Path) -> tuple[R | None, str]:
    """A stage's finished result, or None; then, where it was finished, why it is not taken over.

    A folder that is not whole is removed, so that nothing of it is taken over.
    """
    if not (folder / stage.file).exists() and not (folder / SEAL).exists():
        return None, ""
    wrong = fault(folder, run.hasher.file) and fault(folder)
    if not wrong:
        try:
            result = read(stage.result, folder / stage.file)
        except ArtifactError:
            wrong = f"{stage.file} cannot be read"
        else:
            wanting = stage.keep(run, result)
            if not wanting:
                return result, ""
            if not run.dry:
                reopen(folder, stage.file)
            return None, wanting
    if run.dry:
        return None, wrong
    with storage_errors(folder):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink()
    return None, wrong


def reopen(folder: Path, file: str) -> None:
    """Take the seal and the result from a finished folder, so that its work goes on where it can."""
    with storage_errors(folder):
        for name in (SEAL, file):
            (folder / name).unlink(missing_ok=True)


def _work(run: Run, stage: Stage[R], folder: Path) -> R:
    start = time.perf_counter()
    if stage.in_place:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        result = stage.work(run, folder)
        seal(folder, stage.name, time.perf_counter() - start, hash_of=run.hasher.file)
        return result
    with finished_folder(folder) as temporary:
        result = stage.work(run, temporary)
        write(result, temporary / stage.file)
        seal(temporary, stage.name, time.perf_counter() - start, hash_of=run.hasher.file)
    run.hasher.moved(temporary, folder)
    return read(type(result), folder / stage.file)


@functools.lru_cache(maxsize=1)
def source_digest() -> str:
    """Version and hash of edgeship's own code: a changed edgeship trusts no stage of another one."""
    root = Path(__file__).resolve().parents[1]
    files = [(str(path.relative_to(root)), sha256_file(path)) for path in sorted(root.rglob("*.py"))]
    return f"{__version__}-{sha256_json(files)[:12]}"


def dump(value: BaseModel | None) -> Any:
    """A section of the config, or a result, as part of a key."""
    return value.model_dump(mode="json") if value is not None else None


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of packages, read without importing them; absent ones are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
