"""A reference that proves nothing, floors, and limits that decide nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeship.config import Gate
from edgeship.config_file import load
from edgeship.decide.gate import judge
from edgeship.errors import ConfigError, UserInputError
from made_trials import measured, records


def verdict(gate, candidate, base):
    return judge(gate, [measured(arrays=candidate)], measured("reference", precision="fp32", arrays=base))


def guesses(seed):
    arrays = records(each=300)
    first = np.random.default_rng(seed).integers(0, 3, 900)
    return {**arrays, "top": np.stack([first, (first + 1) % 3, (first + 2) % 3], axis=1).astype(np.int32)}


def test_a_reference_at_chance_proves_nothing():
    arrays = guesses(0)
    decision = verdict(Gate(max_drop={"top1": 0.05}), arrays, arrays)
    assert decision.verdict == "INCONCLUSIVE"
    assert "not shown to be better than chance: always answering the largest class gives 0.3333" in decision.sentence


def test_the_doubt_of_the_reference_is_told_before_a_clock_that_is_not_settled():
    arrays = guesses(0)
    gate = Gate(latency_p99_ms=5.0, max_drop={"top1": 0.05})
    few = measured(arrays=arrays, samples=np.full(50, 1.0))
    decision = judge(gate, [few], measured("reference", precision="fp32", arrays=arrays))
    assert "is undecided: the reference's top1 is 0.3" in decision.sentence
    assert "always answering the largest class gives 0.3333" in decision.sentence
    assert decision.sentence.count("(and 1 more)") == 1


def swapped(first, second):
    """A classifier that is right but for two classes, whose names are exchanged."""
    arrays = records(each=300)
    label = arrays["label"]
    top = np.where(label == first, second, np.where(label == second, first, label))
    others = [(top + step) % 3 for step in (1, 2)]
    return {**arrays, "top": np.stack([top, *others], axis=1).astype(np.int32)}


def test_two_classes_that_are_exchanged_are_never_found_without_being_critical():
    arrays = swapped(0, 1)
    decision = verdict(Gate(max_drop={"top1": 0.05}), arrays, arrays)
    assert decision.verdict == "INCONCLUSIVE"
    assert "never finds" in decision.sentence
    assert "each in 10 or more examples" in decision.sentence


@pytest.mark.parametrize(("each", "verdict_word"), [(1, "INCONCLUSIVE"), (3, "INCONCLUSIVE"), (4, "SHIP")])
def test_a_handful_of_images_shows_nothing_even_where_all_are_right(each, verdict_word):
    arrays = records(each=each)
    right = np.stack([arrays["label"], (arrays["label"] + 1) % 3, (arrays["label"] + 2) % 3], axis=1).astype(np.int32)
    arrays = {**arrays, "top": right}
    base = measured("reference", precision="fp32", arrays=arrays)
    decision = judge(Gate(max_drop={"top1": 0.05}), [base], base)
    assert decision.verdict == verdict_word, decision.sentence
    if verdict_word == "INCONCLUSIVE":
        assert f"rests on {3 * each} images" in decision.sentence


def test_a_floor_says_what_is_enough():
    arrays = guesses(0)
    decision = verdict(Gate(max_drop={"top1": 0.05}, min={"top1": 0.2}), arrays, arrays)
    assert decision.verdict == "SHIP"
    rule = next(rule for rule in decision.judged[0].rules if rule.name == "min.top1")
    assert rule.bound < rule.measured
    assert rule.method == "exact (Clopper-Pearson)"


@pytest.mark.parametrize(("least", "outcome"), [(0.97, "pass"), (0.985, "inconclusive"), (0.995, "fail")])
def test_a_floor_is_judged_by_its_lower_bound(least, outcome):
    arrays = records(6)
    decision = verdict(Gate(min={"top1": least}), arrays, records())
    assert next(rule for rule in decision.judged[0].rules if rule.name == "min.top1").outcome == outcome
    assert "(the reference's top1 is 1.0000 on 1200 images)" in decision.sentence


def test_a_critical_class_has_a_floor():
    decision = verdict(Gate(critical_min={"cyclist": 0.9}), records({"cyclist": 100}), records())
    assert decision.verdict == "NO-SHIP"
    with pytest.raises(UserInputError, match=r"gate\.critical_min\.tram"):
        verdict(Gate(critical_min={"tram": 0.9}), records(), records())


def test_a_class_that_the_reference_never_finds_cannot_be_lost():
    arrays = records({"cyclist": 400})
    decision = verdict(Gate(critical={"cyclist": 0.05}), {**arrays, "score": arrays["score"] * 0.9}, arrays)
    assert decision.verdict == "INCONCLUSIVE"
    assert "never finds 'cyclist'" in decision.sentence


def test_an_unrelated_model_of_equal_accuracy_is_no_candidate():
    arrays, other = records(120), records(120)
    other["top"] = np.roll(other["top"].reshape(3, 400, 3), 1, axis=1).reshape(1200, 3)
    decision = verdict(Gate(max_drop={"top1": 0.2}), other, arrays)
    assert decision.verdict == "INCONCLUSIVE"
    assert "two unrelated models of this accuracy" in decision.sentence


def test_numbers_that_the_reference_could_not_give_are_not_counted():
    arrays = {**records(), "task": np.array("own:score")}
    values = np.random.default_rng(0).uniform(0.5, 0.9, 1200)
    base = {**arrays, "value/m": np.where(np.arange(1200) < 1100, np.nan, values)}
    decision = verdict(Gate(max_drop={"m": 0.01}), {**arrays, "value/m": values - 1e-4}, base)
    assert decision.verdict == "INCONCLUSIVE"
    assert "1100 images left out: the reference's value is not a number there" in decision.sentence
    assert "only 100 images hold examples" in decision.sentence


def test_percent_of_a_number_of_ones_own_is_refused():
    arrays = {**records(), "task": np.array("own:score"), "value/m": np.full(1200, 0.5)}
    with pytest.raises(UserInputError, match=r"write 0\.02 for 2 %"):
        verdict(Gate(max_drop={"m": 2.0}), arrays, arrays)


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (
            "max_drop = { top1 = 1 }",
            "gate.max_drop.top1 = 1: limits are fractions of 1",
        ),
        ("critical = { bag = 5 }", "5 points are 0.05"),
        ("min = { top1 = 90 }", "asks for what nothing reaches; 90 points are 0.9"),
        ("latency_p50_ms = 5\nconfidence = 0.5", "lets one SHIP in 2 be false"),
    ],
)
def test_limits_that_decide_nothing_are_refused(tmp_path: Path, gate, said):
    config = tmp_path / "edgeship.toml"
    config.write_text(
        '[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["fp32"]\n[preprocess]\n'
        f'[evaluation]\nimages = "val"\n[gate]\n{gate}\n'
    )
    with pytest.raises(ConfigError) as error:
        load(config)
    assert said in str(error.value)


def test_a_low_confidence_that_was_accepted_stands_in_the_sentence():
    decision = verdict(Gate(max_drop={"top1": 0.02}, confidence=0.7, accept_low_confidence=True), records(1), records())
    assert "(at a confidence of 0.7 only)" in decision.sentence
