"""Many candidates, one error."""

from __future__ import annotations

import pytest

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.sequence import Spending, safety
from edgeship.results import Candidate
from made_trials import measured, records

GATE = Gate(max_drop={"top1": 0.02})
REFERENCE = measured("reference", precision="fp32")


def item(name, wrong, *, precision="int8", ms=2.0, **how):
    found = measured(name, arrays=records(wrong), ms=ms, precision=precision)
    candidate = Candidate(name=name, precision=precision, **how)
    return type(found)(found.trial.model_copy(update={"candidate": candidate}), found.records, found.latency)


def test_the_first_miss_ends_the_sequence():
    safe, late = item("int8-keep", 6, keep=("a", "b")), item("int8", 1)
    decision = judge(GATE, [late, safe], REFERENCE)
    assert decision.verdict == "INCONCLUSIVE"
    held = next(rule for rule in decision.judged[0].rules if rule.name == "sequence")
    assert "int8-keep, which is safer, did not" in held.reason
    assert judge(GATE, [late], REFERENCE).verdict == "SHIP"


def test_a_miss_of_plain_int8_does_not_stop_what_was_trained_or_repaired():
    plain = item("int8", 6, ms=1.0)
    for better in ({"trained": True}, {"repair": ("equalize",)}):
        decision = judge(GATE, [plain, item("int8-better", 1, **better)], REFERENCE)
        assert (decision.verdict, decision.chosen) == ("SHIP", "int8-better")


def test_a_candidate_that_was_not_evaluated_is_no_miss():
    broken = measured("fp16", precision="fp16", evaluation=None)
    decision = judge(GATE, [broken, item("int8", 1)], REFERENCE)
    assert (decision.verdict, decision.chosen) == ("SHIP", "int8")


def test_the_sentence_says_among_how_many():
    decision = judge(GATE, [item("fp16", 0, precision="fp16", ms=3.0), item("int8", 1)], REFERENCE)
    assert decision.chosen == "int8"
    assert "chosen among 2, tested safest first so that their error together stays 0.05" in decision.sentence


def test_safest_first():
    plans = [
        Candidate(name="h", precision="int8", keep=("a", "b", "c"), reduced_range=True),
        Candidate(name="g", precision="int8"),
        Candidate(name="d", precision="int8", repair=("equalize", "adaround")),
        Candidate(name="e", precision="int8", repair=("adaround",)),
        Candidate(name="f", precision="int8", keep=("a",)),
        Candidate(name="c", precision="int8", trained=True),
        Candidate(name="b", precision="int8", keep=("a", "b"), trained=True),
        Candidate(name="a", precision="fp16"),
    ]
    assert [plan.name for plan in sorted(plans, key=safety)] == list("abcdefgh")


def test_all_attempts_together_keep_the_error():
    spent = sum(1 - Spending(earlier=k).confidence("int8", 0.95) for k in range(40))
    assert spent == pytest.approx(0.05)
    searched = frozenset(("int8-keep2",))
    begun = Spending(searched=searched)
    assert begun.confidence("int8", 0.95) == pytest.approx(0.955)
    assert begun.confidence("int8-keep2", 0.95) == pytest.approx(0.9975)
    planned = Spending(searched=searched, planned=True)
    both = [1 - planned.confidence(name, 0.95) for name in ("int8", "int8-keep2")]
    assert both == pytest.approx([0.0225, 0.0225])
    assert Spending().confidence("int8", 0.0) == 0.0
