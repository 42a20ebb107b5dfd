"""The whole way from a model to its bundle, as one literal value; the only place that knows the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeship.config import Config
from edgeship.data.reference import importable
from edgeship.decide.finished_run import FinishedRun
from edgeship.files import Hasher, lock, sweep
from edgeship.pipeline.baseline import time_baselines
from edgeship.pipeline.bundles import BUNDLE
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.changes import keep_changes
from edgeship.pipeline.checks import CHECK
from edgeship.pipeline.decide import PUBLISH, RESULT, decide, forget
from edgeship.pipeline.each_target import each_target
from edgeship.pipeline.prepare import EXPORT, FRAMES, PARITY, PREFLIGHT, SLIM
from edgeship.pipeline.report import REPORT
from edgeship.pipeline.search import search_if_needed
from edgeship.pipeline.stages import Run, Workflow, execute
from edgeship.pipeline.trials import REFERENCE, try_candidates
from edgeship.progress import Progress, silent
from edgeship.results import StageRun

WORKFLOW: Workflow = (
    CHECK,  # the data and the names in the rules, before anything long begins
    EXPORT,  # PyTorch → ONNX
    SLIM,  # simplified, and checked to be the same
    PREFLIGHT,  # what TensorRT's parser says about every node
    FRAMES,  # a few real frames, for all that follows
    PARITY,  # PyTorch against ONNX, on those frames
    CALIBRATE,  # INT8 ranges, where a candidate needs them
    REFERENCE,  # fp32, which every candidate is compared with
    each_target(
        try_candidates,  # each one's graph: built, audited, timed, evaluated
        search_if_needed,  # a mixed-precision engine, asked for or called for
        time_baselines,  # PyTorch beside the engines, where the config names it
        decide,  # the gate
        keep_changes,  # the images that changed their answer
    ),
    RESULT,  # result.json, under a name of its own until the end
    REPORT,  # report.html, summary.md, junit.xml
    BUNDLE,  # what ships, with its evidence
    PUBLISH,  # result.json gets its name: the run is finished
)


def ship(
    config: Config,
    folder: Path,
    progress: Progress = silent,
    on_stage: Callable[[str, StageRun | None], None] = lambda _name, _run: None,
) -> FinishedRun:
    """The whole path, from the model to the verdict.

    Args:
        config: A loaded config.
        folder: The work folder. What a killed or earlier run finished there is reused.
        progress: Told how far a long step is.
        on_stage: Told when a stage begins and how it went.

    Returns:
        The finished run: its ``result.json`` and the folder with all that it names.

    Raises:
        EdgeshipError: What stopped the run, with the stage and the finished ones before it.
    """
    with lock(folder), importable(config.root):
        for place in (folder, folder / "stages"):
            sweep(place)
        forget(folder)
        run = Run(config, folder, progress, on_stage, Hasher(folder / "hashes.json"))
        execute(run, WORKFLOW)
        return run.result(REPORT)
