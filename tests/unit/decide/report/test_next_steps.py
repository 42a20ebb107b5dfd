"""What to do next: concrete, for the candidate nearest to passing, and absent on a SHIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeship.decide.finished_run import FinishedRun, open_run
from edgeship.decide.report import markdown_summary, render
from edgeship.decide.report.next_steps import next_steps
from edgeship.decide.report.view import targets
from edgeship.results import Decision, Judged, Rule, RunResult
from made_trials import failed, finished_run, measured, records


def steps(folder: Path, *items: Any, gate: dict[str, Any]) -> list[tuple[str, str, str]]:
    (view,) = targets(open_run(finished_run(folder, *items, gate=gate)))
    return [(step.rule, step.change, step.command) for step in next_steps(view)]


def test_a_ship_needs_nothing(tmp_path: Path) -> None:
    assert steps(tmp_path, measured(), gate={"latency_p50_ms": 5.0}) == []


def test_too_slow_names_the_search_and_the_layers(tmp_path: Path) -> None:
    found = steps(tmp_path / "out", measured(ms=2.0), gate={"latency_p50_ms": 1.0})
    assert found[0] == (
        "Latency p50", "look for a mixed-precision engine: [candidates] search = true", "edgeship ship edgeship.toml",
    )  # fmt: skip
    assert found[1][2] == "edgeship layers out:int8"


def test_a_faster_candidate_that_fails_otherwise_is_named(tmp_path: Path) -> None:
    items = (measured("fp32", precision="fp32", ms=4.0), measured(ms=1.0, arrays=records(60)))
    found = steps(tmp_path, *items, gate={"latency_p50_ms": 2.0, "max_drop": {"top1": 0.01, "recall": 0.01}})
    assert found[0][1] == "int8 is fast enough; in its way: Drop of top-1; Drop of recall"


def test_lost_accuracy_names_search_methods_and_frames(tmp_path: Path) -> None:
    found = steps(tmp_path, measured(arrays=records(60)), gate={"max_drop": {"top1": 0.01}})
    assert [change.split(":")[0] for _, change, _ in found] == [
        "keep the layers that suffer most in high precision",
        "compare the calibration methods",
        "calibrate on more frames that look like the deployment (0 were used)",
    ]
    float_only = measured("fp32", precision="fp32", arrays=records(60))
    ((_, change, _),) = steps(tmp_path / "fp32", float_only, gate={"max_drop": {"top1": 0.01}})
    assert change.startswith("the network itself misses it")


def test_too_few_images_say_how_many_more(tmp_path: Path) -> None:
    found = steps(tmp_path, measured(arrays=records(1, each=40)), gate={"max_drop": {"top1": 0.03}})
    ((rule, change, command),) = found
    assert rule == "Drop of top-1" and command == "edgeship ship edgeship.toml"
    assert "label about " in change and "(120 are there)" in change


def test_a_trial_that_failed_says_so(tmp_path: Path) -> None:
    ((rule, change, _),) = steps(tmp_path, failed("int8"), gate={"latency_p50_ms": 5.0})
    assert (rule, change) == ("Trial", "remove what stopped this trial; finished stages are reused")


def judged_by(folder: Path, *rules: Rule) -> FinishedRun:
    """A run whose only candidate was judged by these rules."""
    run = open_run(finished_run(folder, measured()))
    judged = Judged(candidate="int8", outcome="inconclusive", rules=rules)
    decision = Decision(verdict="INCONCLUSIVE", chosen=None, sentence="?", judged=(judged,))
    return FinishedRun(RunResult(**(dict(run.result) | {"decisions": (decision,)})), run.folder)


def test_a_doubtful_reference_stands_in_a_banner_and_comes_first(tmp_path: Path) -> None:
    why = "the reference is right on 33 % of 300 images; chance is 33 %"
    run = judged_by(tmp_path, Rule(name="reference", outcome="inconclusive", measured=None, limit=None, reason=why))
    page = render(run)
    assert '<p class="doubt" role="note"><strong>The reference is doubtful.</strong> ' + why in page
    assert f"**The reference is doubtful.** {why}" in markdown_summary(run)
    (step,) = next_steps(targets(run)[0])
    assert step.change == "check the labels, the class order and [preprocess] against training"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(name="max_drop.top1", outcome="inconclusive", measured=None, limit=0.1, reason="no images"), "labelled"),
        (Rule(name="latency_p50_ms", outcome="inconclusive", measured=None, limit=1.0, reason="no GPU"), "host"),
        (Rule(name="gate", outcome="inconclusive", measured=None, limit=None, reason="no rule"), "set a limit"),
        (Rule(name="max_engine_mib", outcome="fail", measured=9.0, limit=1.0, unit="MiB", reason="large"), "smaller"),
        (Rule(name="audit", outcome="fail", measured=0.1, limit=0.5, reason="fp32"), "asked-for precision"),
        (Rule(name="unheard_of", outcome="fail", measured=0.1, limit=0.5, reason="?"), "smaller"),
    ],
)  # fmt: skip
def test_every_kind_of_rule_has_a_step(tmp_path: Path, rule: Rule, words: str) -> None:
    (step,) = next_steps(targets(judged_by(tmp_path, rule))[0])
    assert words in step.change
    assert "What to do next" in render(judged_by(tmp_path / "again", rule))
