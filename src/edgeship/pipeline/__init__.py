"""The whole way from a model to its bundle, as one literal value; the only place that knows the order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship import unchanged
from edgeship.config import Config
from edgeship.data.locate import located
from edgeship.data.reference import importable
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.remarks import remarks
from edgeship.errors import ConfigError, EdgeshipError, StorageError
from edgeship.files import Hasher, lock, storage_errors, sweep
from edgeship.pipeline.baseline import time_baselines
from edgeship.pipeline.bundles import BUNDLE, EVIDENCE
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.changes import keep_changes
from edgeship.pipeline.checks import CHECK, TARGETS, machine_warnings
from edgeship.pipeline.decide import PUBLISH, RESULT, decide, forget
from edgeship.pipeline.each_target import each_target
from edgeship.pipeline.first_look import LOOK
from edgeship.pipeline.fp16_search import search_fp16_if_needed
from edgeship.pipeline.head import HEAD
from edgeship.pipeline.planned import Planned, planned_names, remember_times, times
from edgeship.pipeline.prepare import EXPORT, FRAMES, PARITY, PRECISIONS, PREFLIGHT, SLIM
from edgeship.pipeline.qat import QAT, take_part
from edgeship.pipeline.readable import IMAGES
from edgeship.pipeline.release import RELEASE
from edgeship.pipeline.remember import REMEMBER, TRACK
from edgeship.pipeline.repeatable import repeatable
from edgeship.pipeline.report import REPORT
from edgeship.pipeline.search import search_if_needed
from edgeship.pipeline.stages import Run, Stage, Workflow, WouldRun, execute
from edgeship.pipeline.streams import FOLDER, with_frames
from edgeship.pipeline.trials import REFERENCE, try_candidates
from edgeship.pipeline.turns import take_turns
from edgeship.pipeline.work_folder import require_apart, require_own
from edgeship.progress import Progress, silent
from edgeship.results import Looked, StageRun, Trained

if TYPE_CHECKING:
    from edgeship.qat.team import Team

WORKFLOW: Workflow = (
    CHECK,  # the data and the names in the rules, before anything long begins
    TARGETS,  # every host and device answers
    IMAGES,  # every image opens
    EXPORT,  # PyTorch → ONNX
    SLIM,  # simplified, and checked to be the same
    HEAD,  # whether outputs are logits or probabilities: read from the graph, once
    PRECISIONS,  # a quantized model is neither called FP32 nor quantized twice
    LOOK,  # what the reference answers on a few labelled images, and what looks wrong
    PREFLIGHT,  # what TensorRT's parser says about every node
    FRAMES,  # a few real frames, for all that follows
    PARITY,  # PyTorch against ONNX, on those frames
    CALIBRATE,  # INT8 ranges, where a candidate needs them
    QAT,  # weights and ranges trained for INT8, where the config has a [qat] table
    REFERENCE,  # fp32, which every candidate is compared with
    RELEASE,  # the release in the field, where the config names one to be no worse than
    each_target(
        try_candidates,  # each one's graph: built, audited, timed, evaluated
        search_fp16_if_needed,  # the nodes that FP16 needs in FP32, where it loses too much
        search_if_needed,  # a mixed-precision engine, asked for or called for
        take_turns,  # those that pass, turn by turn, before the fastest is named
        time_baselines,  # PyTorch beside the engines, where the config names it
        decide,  # the gate
        keep_changes,  # the images that changed their answer
    ),
    RESULT,  # result.json, under a name of its own until the end
    REPORT,  # report.html, summary.md, junit.xml
    EVIDENCE,  # result and report as they were when the verdict was first reached
    BUNDLE,  # what ships, with that evidence
    PUBLISH,  # result.json gets its name: the run is finished
    REMEMBER,  # the history gets an entry
    TRACK,  # and the trackers are told
)


LOOKS: Workflow = WORKFLOW[: WORKFLOW.index(LOOK) + 1]
"""The beginning of the way: what ``edgeship check`` does, and ``ship`` takes over."""


TRAINS: Workflow = WORKFLOW[: WORKFLOW.index(QAT) + 1]
"""The way to a trained model: what ``edgeship qat`` does, and ``ship`` takes over."""


@dataclass(frozen=True)
class Checked:
    """What ``check`` found: the reference on a few images, and what looks wrong."""

    looked: Looked
    warnings: tuple[str, ...]
    picture: Path | None
    """A frame as the network sees it."""


def ship(
    config: Config,
    folder: Path,
    progress: Progress = silent,
    on_stage: Callable[[str, StageRun | None], None] = lambda _name, _run: None,
    fresh: bool = False,
) -> FinishedRun:
    """The whole path, from the model to the verdict.

    Args:
        config: A loaded config.
        folder: The work folder. What a killed or earlier run finished there is reused.
        progress: Told how far a long step is.
        on_stage: Told when a stage begins and how it went.
        fresh: Do every stage again; what an earlier run finished is removed.

    Returns:
        The finished run: its ``result.json`` and the folder with all that it names.

    Raises:
        EdgeshipError: What stopped the run, with the stage and the finished ones before it.
    """
    with _opened(config, folder, progress, on_stage) as run:
        forget(folder)
        if fresh:
            with storage_errors(folder):
                shutil.rmtree(folder / "stages", ignore_errors=True)
        execute(run, WORKFLOW)
        if repeatable(run):
            with suppress(StorageError):  # the run itself is finished; the next one is an ordinary one
                unchanged.note(folder, run.hasher.asked, (stage.folder for stage in run.stages), config.root)
        return replace(run.result(REPORT), notes=tuple(run.notes))


def check(
    config: Config,
    folder: Path,
    progress: Progress = silent,
    on_stage: Callable[[str, StageRun | None], None] = lambda _name, _run: None,
) -> Checked:
    """The beginning of :func:`ship`: everything that is wrong, and the reference on a hundred labelled images.

    Args and Raises: see :func:`ship`, which takes over what is done here.
    """
    with _opened(config, folder, progress, on_stage) as run:
        execute(run, LOOKS)
        looked = run.result(LOOK)
        picture = run.path(LOOK, looked.picture.path) if looked.picture is not None else None
        weak = remarks(config.gate, shares=":" not in config.evaluation.task)
        return Checked(looked, (*machine_warnings(config), *weak, *looked.warnings), picture)


def train(
    config: Config,
    folder: Path,
    progress: Progress = silent,
    on_stage: Callable[[str, StageRun | None], None] = lambda _name, _run: None,
    team: Team | None = None,
) -> tuple[Trained, Path]:
    """Train INT8 as ``[qat]`` says, or take over what was trained; :func:`ship` tries it as ``int8-qat``.

    Args: see :func:`ship`. ``team``: the processes that train together, of which this is the first; the others call
    :func:`follow`.

    Returns:
        What the training gave, and the folder that holds it.

    Raises:
        ConfigError: The config has no ``[qat]`` table.
        EdgeshipError: What stopped the training; the same call goes on from its last checkpoint.
    """
    if config.qat is None:
        raise ConfigError(
            ["qat: missing; an empty [qat] table distills on the calibration frames"], where=str(config.file)
        )
    with _opened(config, folder, progress, on_stage) as run:
        run.team = team
        try:
            execute(run, TRAINS)
        except EdgeshipError:
            _dismiss(team)
            raise
        _dismiss(team)
        return run.result(QAT), run.folders[QAT.name]


def _dismiss(team: Team | None) -> None:
    """Let the other processes go, where nothing was left to train or it did not come to that."""
    if team is not None:
        team.tell(None)


def follow(config: Config, folder: Path, team: Team) -> None:
    """Train beside the process that called :func:`train` with the same config and folder, as it tells.

    Raises:
        EdgeshipError: What stopped the training in one of the processes.
    """
    told = team.hear()
    if told is None:
        return
    with importable(config.root):
        config = _located(with_frames(config, folder / FOLDER))
        take_part(Run(config, folder, team=team), told)


@contextmanager
def _opened(
    config: Config, folder: Path, progress: Progress, on_stage: Callable[[str, StageRun | None], None]
) -> Iterator[Run]:
    """A run in a work folder that is this process's own while the block lasts."""
    require_apart(folder, config)
    require_own(folder)
    with lock(folder), importable(config.root):
        for place in (folder, folder / "stages"):
            sweep(place)
        config = _located(with_frames(config, folder / FOLDER, progress, tidy=True))
        run = Run(config, folder, progress, on_stage, Hasher(folder / "hashes.json"))
        try:
            yield run
        finally:
            run.hasher.save()
            remember_times(run)


