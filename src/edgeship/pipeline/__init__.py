"""The order: prepare, try, decide. The only module that knows it.

``prepare`` is a literal tuple of stages. Trials follow from the config's candidates and targets; ``decide`` reads
results and writes the verdict, the report and the bundle.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from edgeship.config import Config, Target
from edgeship.data.reference import importable
from edgeship.decide.finished_run import FinishedRun
from edgeship.files import Hasher, lock, sweep
from edgeship.pipeline import prepare
from edgeship.pipeline.baseline import baseline_stage
from edgeship.pipeline.decide import finish, forget
from edgeship.pipeline.stages import Run, Stage, execute, execute_one
from edgeship.pipeline.trials import (
    Tries,
    candidates,
    needs_calibration,
    reference_target,
    require_decoded,
    try_candidates,
)
from edgeship.progress import Progress, silent
from edgeship.results import Calibrated, Candidate, Exported, Parity, Preflight, Slimmed, StageRun
from edgeship.targets import start_all, stop_all

PREPARE: tuple[
    Stage[Exported] | Stage[Slimmed] | Stage[Preflight] | Stage[prepare.KnownFrames] | Stage[Parity], ...
] = (
    Stage("export", Exported, prepare.export_key, prepare.export_work),
    Stage("slim", Slimmed, prepare.slim_key, prepare.slim_work),
    Stage("preflight", Preflight, prepare.preflight_key, prepare.preflight_work),
    Stage("frames", prepare.KnownFrames, prepare.frames_key, prepare.frames_work),
    Stage("parity", Parity, prepare.parity_key, prepare.parity_work),
)
CALIBRATE = Stage("calibrate", Calibrated, prepare.calibrate_key, prepare.calibrate_work)
FP32 = Candidate(name="fp32", precision="fp32")


def ship(
    config: Config,
    folder: Path,
    progress: Progress = silent,
    on_stage: Callable[[str, StageRun | None], None] | None = None,
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
        sweep(folder)
        sweep(folder / "stages")
        forget(folder)
        run = Run(config, folder, progress, on_stage or (lambda _name, _run: None), Hasher(folder / "hashes.json"))
        prepare.check_data(config)
        execute(run, PREPARE)
        if config.candidates.search or any(needs_calibration(item) for item in candidates(config)):
            execute_one(run, CALIBRATE)
        reference = try_candidates(run, *reference_target(config), (FP32,))
        require_decoded(reference)
        return finish(run, reference, _try_targets(run, reference))


def _try_targets(run: Run, reference: Tries) -> list[Tries]:
    """Every target's trials; remote targets side by side, this machine's alone so that nothing disturbs its clock."""
    targets = run.config.all_targets()
    plans = candidates(run.config)

    def attempt(entry: tuple[str, Target]) -> Tries:
        return try_candidates(run, entry[0], entry[1], plans, reference)

    remote = [item for item in targets.items() if item[1].host is not None]
    found: dict[str, Tries] = {}
    if remote:
        start_all()
        with ThreadPoolExecutor(len(remote)) as pool:
            try:
                tried = {pool.submit(attempt, item): item[0] for item in remote}
                ended, _ = wait(tried, return_when=FIRST_EXCEPTION)
                found = {tried[future]: future.result() for future in ended}
            except BaseException:
                stop_all()  # Ctrl-C, or one target that cannot go on: the others end now, there as here
                raise
    for name, target in targets.items():
        if target.host is None:
            found[name] = attempt((name, target))
            if run.config.benchmark.baseline:
                execute_one(run, baseline_stage(name, target))
    return [found[name] for name in targets]
