"""What a run would do, and how long its stages took before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgeship.config import Config
from edgeship.files import read_text, write_json
from edgeship.pipeline.calibration import CALIBRATE
from edgeship.pipeline.candidates import candidates
from edgeship.pipeline.origins import repair_stage
from edgeship.pipeline.qat import QAT
from edgeship.pipeline.release import RELEASE
from edgeship.pipeline.stages import Run
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import reference_target

TIMES = "times.json"
"""In the folder of stages: seconds of each stage when it last worked."""


@dataclass(frozen=True)
class Planned:
    """A stage of a run that has not begun."""

    name: str
    reused: bool
    seconds: float | None
    """How long it took when it last worked in this folder."""


def planned_names(config: Config, before_trials: tuple[str, ...]) -> tuple[str, ...]:
    """The stages of a run in order, as far as the config tells them; a search adds trials of its own."""
    run = Run(config, Path())
    left_out = {stage.name for stage in (CALIBRATE, QAT, RELEASE) if not stage.needed(run)}
    names = [name for name in before_trials if name not in left_out]
    where, _ = reference_target(config)
    names.append(f"trial:{where}:fp32")
    for target, settings in config.all_targets().items():
        trials = TargetTrials(target, settings)
        names += [repair_stage(item, trials).name for item in candidates(config) if item.repair]
        names += [f"trial:{target}:{item.name}" for item in candidates(config)]
        names.append(f"decide:{target}")
    return tuple(dict.fromkeys(names))


def times(folder: Path) -> dict[str, float]:
    """Seconds by stage, as :func:`remember_times` wrote them; empty where nothing is known."""
    try:
        known = json.loads(read_text(folder / "stages" / TIMES))
    except (OSError, ValueError):
        return {}
    known = known if isinstance(known, dict) else {}
    return {name: value for name, value in known.items() if isinstance(value, float)}


def remember_times(run: Run) -> None:
    """Note how long the stages took that worked in this run."""
    worked = {item.name: round(item.seconds, 3) for item in run.stages if not item.cached}
    if worked and (run.folder / "stages").is_dir():
        write_json(run.folder / "stages" / TIMES, times(run.folder) | worked)
