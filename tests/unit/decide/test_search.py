"""The search over models whose accuracy and time by kept groups are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeship.decide.search import SearchOptions, Tried, search, settled, sizes, trial_limit
from edgeship.results import Decision, Judged, Rule, SearchAttempt, Searched, SensitiveGroup, Sensitivity


def ranking(count=113, **patterns):
    groups = tuple(
        SensitiveGroup(
            nodes=(f"conv{k}", f"sigmoid{k}", f"mul{k}"),
            operator="Conv+Sigmoid+Mul",
            snr_db=float(k),
            patterns=patterns.get(f"g{k}", ()),
        )
        for k in range(count)
    )
    return Sensitivity(style="onnxruntime", groups=groups, frames=4, seconds=1.0, plain_db=5.0)


class World:
    """Accuracy passes from ``needed`` kept groups on; every kept group costs time."""

    def __init__(self, needed, budget=10.0, slope=0.05, base=2.0):
        self.needed, self.budget, self.slope, self.base = needed, budget, slope, base
        self.built = []

    def time(self, kept):
        return self.base + self.slope * kept

    def judged(self, name, kept):
        drop = Rule(
            name="max_drop.map50", outcome="pass" if kept >= self.needed else "fail",
            measured=0.0, limit=0.02, reason=f"map50 with {kept} kept",
        )  # fmt: skip
        late = self.time(kept) > self.budget
        speed = Rule(
            name="latency_p50_ms", outcome="fail" if late else "pass",
            measured=self.time(kept), limit=self.budget, reason=f"p50 {self.time(kept):.3g} ms is over the budget",
        )  # fmt: skip
        outcome = "pass" if (drop.outcome, speed.outcome) == ("pass", "pass") else "fail"
        return Judged(candidate=name, outcome=outcome, rules=(drop, speed))

    def kept(self, candidate):
        return sum(name.startswith("conv") for name in candidate.keep)

    def attempt(self, candidate):
        self.built.append(candidate.name)
        kept = self.kept(candidate)
        return Tried(self.judged(candidate.name, kept), self.time(kept))

    def plain(self):
        return Tried(self.judged("int8", 0), self.time(0))

    def high(self, ms=8.0):
        rule = Rule(
            name="latency_p50_ms", outcome="pass" if ms <= self.budget else "fail",
            measured=ms, limit=self.budget, reason=f"fp32 takes {ms} ms",
        )  # fmt: skip
        return Tried(Judged(candidate="fp32", outcome=rule.outcome, rules=(rule,)), ms)


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 10, 20, 33, 56])
def test_the_fewest_kept_groups_of_the_sequence_that_pass(needed):
    world = World(needed)
    found = search(ranking(), world.plain(), world.high(), world.attempt)
    plans = sizes(113, trial_limit(113) - 1)
    assert found.answer == "mixed"
    assert len(found.keep) // 3 == min(k for k in plans if k >= needed)
    assert found.builds + 1 <= trial_limit(113) == 10
    assert [item.where for item in found.attempts] == ["target"] * (found.builds + 1)


def test_plans_begin_from_a_repaired_int8_and_keep_its_repair():
    world, made = World(3), []

    def attempt(candidate):
        made.append(candidate)
        return world.attempt(candidate)

    plain = Tried(world.judged("int8-equalize+adaround", 0), world.time(0))
    found = search(ranking(), plain, world.high(), attempt, SearchOptions(repair=("equalize", "adaround")))
    assert (found.answer, found.chosen) == ("mixed", "int8-equalize+adaround-keep3")
    assert {candidate.repair for candidate in made} == {("equalize", "adaround")}
    assert [item.candidate for item in found.attempts][:2] == ["int8-equalize+adaround", made[0].name]
    assert found.attempts[0].why == "INT8 repaired by equalize and adaround everywhere"
    assert "(INT8 repaired by equalize and adaround 2 ms, fp32 8 ms)" in found.sentence


def test_the_sizes_are_fixed_before_anything_is_tried():
    assert sizes(113, 9) == [56, 34, 20, 12, 7, 5, 3, 2, 1]
    assert sizes(140, 1) == [70]
    assert sizes(5, 9) == [2, 1]
    assert sizes(1, 9) == sizes(113, 0) == []


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_the_first_miss_ends_the_search(outcome):
    world = World(0)

    def attempt(candidate):
        tried = world.attempt(candidate)
        if world.kept(candidate) != 7:
            return tried
        drop, speed = tried.judged.rules
        missed = drop.model_copy(update={"outcome": outcome})
        return replace(tried, judged=tried.judged.model_copy(update={"outcome": outcome, "rules": (missed, speed)}))

    lossy = replace(world.plain(), judged=World(1).plain().judged)
    found = search(ranking(), lossy, world.high(), attempt)
    assert (found.answer, found.chosen) == ("mixed", "int8-keep12")
    assert world.built == ["int8-keep56", "int8-keep34", "int8-keep20", "int8-keep12", "int8-keep7"]


def test_plain_int8_that_passes_needs_no_search():
    world = World(0)
    found = search(ranking(), world.plain(), world.high(), world.attempt)
    assert (found.answer, found.builds, found.keep) == ("plain", 0, ())


def test_int8_that_is_slower_and_worse_falls_back_with_the_profile():
    world = World(2, base=6.5)
    plain = Tried(world.plain().judged, 6.5, hottest=(("QLinearSigmoid", 0.3), ("QLinearConv", 0.29)))
    found = search(ranking(), plain, world.high(4.25), world.attempt)
    assert (found.answer, found.chosen) == ("high-precision", "fp32")
    assert found.sentence.startswith("ship fp32: INT8 is slower here (6.5 ms against 4.25 ms for fp32) and worse")
    assert "QLinearSigmoid 30%" in found.sentence
    assert found.builds == 1


def test_int8_that_passes_and_is_slower_is_not_the_answer():
    world = World(0, base=6.5)
    plain = Tried(world.plain().judged, 6.5, hottest=(("QLinearSigmoid", 0.3),))
    found = search(ranking(), plain, world.high(4.25), world.attempt)
    assert (found.answer, found.chosen, found.builds) == ("high-precision", "fp32", 0)
    assert found.sentence == (
        "ship fp32: INT8 is slower here (6.5 ms against 4.25 ms for fp32); it spends its time in QLinearSigmoid 30%."
    )


def test_a_mixed_engine_that_is_slower_than_high_precision_is_not_the_answer():
    world = World(20, base=2.0, slope=0.2)
    hot = (("QuantizeLinear", 0.4), ("Conv", 0.3))
    found = search(ranking(), world.plain(), world.high(4.0), lambda plan: replace(world.attempt(plan), hottest=hot))
    assert (found.answer, found.chosen, found.keep) == ("high-precision", "fp32", ())
    assert found.sentence == (
        "ship fp32: int8-keep20, the fastest mixed plan that passes, is slower here (6 ms against 4 ms for fp32); "
        "it spends its time in QuantizeLinear 40%, Conv 30%; plain INT8 takes 2 ms, but map50 with 0 kept."
    )


def test_a_mixed_engine_stays_the_answer_where_high_precision_does_not_pass():
    world = World(20, base=2.0, slope=0.2)
    high = world.high(4.0)
    refused = Rule(name="max_engine_mib", outcome="fail", measured=9.0, limit=5.0, reason="the engine is 9.0 MiB")
    high = Tried(Judged(candidate="fp32", outcome="fail", rules=(*high.judged.rules, refused)), 4.0)
    found = search(ranking(), world.plain(), high, world.attempt)
    assert (found.answer, found.chosen) == ("mixed", "int8-keep20")
    assert "fp32 is faster all the same" in found.sentence


def test_without_the_fallback_the_mixed_engine_is_found_all_the_same():
    world = World(2, base=6.5)
    found = search(ranking(), world.plain(), world.high(4.25), world.attempt, SearchOptions(fallback=False))
    assert (found.answer, len(found.keep)) == ("mixed", 6)
    assert "fp32 is faster all the same" in found.sentence


def test_accuracy_that_costs_too_much_time_is_an_answer():
    world = World(40, budget=3.0)
    found = search(ranking(), world.plain(), world.high(8.0), world.attempt)
    assert (found.answer, found.chosen) == ("nothing", None)
    assert "over the budget" in found.sentence
    assert "fp32 takes 8.0 ms" in found.sentence


def test_high_precision_alone_is_an_answer():
    world = World(113, budget=10.0)
    found = search(ranking(), world.plain(), world.high(8.0), world.attempt)
    assert (found.answer, found.chosen) == ("high-precision", "fp32")
    assert found.sentence.startswith("ship fp32:")


def test_the_preview_saves_builds():
    world = World(5)
    options = SearchOptions(preview=lambda candidate: world.judged(candidate.name, world.kept(candidate)))
    found = search(ranking(), world.plain(), world.high(), world.attempt, options)
    assert (found.answer, len(found.keep)) == ("mixed", 15)
    assert world.built == ["int8-keep5"]
    assert f"saved {found.saved_builds} builds" in found.sentence
    assert found.saved_builds == len([item for item in found.attempts if item.where == "preview"]) - 1 > 2


def test_the_previews_that_may_be_asked_for_are_told_ahead_in_their_order():
    world, told = World(5), []
    options = SearchOptions(
        preview=lambda candidate: world.judged(candidate.name, world.kept(candidate)),
        ahead=lambda plans: told.extend(plan.name for plan in plans),
    )
    found = search(ranking(), world.plain(), world.high(), world.attempt, options)
    asked = [item.candidate for item in found.attempts if item.where == "preview"]
    assert told[: len(asked)] == asked
    assert found == search(ranking(), world.plain(), world.high(), World(5).attempt, replace(options, ahead=None))


def test_the_distance_from_the_preview_is_told():
    world = World(5)
    options = SearchOptions(preview=lambda candidate: world.judged(candidate.name, world.kept(candidate)))
    found = search(
        ranking(), world.plain(), world.high(), lambda plan: replace(world.attempt(plan), preview_db=41.5), options
    )
    assert "41.5 dB" in found.sentence
    assert [item.preview_db for item in found.attempts if item.candidate == found.chosen] == [None, 41.5]


def test_a_target_that_disagrees_with_the_preview_gets_a_larger_plan():
    world = World(9)
    shown = World(5)
    options = SearchOptions(preview=lambda candidate: shown.judged(candidate.name, shown.kept(candidate)))
    found = search(ranking(), world.plain(), world.high(), world.attempt, options)
    assert found.answer == "mixed"
    assert len(found.keep) // 3 >= 9
    assert world.built[0] == "int8-keep5"


def test_nodes_that_the_config_keeps_stay_kept():
    world = World(1)
    found = search(ranking(), world.plain(), world.high(), world.attempt, SearchOptions(extra_keep=("head",)))
    assert found.keep[0] == "head"


def test_what_the_search_left_open_and_the_verdict_settled_is_the_verdicts():
    attempts = (
        SearchAttempt(candidate="int8", outcome="fail", accuracy="fail"),
        SearchAttempt(candidate="int8-keep3", keep=("a", "b"), outcome="inconclusive", accuracy="pass"),
    )
    left = Searched(
        answer="nothing", chosen=None, sentence="nothing passes: busy.", attempts=attempts, ranking=ranking()
    )

    def by(chosen, verdict="SHIP"):
        return settled(left, Decision(verdict=verdict, chosen=chosen, sentence="", judged=()))

    assert by(None, "INCONCLUSIVE") is left
    mixed = by("int8-keep3")
    assert (mixed.answer, mixed.chosen, mixed.keep) == ("mixed", "int8-keep3", ("a", "b"))
    assert mixed.sentence.startswith("ship int8-keep3: ") and "nothing passes: busy" in mixed.sentence
    assert (by("int8").answer, by("fp32").answer) == ("plain", "high-precision")
    assert settled(mixed, Decision(verdict="SHIP", chosen="int8-keep3", sentence="", judged=())) is mixed


def test_fp16_is_searched_against_fp32_by_the_same_sequence():
    world = World(3, base=1.0)
    plain = Tried(Judged(candidate="fp16", outcome="fail", rules=world.judged("fp16", 0).rules), 1.0)
    options = SearchOptions(precision="fp16", extra_keep=("head",))
    found = search(ranking(), plain, world.high(), world.attempt, options)
    assert (found.answer, found.chosen) == ("mixed", "fp16-keep3")
    assert found.keep[0] == "head" and len(found.keep) == 10
    assert world.built[0] == "fp16-keep56"
    assert found.attempts[0].why == "FP16 everywhere"
    assert "(plain FP16 1 ms, fp32 8 ms)" in found.sentence


def test_where_engines_cannot_run_the_smallest_plan_of_the_preview_is_built_once():
    world = World(3)
    plain = replace(world.plain(), judged=world.judged("fp16", 0), median_ms=None, ran=False)
    options = SearchOptions("fp16", preview=lambda candidate: world.judged(candidate.name, world.kept(candidate)))
    idle = Rule(name="run", outcome="inconclusive", measured=None, limit=None, reason="built, not run")

    def attempt(candidate):
        world.built.append(candidate.name)
        return Tried(Judged(candidate=candidate.name, outcome="inconclusive", rules=(idle,)), ran=False)

    found = search(ranking(), plain, None, attempt, options)
    assert world.built == ["fp16-keep3"]
    assert (found.answer, found.chosen, len(found.keep)) == ("nothing", None, 9)
    assert found.attempts[0].where == "preview"
    assert "fp16-keep3 keeps the accuracy in its preview (nodes in high precision: 9), and was built, not run" in (
        found.sentence
    )


def test_a_verdict_may_name_a_plan_of_the_search_of_fp16():
    half = Searched(
        answer="mixed", chosen="fp16-keep2", keep=("a",), sentence="", ranking=ranking(1),
        attempts=(attempted("fp16"), attempted("fp16-keep2", "a")),
    )  # fmt: skip
    found = Searched(
        answer="nothing", chosen=None, sentence="nothing passes.", ranking=ranking(1), half=half,
        attempts=(attempted("int8"), attempted("int8-keep1", "b")),
    )  # fmt: skip
    assert found.own == ("fp16-keep2", "int8-keep1")
    decision = Decision(verdict="SHIP", chosen="fp16-keep2", sentence="", judged=())
    after = settled(found, decision)
    assert (after.answer, after.chosen, after.keep) == ("high-precision", "fp16-keep2", ("a",))


def attempted(name, *keep):
    """A plan that was tried."""
    return SearchAttempt(candidate=name, keep=keep, outcome="pass", accuracy="pass")
