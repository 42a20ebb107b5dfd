"""What of the search's wiring can be told without a whole run."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import made_trials
from edgeship import config_file
from edgeship.config import Batch, Config, Gate, Model, Target
from edgeship.decide import loaded_trial
from edgeship.decide.loaded_trial import Measured
from edgeship.pipeline import WORKFLOW
from edgeship.pipeline.graphs import PREVIEW, graph_stage
from edgeship.pipeline.search import Tries, called_for, preview_db
from edgeship.pipeline.stages import Run, execute
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE, on_this_cpu
from edgeship.results import Candidate, Judged, Trial
from fleet_support import far_cluster, wait_until
from tiny_project import project

TRIAL = Trial(candidate=Candidate(name="int8-keep2", precision="int8"), engine="tensorrt", device="cuda:0")


def test_the_worst_output_says_how_far_the_target_is_from_the_preview():
    wanted = {"boxes": np.full((4, 10), 2.0, np.float32), "scores": np.ones((4, 3), np.float32)}
    built = {"boxes": wanted["boxes"] + np.float32(0.02), "scores": wanted["scores"] + np.float32(0.1)}
    assert preview_db(Measured(TRIAL, outputs=wanted), Measured(TRIAL, outputs=built)) == pytest.approx(20.0, abs=0.01)


def test_outputs_that_cannot_be_compared_say_nothing():
    wanted = {"boxes": np.ones((4, 10), np.float32)}
    assert preview_db(Measured(TRIAL, outputs=wanted), Measured(TRIAL, outputs={})) is None
    assert preview_db(Measured(TRIAL), Measured(TRIAL, outputs=wanted)) is None
    other = {"boxes": np.ones((1, 10), np.float32)}
    assert preview_db(Measured(TRIAL, outputs=wanted), Measured(TRIAL, outputs=other)) is None


def gated(tmp_path, limit_ms: float, wrong: int):
    """A run with a gate over fp32 of 4 ms and an int8 of 2 ms that gets ``wrong`` more images of each class wrong."""
    config = Config(model=Model(source="model:build"), gate=Gate(latency_p50_ms=limit_ms, max_drop={"top1": 0.02}))
    plans = (
        made_trials.measured("fp32", precision="fp32", ms=4.0),
        made_trials.measured("int8", ms=2.0, arrays=made_trials.records(wrong)),
    )
    tried = [(item.trial.candidate, item.trial, made_trials.save(item, tmp_path / item.name)) for item in plans]
    trials = TargetTrials("default", Target(), trials=tried)
    base = made_trials.measured("reference", precision="fp32")
    saved = made_trials.save(base, tmp_path / "reference")
    reference = TargetTrials("reference", Target(), trials=[(base.trial.candidate, base.trial, saved)])
    return Run(config, tmp_path), trials, reference


def test_a_search_begins_by_itself_when_int8_loses_and_fp32_is_too_slow(tmp_path) -> None:
    assert called_for(*gated(tmp_path / "both", limit_ms=3.0, wrong=40))
    assert not called_for(*gated(tmp_path / "fp32 fits", limit_ms=5.0, wrong=40))
    assert not called_for(*gated(tmp_path / "int8 fits", limit_ms=3.0, wrong=0))
    assert not called_for(*gated(tmp_path / "nothing is fast enough", limit_ms=1.0, wrong=0))


def test_a_preview_is_neither_timed_nor_shared_with_the_targets_graphs(tmp_path) -> None:
    target = Target(engine="tensorrt", device="cuda:0", batch=Batch(min=2, opt=4, max=8))
    candidate = Candidate(name="int8-keep2", precision="int8", keep=("a",))
    own, preview = TargetTrials("orin", target), TargetTrials(PREVIEW, on_this_cpu(target), preview=True)
    assert (own.style, preview.style) == ("tensorrt", "tensorrt")
    assert graph_stage(candidate, own).name != graph_stage(candidate, preview).name
    assert on_this_cpu(target).batch == target.batch


def previews(run: Run, plans: list[Candidate]) -> tuple[list[Judged], list[str]]:
    """The previews of plans, and which came from a worker; what may be begun there has ended before it is asked for."""
    target = Target(engine="tensorrt", device="cuda:0", batch=Batch(min=1, opt=4, max=8))
    tries = Tries(run, TargetTrials("orin", target), loaded_trial.load(run.result(REFERENCE).folders()[0]))
    with tries.helped() as ahead:
        helpers = tries._previewing.helpers
        if ahead is not None and helpers is not None:
            ahead(plans)
            assert wait_until(lambda: all(helpers._jobs[plan.name].ended.is_set() for plan in plans[1:]))
        return [tries.preview(plan) for plan in plans], helpers.taken_over if helpers is not None else []


@pytest.mark.slow
def test_previews_of_a_worker_on_another_host_are_those_of_this_machine(tmp_path) -> None:
    run = Run(config_file.load(project(tmp_path / "m", each=8)), tmp_path / "out")
    execute(run, WORKFLOW[: WORKFLOW.index(REFERENCE) + 1])
    plans = [Candidate(name=f"fp16-{node}", precision="fp16", keep=(node,)) for node in ("conv", "fc", "pool")]
    alone = previews(run, plans)
    assert alone[1] == []
    for place in (tmp_path / "out" / "stages").glob("*-preview-*"):
        shutil.rmtree(place)
    told: list[str] = []
    again = Run(run.config, run.folder, lambda _done, _total, what: told.append(what))
    execute(again, WORKFLOW[: WORKFLOW.index(REFERENCE) + 1])
    with far_cluster(tmp_path):
        judged, taken_over = previews(again, plans)
    assert taken_over == ["fp16-fc", "fp16-pool"], told
    assert judged == alone[0]
