"""No worse than the release in the field: the same limits, paired on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeship.config import Gate
from edgeship.decide import rulebook
from edgeship.decide.gate import Beside, judge
from edgeship.decide.released import read_release
from edgeship.errors import BundleError, DataError
from edgeship.results import Decision, Rule
from made_trials import evaluated, measured, records

RELEASED = Path("last.bundle")


def judged(
    wrong: Any, released: Any, before: Any = None, *, gate: Gate | None = None, **arrays: Any
) -> tuple[Decision, dict[str, Rule]]:
    """A candidate, its reference (by default as good) and the release, by their mistakes."""
    rules = gate or Gate(max_drop={"top1": 0.02}, baseline=RELEASED)
    base = measured("reference", precision="fp32", arrays={**records(wrong if before is None else before), **arrays})
    release = measured("released", arrays=records(released))
    candidate = measured(arrays={**records(wrong), **arrays})
    decision = judge(rules, [candidate], base, beside=Beside(release=release))
    return decision, {rule.name: rule for rule in decision.judged[0].rules}


def test_a_candidate_as_good_as_the_release_ships() -> None:
    decision, found = judged(4, 4)
    assert decision.verdict == "SHIP"
    rule = found["baseline.top1"]
    assert (rule.measured, rule.limit) == (0.0, 0.02)
    assert 0 < rule.bound < 0.02
    assert rule.method == "exact paired (Tango score, unconditional)"
    assert "top1 is unchanged against the release" in rule.reason


def test_a_better_candidate_ships() -> None:
    decision, found = judged(0, 20)
    assert decision.verdict == "SHIP"
    assert found["baseline.top1"].measured == pytest.approx(-0.05)


def test_a_candidate_that_is_its_reference_but_worse_than_the_release_does_not_ship() -> None:
    decision, found = judged(40, 4)
    assert decision.verdict == "NO-SHIP"
    assert found["max_drop.top1"].outcome == "pass"
    assert found["baseline.top1"].outcome == "fail"
    assert found["baseline.top1"].measured == pytest.approx(0.09)
    assert "against the release" in decision.sentence


def test_a_drop_that_the_images_do_not_rule_out_is_inconclusive() -> None:
    decision, found = judged(9, 4)
    assert found["baseline.top1"].measured == pytest.approx(0.0125)
    assert (decision.verdict, found["baseline.top1"].outcome) == ("INCONCLUSIVE", "inconclusive")
    assert found["baseline.top1"].more_images > 0


def test_a_critical_class_holds_against_the_release_too() -> None:
    gate = Gate(critical={"pedestrian": 0.05}, baseline=RELEASED)
    decision, found = judged({"pedestrian": 40}, 0, gate=gate)
    assert decision.verdict == "NO-SHIP"
    assert found["critical.pedestrian"].outcome == "pass"
    assert found["baseline.recall/pedestrian"].measured == pytest.approx(0.1)
    assert found["baseline.recall/pedestrian"].outcome == "fail"


def test_the_released_engine_itself_loses_nothing_however_few_the_images() -> None:
    few = records(each=4)
    released = measured("released", arrays=few)
    base = measured("reference", precision="fp32", arrays=few, build=released.trial.build)
    again = measured("int8", arrays=few, build=released.trial.build)
    decision = judge(Gate(max_drop={"top1": 0.0}, baseline=RELEASED), [again], base, beside=Beside(release=released))
    rule = next(rule for rule in decision.judged[0].rules if rule.name == "baseline.top1")
    assert (decision.verdict, rule.bound, rule.method) == ("SHIP", 0.0, "identical to the release")


def test_a_mean_over_classes_is_resampled_against_the_release() -> None:
    gate = Gate(max_drop={"recall": 0.03}, baseline=RELEASED)
    decision, found = judged(40, 4, gate=gate)
    assert "bootstrap" in found["baseline.recall"].method
    assert (decision.verdict, found["baseline.recall"].outcome) == ("NO-SHIP", "fail")


def test_groups_of_the_run_hold_though_the_release_was_evaluated_without_them() -> None:
    """Ten clips of 120 frames: one clip that changed says little, and independent images would say much."""
    clips = np.array([f"clip-{i % 10}" for i in range(1200)])
    _, grouped = judged(5, 4, group=clips)
    _, alone = judged(5, 4)
    assert alone["baseline.top1"].outcome == "pass"
    assert grouped["baseline.top1"].outcome == "inconclusive"
    assert "10 groups of images" in grouped["baseline.top1"].reason


def test_a_release_that_was_not_read_is_never_a_pass() -> None:
    base = measured("reference", precision="fp32", ms=8.0)
    decision = judge(Gate(max_drop={"top1": 0.02}, baseline=RELEASED), [measured()], base)
    rule = next(rule for rule in decision.judged[0].rules if rule.name == "baseline.top1")
    assert (decision.verdict, rule.outcome) == ("INCONCLUSIVE", "inconclusive")
    assert "was not read" in rule.reason


@pytest.mark.parametrize(
    ("name", "words"),
    [("ids", "images"), ("digests", "image contents"), ("label", "labels"), ("classes", "class names")],
)
def test_a_release_of_other_images_or_labels_is_refused(name: str, words: str) -> None:
    other = records()
    other[name] = np.roll(other[name], 1)
    base, release = measured("reference", precision="fp32"), measured("released", arrays=other)
    with pytest.raises(DataError, match=f"the release.*different {words}") as refused:
        judge(Gate(max_drop={"top1": 0.02}, baseline=RELEASED), [measured()], base, beside=Beside(release=release))
    assert "run ship with the released model and these images" in str(refused.value)


def test_a_limited_metric_that_the_release_does_not_have_is_refused() -> None:
    arrays = records()
    known = evaluated(arrays)
    known = known.model_copy(update={"metrics": {name: v for name, v in known.metrics.items() if name != "top1"}})
    release = measured("released", arrays=arrays, evaluation=known)
    base = measured("reference", precision="fp32")
    with pytest.raises(DataError, match="has no figure for top1"):
        judge(Gate(max_drop={"top1": 0.02}, baseline=RELEASED), [measured()], base, beside=Beside(release=release))


def test_the_safest_candidate_is_tested_against_the_release_first() -> None:
    """fp32 that is worse than the release ends the sequence, though it is the reference itself."""
    base = measured("reference", precision="fp32", arrays=records(40))
    fp32 = measured("fp32", precision="fp32", arrays=records(40), build=base.trial.build)
    int8 = measured(arrays=records(4))
    beside = Beside(release=measured("released", arrays=records(4)))
    decision = judge(Gate(max_drop={"top1": 0.02}, baseline=RELEASED), [fp32, int8], base, beside=beside)
    assert [item.outcome for item in decision.judged] == ["fail", "inconclusive"]


def test_the_title_says_what_the_rule_asks() -> None:
    assert rulebook.of("baseline.top1").title.format("top-1") == "No worse than the release: top-1"


def test_a_path_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing is at"):
        read_release(tmp_path / "last.bundle")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        read_release(tmp_path / "folder")
