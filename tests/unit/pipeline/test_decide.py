"""The verdict on each target, and what result.json tells of a run."""

from __future__ import annotations

from pathlib import Path

import made_trials
from edgeship.config import Config, Gate, Model, Target
from edgeship.decide.loaded_trial import Measured
from edgeship.pipeline.decide import (
    bundle_places,
    decide,
    decision_of,
    draft,
    forget,
    publish,
    write_result,
)
from edgeship.pipeline.first_look import LOOK
from edgeship.pipeline.stages import Run
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import REFERENCE
from edgeship.results import Looked, RunResult, read


def trials_of(run: Run, name: str, *items: Measured, host: str | None = None) -> TargetTrials:
    """A target's trials as the workflow leaves them."""
    found = TargetTrials(name, Target(host=host))
    for item in items:
        folder = made_trials.save(item, run.folder / "stages" / f"trial-{name}-{item.name}")
        found.trials.append((item.trial.candidate, item.trial, folder))
    return found


def run_with(folder: Path, gate: Gate, **targets: tuple[Measured, ...]) -> Run:
    """A run whose trials are done and judged."""
    root = folder / "model_of_mine"
    root.mkdir(parents=True)
    config = Config(
        model=Model(source="model:build", weights=root / "weights.safetensors"),
        targets={name: Target() for name in targets},
        gate=gate,
        root=root,
    )
    run = Run(config, folder / "out")
    run.results[LOOK.name] = Looked(warnings=("3 classes have no labelled example",))
    run.results[REFERENCE.name] = trials_of(run, "reference", made_trials.measured("fp32", precision="fp32", ms=4.0))
    run.targets = [trials_of(run, name, *items) for name, items in targets.items()]
    for trials in run.targets:
        decide(run, trials)
    return run


def test_the_worst_verdict_is_the_runs_and_only_targets_that_ship_get_a_bundle(tmp_path: Path) -> None:
    fast, slow = made_trials.measured("int8", ms=2.0), made_trials.measured("int8", ms=9.0)
    run = run_with(tmp_path, Gate(latency_p50_ms=3.0), desk=(fast,), orin=(slow,))
    assert [decision_of(run, trials).verdict for trials in run.targets] == ["SHIP", "NO-SHIP"]
    assert bundle_places(run) == {"desk": tmp_path / "out" / "bundle-desk"}
    result = write_result(run)
    assert (result.verdict, result.chosen, result.bundles) == ("NO-SHIP", "int8", {"desk": "bundle-desk"})
    assert [(item.target_name, item.passed) for item in result.trials] == [("desk", True), ("orin", False)]


def test_one_target_has_a_bundle_of_the_plain_name(tmp_path: Path) -> None:
    run = run_with(tmp_path, Gate(latency_p50_ms=3.0), desk=(made_trials.measured("int8", ms=2.0),))
    assert bundle_places(run) == {"desk": tmp_path / "out" / "bundle"}


def test_result_json_gets_its_name_when_all_it_tells_of_is_there(tmp_path: Path) -> None:
    run = run_with(tmp_path, Gate(latency_p50_ms=3.0), desk=(made_trials.measured("int8", ms=2.0),))
    result, place = write_result(run), run.folder / "result.json"
    assert draft(run).is_file() and not place.exists()
    publish(run)
    assert read(RunResult, place) == result and not draft(run).exists()
    forget(run.folder)
    assert not place.exists()


def test_a_trial_in_short_says_which_clock_and_batch(tmp_path: Path) -> None:
    item = made_trials.measured("int8", ms=2.0)
    wall = item.trial.latency
    assert wall is not None
    both = wall.model_copy(update={"device_ms": wall.wall_ms.model_copy(update={"p50": 1.5, "interval": (1.4, 1.6)})})
    timed = Measured(item.trial.model_copy(update={"latency": both}), item.records, item.latency)
    for clock, told in (("auto", ("device", 1.5)), ("wall", ("wall", wall.wall_ms.p50))):
        run = run_with(tmp_path / clock, Gate(clock=clock), desk=(timed,))
        (summary,) = write_result(run).trials
        assert summary.latency_ms is not None
        assert (summary.latency_ms.clock, summary.latency_ms.p50, summary.latency_ms.batch) == (*told, 1)


def test_a_candidate_that_failed_is_told_with_its_reason(tmp_path: Path) -> None:
    run = run_with(tmp_path, Gate(latency_p50_ms=3.0), desk=(made_trials.failed("int8", "no kernel for Gelu"),))
    (summary,) = write_result(run).trials
    assert (summary.outcome, summary.latency_ms, summary.engine_mib) == ("fail", None, None)
    assert "no kernel for Gelu" in " ".join(summary.reasons)


def test_paths_of_the_config_are_told_relative_to_it(tmp_path: Path) -> None:
    run = run_with(tmp_path, Gate(latency_p50_ms=3.0), desk=(made_trials.measured("int8"),))
    assert write_result(run).config["model"]["weights"] == "weights.safetensors"


def test_the_model_is_called_by_its_file_else_by_the_configs_folder(tmp_path: Path) -> None:
    root = tmp_path / "lane_net"
    for source, name in (("model:build", "lane_net"), ("nets/yolox.onnx", "yolox"), ("nets/detr.pt2", "detr")):
        assert Config(model=Model(source=source), root=root).title == name


def test_the_verdict_is_made_again_only_when_a_rule_or_a_trial_changed(tmp_path: Path) -> None:
    run = run_with(tmp_path, Gate(latency_p50_ms=3.0), desk=(made_trials.measured("int8", ms=2.0),))
    again = Run(run.config, run.folder, results=dict(run.results), targets=run.targets)
    decide(again, again.targets[0])
    stricter = Run(run.config.model_copy(update={"gate": Gate(latency_p50_ms=1.0)}), run.folder)
    stricter.results, stricter.targets = dict(run.results), run.targets
    decide(stricter, stricter.targets[0])
    assert [(one.stages[-1].cached) for one in (again, stricter)] == [True, False]
    assert decision_of(stricter, stricter.targets[0]).verdict == "NO-SHIP"