def _located(config: Config) -> Config:
    """The config with the places of labels that it leaves to be found: stages are bound to what lies there."""
    return config.model_copy(update={"evaluation": located(config.evaluation)})


def plan(config: Config, folder: Path) -> tuple[Planned, ...]:
    """What :func:`ship` would do: the stages in their order, whether each is reused, and how long it took before.

    Stages behind the first that runs depend on its result: all of them are told as running.

    Raises:
        EdgeshipError: What the check found.
    """
    require_apart(folder, config)
    require_own(folder)
    with tempfile.TemporaryDirectory(prefix="edgeship-") as scratch:
        config = _located(with_frames(config, folder / FOLDER if folder.is_dir() else Path(scratch)))
        return _planned(config, folder)


def _planned(config: Config, folder: Path) -> tuple[Planned, ...]:
    CHECK.work(Run(config, folder))
    names = planned_names(config, tuple(item.name for item in WORKFLOW if isinstance(item, Stage) and item.name))
    if not folder.is_dir():
        return tuple(Planned(name, False, None) for name in names)
    before = times(folder)
    with lock(folder), importable(config.root):
        run = Run(config, folder, hasher=Hasher(folder / "hashes.json"), dry=True)
        with suppress(WouldRun):
            execute(run, WORKFLOW[: WORKFLOW.index(RESULT)])
    reused = {item.name for item in run.stages}
    return tuple(Planned(name, name in reused, before.get(name)) for name in names)
