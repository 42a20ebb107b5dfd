"""The gate: every rule, every way to be undecided, and never a silent pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeship.config import Evaluation, Gate
from edgeship.data.objects import Boxes
from edgeship.decide.drops import Reference
from edgeship.decide.gate import Beside, judge
from edgeship.decode.predictions import Detection
from edgeship.errors import DataError, UserInputError
from edgeship.metrics import detection, get
from edgeship.results import Audit, Conditions, MachineLoad, Turns
from made_trials import CLASSES, evaluated, failed, latency, measured, records


def reference(**changes):
    return measured("reference", precision="fp32", ms=8.0, **changes)


def fp32(ms=4.0):
    return measured("fp32", precision="fp32", ms=ms)


def rule(decision, candidate, name):
    judged = next(item for item in decision.judged if item.candidate == candidate)
    return next(item for item in judged.rules if item.name == name)


def only(gate, candidate, name, base=None):
    return rule(judge(gate, [candidate], base or reference()), candidate.name, name)


def test_the_fastest_candidate_that_passes_ships():
    decision = judge(Gate(latency_p50_ms=5, max_drop={"top1": 0.02}), [fp32(), measured(ms=2.0)], reference())
    assert (decision.verdict, decision.chosen) == ("SHIP", "int8")
    assert "2 ms" in decision.sentence
    assert decision.judged[1].speedup == pytest.approx(2.0, rel=0.01)


def test_no_ship_when_every_candidate_breaks_a_rule():
    bad = measured(arrays=records({"pedestrian": 200}))
    decision = judge(Gate(latency_p50_ms=3, max_drop={"top1": 0.02}), [fp32(), bad], reference())
    assert (decision.verdict, decision.chosen) == ("NO-SHIP", None)
    assert "fp32: p50" in decision.sentence
    assert "int8: top1 fell by 0.1667" in decision.sentence


def test_a_drop_whose_point_passes_and_bound_does_not_is_inconclusive_with_advice():
    found = only(Gate(max_drop={"top1": 0.02}), measured(arrays=records(6)), "max_drop.top1")
    assert found.outcome == "inconclusive"
    assert found.measured == pytest.approx(0.015)
    assert found.bound > 0.02
    assert found.more_images > 100
    assert f"about {found.more_images} more labelled images" in found.reason


def test_without_statistics_the_point_decides_and_says_so():
    decision = judge(Gate(max_drop={"top1": 0.02}, confidence=0), [measured(arrays=records(6))], reference())
    assert decision.verdict == "SHIP"
    assert "statistics are off" in decision.sentence
    assert rule(decision, "int8", "max_drop.top1").method == "point estimate (statistics off)"


def test_a_critical_class_has_a_rule_of_its_own():
    gate = Gate(max_drop={"top1": 0.05}, critical={"pedestrian": 0.05})
    decision = judge(gate, [measured(arrays=records({"pedestrian": 40}))], reference())
    assert rule(decision, "int8", "max_drop.top1").outcome == "pass"
    assert rule(decision, "int8", "critical.pedestrian").outcome == "fail"
    assert decision.judged[0].class_drop["recall"]["pedestrian"] == pytest.approx(0.1)
    assert decision.verdict == "NO-SHIP"


def test_a_critical_class_without_examples_is_inconclusive():
    arrays = records(classes=(*CLASSES, "tram"))
    keep = arrays["label"] != 3
    arrays = {name: a[keep] if name not in ("task", "classes") else a for name, a in arrays.items()}
    base = reference(arrays=arrays)
    found = only(Gate(critical={"tram": 0.5}), measured(arrays=arrays), "critical.tram", base)
    assert found.outcome == "inconclusive"
    assert "no example of 'tram'" in found.reason


def test_unknown_names_are_all_told_with_the_nearest():
    with pytest.raises(UserInputError, match="did you mean 'pedestrian'") as caught:
        judge(Gate(max_drop={"top_1": 0.1}, critical={"pedestrain": 0.1}), [measured()], reference())
    assert "did you mean 'top1'" in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_reference_itself_loses_nothing_however_few_the_images():
    few = records(each=4)
    gate = Gate(max_drop={"top1": 0.01, "recall": 0.01}, critical={"car": 0.0}, min_agreement=0.999)
    base = reference(arrays=few)
    same = measured("fp32", precision="fp32", arrays=few, build=base.trial.build)
    decision = judge(gate, [same], base)
    assert decision.verdict == "SHIP"
    found = rule(decision, "fp32", "max_drop.recall")
    assert (found.measured, found.bound, found.method) == (0.0, 0.0, "identical to the reference")
    assert decision.judged[0].drop_interval["top1"] == (0.0, 0.0)
    assert decision.judged[0].class_drop_interval["recall"]["car"] == (0.0, 0.0)


def test_another_engine_with_the_same_answers_is_the_reference_only_when_all_its_outputs_are_equal():
    few, gate = records(each=4), Gate(max_drop={"top1": 0.01}, min={"top1": 0.1})
    hashes = np.array([f"{i:032x}" for i in range(12)])
    told, base = {**few, "output_digests": hashes}, reference(arrays={**few, "output_digests": hashes})
    assert only(gate, measured(arrays=told), "max_drop.top1", base).bound == 0.0
    assert only(gate, measured(arrays=few), "max_drop.top1", base).outcome == "inconclusive"
    nudged = {**few, "output_digests": np.where(np.arange(12) == 11, "0", hashes)}
    assert only(gate, measured(arrays=nudged), "max_drop.top1", base).outcome == "inconclusive"
    outputs = {"logits": np.zeros((8, 3), np.float32)}
    forged = replace(measured(arrays=few), outputs=outputs)
    assert (
        only(gate, forged, "max_drop.top1", replace(reference(arrays=few), outputs=outputs)).outcome == "inconclusive"
    )


def test_the_same_engine_with_other_answers_is_measured():
    base = reference(arrays=records(each=4))
    other = measured(arrays=records({"car": 1}, each=4), build=base.trial.build)
    assert only(Gate(max_drop={"top1": 0.05}), other, "max_drop.top1", base).outcome == "fail"


def test_intervals_that_decide_nothing_are_never_empty():
    decision = judge(Gate(latency_p50_ms=5), [measured()], reference())
    low, high = decision.judged[0].drop_interval["recall"]
    assert low < -0.002
    assert high > 0.002


def test_other_images_are_refused():
    arrays = records()
    arrays["ids"] = arrays["ids"][::-1]
    with pytest.raises(DataError, match="int8 and the reference"):
        judge(Gate(max_drop={"top1": 0.1}), [measured(arrays=arrays)], reference())


def test_a_metric_that_is_not_a_number_fails():
    arrays = {
        "task": np.array("tests.unit:psnr"),
        "classes": np.array([], dtype=np.str_),
        "value/psnr": np.full(50, 30.0),
        "ids": np.array([str(i) for i in range(50)]),
        "digests": np.array([str(i) for i in range(50)]),
    }
    base = reference(arrays=arrays)
    broken = measured(arrays={**arrays, "value/psnr": np.full(50, np.nan)})
    found = only(Gate(max_drop={"psnr": 1.0}), broken, "max_drop.psnr", base)
    assert found.outcome == "fail"
    assert "not a number" in found.reason


def test_a_number_that_only_the_candidate_failed_to_give_is_no_image_to_leave_out():
    values = np.linspace(20.0, 40.0, 50)
    arrays = {
        "task": np.array("tests.unit:psnr"),
        "classes": np.array([], dtype=np.str_),
        "value/psnr": values,
        "ids": np.array([str(i) for i in range(50)]),
        "digests": np.array([str(i) for i in range(50)]),
    }
    gate = Gate(max_drop={"psnr": 1.0})
    worst_gone = measured(arrays={**arrays, "value/psnr": np.where(values < 30.0, np.nan, values)})
    assert only(gate, worst_gone, "max_drop.psnr", reference(arrays=arrays)).outcome == "fail"
    holed = {**arrays, "value/psnr": np.where(np.arange(50) == 7, np.nan, values)}
    whole = measured(arrays={**arrays, "value/psnr": values - 0.1})
    found = only(gate, whole, "max_drop.psnr", reference(arrays=holed))
    assert found.measured == pytest.approx(0.1)


def detections(images: int, shown: int, side: float = 200.0) -> dict:
    """Records of a detector that finds all: a person of ``side`` pixels on each of the first ``shown`` images."""
    kept = detection.collector(("car", "person"), Evaluation(task="detection"))
    for number in range(images):
        boxes = np.array([[10.0, 10.0, 10.0 + side, 10.0 + side]])[: number < shown]
        labels = np.ones(len(boxes), np.int64)
        truth = Boxes(boxes, labels, np.zeros(len(boxes), bool), np.full(len(boxes), side**2))
        scores = np.full(len(boxes), 0.9, np.float32)
        kept.add(Detection(boxes.astype(np.float32), scores, labels, ("car", "person")), truth)
    names = np.array([str(number) for number in range(images)])
    return kept.records() | {"ids": names, "digests": names}


def test_a_class_is_known_from_the_images_that_show_it():
    arrays = detections(images=40, shown=5)
    known = Reference(arrays, 0.95, 200, get("detection").summarize(arrays).examples)
    assert [known.support(name) for name in ("ap/person", "map", "map_large", "map_small")] == [5, 5, 5, 0]
    others = {**arrays, "det_score": arrays["det_score"] * np.float32(0.99)}
    found = only(Gate(critical={"person": 0.05}), measured(arrays=others), "critical.person", reference(arrays=arrays))
    assert found.outcome == "inconclusive"  # five images, all right in both, leave 46 % possible
    assert found.bound == pytest.approx(1 - 0.045 ** (1 / 5))


def test_a_metric_that_no_image_counts_is_inconclusive():
    arrays = detections(images=20, shown=20)
    found = only(
        Gate(max_drop={"map_small": 0.1}), measured(arrays=arrays), "max_drop.map_small", reference(arrays=arrays)
    )
    assert found.outcome == "inconclusive"
    assert "no example that map_small counts" in found.reason


def test_latency_over_budget_fails_and_a_bound_over_budget_is_inconclusive():
    assert only(Gate(latency_p50_ms=1.0), measured(ms=2.0), "latency_p50_ms").outcome == "fail"
    edge = measured(samples=np.random.default_rng(0).normal(2.0, 0.2, 100))
    limit = float(np.median(edge.latency["wall_ms"])) + 0.001
    found = only(Gate(latency_p50_ms=limit), edge, "latency_p50_ms")
    assert found.outcome == "inconclusive"
    assert found.bound > limit


def test_too_few_samples_bound_no_tail():
    few = measured(samples=np.random.default_rng(0).normal(2.0, 0.01, 120))
    found = only(Gate(latency_p99_ms=5.0), few, "latency_p99_ms")
    assert found.outcome == "inconclusive"
    assert "but 120 calls are too few to be 95 % sure of p99: it takes at least 299; raise" in found.reason


def test_calls_that_are_slow_in_long_stretches_tell_less_than_their_number():
    stretches = np.repeat([2.0, 3.0], 150) + np.random.default_rng(0).normal(0, 0.01, 300)
    found = only(Gate(latency_p50_ms=5.0), measured(samples=stretches), "latency_p50_ms")
    assert found.outcome == "inconclusive"
    assert "the 300 calls tell less than 50 separate ones, which it takes to be 95 % sure of p50" in found.reason


def test_a_measurement_under_changed_conditions_decides_nothing():
    samples = np.random.default_rng(0).normal(2.0, 0.01, 1000)
    changed = Conditions(changed="power mode went from MAXN to 15W")
    item = measured(samples=samples, latency=latency(samples, conditions=changed))
    for name, limit in (("latency_p50_ms", 5.0), ("throughput_min", 10.0)):
        found = only(Gate(**{name: limit}), item, name)
        assert found.outcome == "inconclusive"
        assert "power mode went from MAXN to 15W" in found.reason


def test_calls_that_are_slow_together_keep_a_budget_ten_times_over_and_no_nearer_one() -> None:
    """One slow stretch and one fast one tell too little of a median, unless nearly all calls are far within."""
    samples = np.repeat([1.0, 3.0], 500)
    item = measured(samples=samples, latency=latency(samples))
    far, near = (only(Gate(latency_p50_ms=limit), item, "latency_p50_ms") for limit in (31.0, 29.0))
    assert (far.outcome, far.bound, far.method) == ("pass", 30.0, "ten times a quantile halfway beyond")
    assert near.outcome == "inconclusive" and "slow in long stretches" in near.reason
    assert only(Gate(throughput_min=32.0), item, "throughput_min").outcome == "pass"
    assert only(Gate(throughput_min=100.0), item, "throughput_min").outcome == "inconclusive"


BUSY = Conditions(machine=MachineLoad(busy="other processes used 1.5 of 2 cores"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settled": False}, "the median was not known"),
        ({"settled": False, "unsettled": "379 calls were made within 20 s"}, "379 calls were made within 20 s"),
        ({"conditions": BUSY}, "the machine was busy: other processes used 1.5 of 2 cores"),
    ],
)
def test_a_disturbed_measurement_fails_no_budget_and_keeps_one_whose_bound_holds(changes, said):
    """What disturbs makes times longer: within the budget they are all the more so on a quiet machine."""
    samples = np.random.default_rng(0).normal(2.0, 0.01, 1000)
    item = measured(samples=samples, latency=latency(samples, **changes))
    for name, kept, missed, far in (("latency_p50_ms", 5, 0.3, 0.1), ("throughput_min", 10, 4e3, 1e4)):
        assert only(Gate(**{name: kept}), item, name).outcome == "pass"
        found = only(Gate(**{name: missed}), item, name)
        assert found.outcome == "inconclusive" and said in found.reason
        assert only(Gate(**{name: far}), item, name).outcome == "fail"  # nothing disturbs tenfold
    judged = judge(Gate(speedup_over_fp32=1.5), [fp32(4.0), item], reference())
    assert rule(judged, "int8", "speedup_over_fp32").outcome == "inconclusive"


@pytest.mark.parametrize(
    ("rules", "candidate", "name"),
    [
        ({"latency_p50_ms": 2.5}, 2.0, "latency_p50_ms"),
        ({"throughput_min": 400}, 2.0, "throughput_min"),
        ({"speedup_over_fp32": 1.5}, 2.0, "speedup_over_fp32"),
    ],
)
def test_times_that_rise_pass_only_where_the_budget_is_kept_if_that_goes_on(rules, candidate, name):
    samples = np.random.default_rng(0).normal(candidate, 0.001, 1000)

    def outcome(drift, sure=True):
        item = measured(samples=samples, latency=latency(samples, drift=drift, drift_sure=sure))
        return rule(judge(Gate(**rules), [fp32(4.0), item], reference()), "int8", name)

    assert outcome(0.0).outcome == outcome(0.2, sure=False).outcome == "pass"
    assert outcome(0.2).outcome == "inconclusive"
    assert "the calls took longer and longer, by 20.0% from the first to the last" in outcome(0.2).reason
    assert outcome(-0.2).outcome == ("pass" if name != "speedup_over_fp32" else "inconclusive")


def test_a_rise_that_reaches_no_budget_decides_nothing_and_a_fall_excuses_a_miss():
    samples = np.random.default_rng(0).normal(2.0, 0.001, 1000)
    rises = measured(samples=samples, latency=latency(samples, drift=0.1, drift_sure=True))
    assert only(Gate(latency_p50_ms=4.1), rises, "latency_p50_ms").outcome == "pass"  # 2 ms and ten times 10 % of it
    assert only(Gate(latency_p50_ms=3.9), rises, "latency_p50_ms").outcome == "inconclusive"
    assert only(Gate(latency_p50_ms=1.9), rises, "latency_p50_ms").outcome == "fail"
    falls = measured(samples=samples, latency=latency(samples, drift=-0.1, drift_sure=True))
    missed = only(Gate(latency_p50_ms=1.9), falls, "latency_p50_ms")
    assert missed.outcome == "inconclusive"
    assert "the calls were still becoming faster, by 10.0% in all; raise benchmark.warmup_s" in missed.reason


def test_taking_turns_settles_the_speed_up_and_names_the_fastest():
    rounds = np.exp(np.random.default_rng(0).normal(0, 0.02, (40, 2))) * np.array([2.0, 1.0])
    turns = Turns(
        names=("fp32", "int8"), median_ms=(2.0, 1.0), fastest="int8", ratio=(2.0, 1.0), ratio_low=(1.9, 1.0),
        ratio_high=(2.1, 1.0), rounds_ms=tuple(map(tuple, rounds.tolist())),
    )  # fmt: skip
    samples = np.random.default_rng(0).normal(5.0, 0.01, 1000)
    slow = measured(samples=samples, latency=latency(samples, conditions=BUSY))
    decision = judge(Gate(speedup_over_fp32=1.5), [fp32(4.0), slow], reference(), beside=Beside(turns=turns))
    found = rule(decision, "int8", "speedup_over_fp32")
    assert found.outcome == "pass" and found.measured == pytest.approx(2.0, rel=0.02)
    assert decision.judged[1].speedup == found.measured
    assert decision.judged[1].speedup_by == "turns" and "(timed turn by turn)" in found.reason
    assert 1.5 < found.bound < found.measured
    busy = turns.model_copy(update={"machine": BUSY.machine})
    for taken, asked, outcome in ((turns, 9, "fail"), (busy, 9, "inconclusive"), (busy, 29, "fail")):
        missed = judge(Gate(speedup_over_fp32=asked), [fp32(4.0), slow], reference(), beside=Beside(turns=taken))
        assert rule(missed, "int8", "speedup_over_fp32").outcome == outcome
    both = judge(Gate(latency_p50_ms=50), [fp32(4.0), slow], reference(), beside=Beside(turns=turns))
    assert both.chosen == "int8" and "timed turn by turn" in both.sentence
    assert judge(Gate(latency_p50_ms=50), [fp32(4.0), slow], reference()).chosen == "fp32"


def test_device_time_that_was_asked_for_and_not_measured_is_inconclusive():
    found = only(Gate(latency_p50_ms=5, clock="device"), measured(), "latency_p50_ms")
    assert found.outcome == "inconclusive"


def test_speed_over_fp32_is_judged_on_the_same_target():
    gate = Gate(speedup_over_fp32=1.8)
    decision = judge(gate, [fp32(4.0), measured(ms=2.0)], reference())
    assert rule(decision, "int8", "speedup_over_fp32").outcome == "pass"
    assert decision.judged[1].speedup_by == "medians"
    assert "times as fast as fp32 (ratio of the medians)" in decision.sentence
    assert (
        "times as fast as fp32 on this target (ratio of the medians)"
        in rule(decision, "int8", "speedup_over_fp32").reason
    )
    assert rule(decision, "fp32", "speedup_over_fp32").outcome == "fail"
    assert only(gate, measured(ms=2.0), "speedup_over_fp32").outcome == "inconclusive"
    assert only(gate, measured(ms=2.0), "speedup_over_fp32").measured is None


def test_size_memory_and_throughput():
    gate = Gate(max_engine_mib=5, max_memory_mib=200, throughput_min=400)
    decision = judge(gate, [measured(ms=2.0)], reference())
    outcomes = {item.name: item.outcome for item in decision.judged[0].rules}
    assert outcomes == {"audit": "pass", "throughput_min": "pass", "max_engine_mib": "fail", "max_memory_mib": "pass"}


def test_memory_that_was_not_measured_never_passes():
    samples = np.random.default_rng(0).normal(2.0, 0.01, 400)
    item = measured(samples=samples, latency=latency(samples, peak_memory_mib=None))
    assert only(Gate(max_memory_mib=200), item, "max_memory_mib").outcome == "inconclusive"


def test_agreement_has_an_exact_lower_bound():
    assert only(Gate(min_agreement=0.9), measured(arrays=records(4)), "min_agreement").outcome == "pass"
    close = only(Gate(min_agreement=0.985), measured(arrays=records(4)), "min_agreement")
    assert (close.outcome, close.measured) == ("inconclusive", pytest.approx(0.99))
    assert only(Gate(min_agreement=0.999), measured(arrays=records(4)), "min_agreement").outcome == "fail"


def test_precision_that_was_not_achieved_fails_and_an_absent_audit_is_inconclusive():
    item = measured()
    audit = item.trial.audit.model_copy(update={"achieved": 0.2})
    gate = Gate(latency_p50_ms=5)
    assert only(gate, measured(audit=audit), "audit").outcome == "fail"
    assert only(gate, measured(audit=None), "audit").outcome == "inconclusive"
    unknown = item.trial.audit.model_copy(update={"achieved": None})
    assert only(gate, measured(audit=unknown), "audit").outcome == "inconclusive"


def test_a_trial_that_crashed_fails_its_candidate_and_not_the_run():
    decision = judge(Gate(latency_p50_ms=5), [fp32(), failed("int8", "killed after 600 s")], reference())
    assert (decision.verdict, decision.chosen) == ("SHIP", "fp32")
    assert decision.judged[1].reasons == ("build failed: killed after 600 s",)


def test_an_engine_that_was_not_run_is_inconclusive():
    build = measured().trial.build.model_copy(update={"runnable": False, "reason": "no GPU here"})
    item = measured(build=build, latency=None, evaluation=None)
    decision = judge(Gate(latency_p50_ms=5, max_drop={"top1": 0.1}), [item], reference())
    assert decision.verdict == "INCONCLUSIVE"
    assert "built and audited, not run: no GPU here" in decision.sentence
    assert rule(decision, "int8", "max_drop.top1").outcome == "inconclusive"


def test_without_a_reference_accuracy_is_inconclusive():
    base = measured("reference", precision="fp32", evaluation=None)
    assert only(Gate(max_drop={"top1": 0.1}), measured(), "max_drop.top1", base).outcome == "inconclusive"


def test_a_gate_without_rules_decides_nothing():
    assert judge(Gate(), [measured()], reference()).verdict == "INCONCLUSIVE"


def test_the_worst_of_several_builds_counts():
    gate = Gate(latency_p50_ms=3.0, rebuilds=2)
    fast, slow = measured(ms=2.0), measured(ms=4.0, rebuild=1)
    decision = judge(gate, [fast, slow], reference())
    assert rule(decision, "int8", "latency_p50_ms").outcome == "fail"
    assert "medians 2 to 4 ms" in rule(decision, "int8", "rebuilds").reason
    assert rule(judge(gate, [fast], reference()), "int8", "rebuilds").outcome == "inconclusive"


def test_several_targets_at_once_are_refused():
    with pytest.raises(UserInputError, match="2 targets"):
        judge(Gate(latency_p50_ms=5), [measured(), measured(target_name="orin")], reference())


def test_a_metric_without_an_exact_method_is_resampled():
    arrays = records(40, each=200)
    base = reference(arrays=records(0, each=200))
    decision = judge(Gate(max_drop={"recall": 0.3}), [measured(arrays=arrays)], base)
    found = rule(decision, "int8", "max_drop.recall")
    assert found.outcome == "pass"
    assert "bootstrap" in found.method
    assert 0.2 < found.bound < 0.25


def test_half_a_faster_candidate_is_told_about():
    close = measured(arrays=records(6), ms=1.0)
    decision = judge(Gate(max_drop={"top1": 0.02}), [fp32(), close], reference())
    assert decision.chosen == "fp32"
    assert "int8 is faster, but undecided" in decision.sentence


def test_int8_that_is_slower_and_worse_is_told_with_its_profile():
    hot = (("QLinearSigmoid", 0.3), ("QLinearConv", 0.29))
    audit = Audit(source="profile", asked="int8", layers={}, achieved=1.0, hottest=hot)
    samples = np.full(400, 6.5)
    slow = measured(arrays=records(200), samples=samples, audit=audit)
    decision = judge(Gate(max_drop={"top1": 0.02}), [measured("fp32", samples=samples - 2.5, precision="fp32"), slow],
                     reference())  # fmt: skip
    assert (decision.verdict, decision.chosen) == ("SHIP", "fp32")
    assert "; int8 is slower here (6.5 ms against 4 ms for fp32) and worse (top1 fell by 0.5000" in decision.sentence
    assert "; it spends its time in QLinearSigmoid 30%, QLinearConv 29% (the reference's" in decision.sentence
    fast = judge(Gate(max_drop={"top1": 0.02}), [fp32(8.0), slow], reference())
    assert "slower" not in fast.sentence


def test_a_class_metric_of_another_task_is_refused():
    gate = Gate(critical={"pedestrian": 0.05}, critical_metric="ap")
    with pytest.raises(UserInputError, match="'ap' is not a metric of this task's classes; use recall"):
        judge(gate, [measured()], reference())


def test_the_evaluation_of_the_made_trials_is_the_tasks_own():
    assert evaluated(records(6)).metrics["top1"] == pytest.approx(1 - 18 / 1200)
