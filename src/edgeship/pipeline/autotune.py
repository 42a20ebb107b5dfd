"""The stage in which ModelOpt's autotune chooses by measured latency what INT8 leaves in float on a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeship.engines.served_shapes import opt_shape
from edgeship.pipeline.candidates import sized
from edgeship.pipeline.prepare import SLIM
from edgeship.pipeline.stages import Run, Stage, dump, versions
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.results import Autotuned, write
from edgeship.results.trial_folder import MODEL

FILE = "result.json"


def autotune_stage(trials: TargetTrials) -> Stage[Autotuned]:
    """The stage for one target; it works in place, so that a run that was stopped goes on."""

    def key(run: Run) -> Any:
        return {
            "model": run.result(SLIM).model.sha256,
            "target": dump(trials.target),
            "budget_s": run.config.candidates.autotune_s,
            "versions": versions("tensorrt", "tensorrt_cu12", "tensorrt_cu13", "nvidia-modelopt", "torch"),
        }

    def work(run: Run, folder: Path) -> Autotuned:
        from edgeship.prepare.autotune import Request, autotune  # loads onnx

        budget = run.config.candidates.autotune_s
        assert budget is not None, "the stage runs where a budget is set"
        inputs = run.result(SLIM).inputs
        target = sized(trials.target, inputs, run.config.preprocess)
        shapes = {info.name: opt_shape(info, target) for info in inputs}
        request = Request(run.path(SLIM, MODEL), folder, budget, shapes, progress=run.progress)
        result = autotune(request)
        write(result, folder / FILE)
        return result

    return Stage(f"autotune:{trials.name}", Autotuned, key, work, in_place=True, file=FILE)
