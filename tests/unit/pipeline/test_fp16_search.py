"""When FP16 calls for a search of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import made_trials
from edgeship.config import Candidates, Config, Gate, Model, Target
from edgeship.decide.gate import judge
from edgeship.pipeline.fp16_search import lost, search_fp16, search_fp16_if_needed
from edgeship.pipeline.stages import Run
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.results import Failure

GATE = Gate(latency_p50_ms=1.0, max_drop={"top1": 0.02}, min={"top1": 0.5})


def tried(folder: Path, *found: Any) -> tuple[Run, TargetTrials, TargetTrials]:
    """A run whose target has these trials, and its reference's."""
    run = Run(Config(model=Model(source="model:build"), gate=GATE), folder)
    saved = [(item.trial.candidate, item.trial, made_trials.save(item, folder / item.name)) for item in found]
    base = made_trials.measured("reference", precision="fp32")
    reference = [(base.trial.candidate, base.trial, made_trials.save(base, folder / "reference"))]
    return run, TargetTrials("default", Target(), trials=saved), TargetTrials("reference", Target(), trials=reference)


@pytest.mark.parametrize(
    ("wrong", "failure"),
    [(0, None), (8, None), (0, Failure(stage="build", kind="BuildError", message="no memory"))],
    ids=["passes", "more images could decide", "was not built"],
)
def test_fp16_that_is_not_known_to_lose_is_not_searched(tmp_path: Path, wrong: int, failure: Failure | None) -> None:
    half = made_trials.measured("fp16", precision="fp16", arrays=made_trials.records(wrong), failure=failure)
    assert search_fp16(*tried(tmp_path, half)) is None


def test_fp16_that_its_conversion_rescued_is_not_searched(tmp_path: Path) -> None:
    half = made_trials.measured("fp16", precision="fp16", arrays=made_trials.records(80))
    kept = made_trials.measured("fp16-keep", precision="fp16")
    assert search_fp16(*tried(tmp_path, half, kept)) is None


def test_nothing_is_searched_that_was_not_tried_or_asked_for(tmp_path: Path) -> None:
    run, trials, reference = tried(tmp_path, made_trials.measured("int8", arrays=made_trials.records(80)))
    assert search_fp16(run, trials, reference) is None
    search_fp16_if_needed(run, trials)  # candidates.search is off
    assert trials.search is None
    run.config = run.config.model_copy(update={"candidates": Candidates(search=True)})
    openvino = TargetTrials("default", Target(engine="openvino"), trials=trials.trials)
    search_fp16_if_needed(run, openvino)
    assert openvino.search is None


def test_a_loss_is_a_drop_and_no_speed_and_no_floor() -> None:
    base = made_trials.measured("reference", precision="fp32")

    def judged(wrong: int, **changes: Any) -> Any:
        half = made_trials.measured("fp16", precision="fp16", arrays=made_trials.records(wrong))
        return judge(GATE.model_copy(update=changes), [half], base).judged[0]

    assert lost(judged(80))
    slow = judged(0)
    assert slow.outcome == "fail"
    assert not lost(slow)
    floor = judged(8, min={"top1": 0.999})
    assert "fail" in {rule.outcome for rule in floor.rules if rule.name == "min.top1"}
    assert not lost(floor)
    assert lost(judged(80, max_drop={}, min_agreement=0.95))
