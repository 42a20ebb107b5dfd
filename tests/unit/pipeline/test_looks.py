"""Undecided looks are remembered and counted."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.sequence import Spending
from edgeship.results import Look, Looks, read, write
from made_trials import measured, records

GATE = Gate(max_drop={"top1": 0.02})


def test_looks_are_read_as_they_were_written(tmp_path: Path):
    looks = Looks(looks=(Look(model="m", target="default", images="i", trials=("a", "b")),))
    write(looks, tmp_path / "looks.json")
    assert read(Looks, tmp_path / "looks.json") == looks


def test_a_later_look_is_judged_more_strictly_and_says_so():
    base, item = measured("reference", precision="fp32"), measured(arrays=records(4))
    first = judge(GATE, [item], base)
    second = judge(GATE, [item], base, Spending(earlier=1))
    bounds = [next(r for r in found.judged[0].rules if r.name == "max_drop.top1").bound for found in (first, second)]
    assert bounds[0] < bounds[1]
    assert (first.verdict, second.verdict, second.earlier) == ("SHIP", "INCONCLUSIVE", 1)
    assert "look 2 at this model: judged at 99.75 % to pay for the others" in second.sentence
