"""Many candidates, one error: the order in which they are tested, and what each test may cost.

Candidates are tested as a fixed sequence, safest first, and the first miss ends it (Maurer, Hothorn and Lehmacher 1995;
Westfall and Krishen 2001): as long as the order does not come from the images, the chance that any candidate passes
falsely is no more than that of one. A second attempt at the same model is another sequence and has a share of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeship.decide import rulebook
from edgeship.decide.drops import UNTESTED
from edgeship.decide.loaded_trial import Measured
from edgeship.results import Candidate, Judged, Searched

FIRST = 0.9
"""Share of the error for the first sequence; later ones divide the rest, each half of what is left."""
PLAIN = 1 / 2
"""Of the first share, what the config's own candidates have where a search is planned; its plans have the rest."""
SAFEST = ("fp32", "fp16", "bf16", "int8-fp32", "int8-fp16", "int8", "implicit", "fp8")


@dataclass(frozen=True)
class Spending:
    """How often this model was tested before, and which candidates a search added.

    Args:
        earlier: Attempts before this one that did not end in SHIP: other images, or other candidates.
        searched: Names of the candidates that a search made.
        planned: Whether the config asked for the search, or it began because plain INT8 had missed.
    """

    earlier: int = 0
    searched: frozenset[str] = frozenset()
    planned: bool = False

    @classmethod
    def of(cls, search: Searched | None, *, planned: bool, earlier: int = 0) -> Spending:
        """What a finished search leaves: all of its attempts but the plain ones are its own."""
        return cls(earlier, frozenset(search.own if search is not None else ()), planned)

    def confidence(self, candidate: str, asked: float) -> float:
        """The confidence of a candidate's accuracy rules, so that all attempts together keep the ``asked`` one."""
        if asked == 0:
            return 0.0
        return 1 - (1 - asked) * self._share(candidate)

    def _share(self, candidate: str) -> float:
        searched = candidate in self.searched
        if self.planned:
            return _share(self.earlier) * (1 - PLAIN if searched else PLAIN)
        return _share(self.earlier + (1 if searched else 0))


def _share(earlier: int) -> float:
    return FIRST if earlier == 0 else (1 - FIRST) * 0.5**earlier


def safety(candidate: Candidate) -> tuple[int, bool, bool, int, int]:
    """Sorts the safest first: by precision, 8 bits before 7, trained, repaired by the most steps, the most nodes kept.

    Training and repairs are tried only where they were nearer to FP32 than calibration alone on frames that are not
    evaluation images, so plain INT8 stands behind them.
    """
    place = SAFEST.index(candidate.precision)
    return place, candidate.reduced_range, not candidate.trained, -len(candidate.repair), -len(candidate.keep)


def in_sequence(
    judged: Sequence[Judged], builds: Mapping[str, Sequence[Measured]], spending: Spending
) -> tuple[Judged, ...]:
    """The candidates with those undecided that stand behind a miss, in the order given.

    What was not evaluated and what is the reference itself is not a test, and neither stops the sequence.
    """
    order = sorted(judged, key=lambda item: safety(builds[item.candidate][0].trial.candidate))
    found = {item.candidate: item for item in judged}
    for searched in (False, True):
        members = [item for item in order if (item.candidate in spending.searched) == searched and _tested(item)]
        missed = ""
        for item in members:
            passes = rulebook.outcome_of(rulebook.of_kind(item.rules, "accuracy")) == "pass"
            if passes and missed:
                found[item.candidate] = _held_back(item, missed, len(members))
            elif not passes:
                missed = missed or item.candidate
    return tuple(found[item.candidate] for item in judged)


def tested(judged: Sequence[Judged]) -> int:
    """Candidates among which one is chosen: those whose accuracy was tested."""
    return sum(_tested(item) for item in judged)


def _tested(item: Judged) -> bool:
    """Whether chance could let the candidate pass: it was evaluated and is not the reference or the release itself."""
    rules = rulebook.of_kind(item.rules, "accuracy")
    return any(rule.measured is not None and rule.method not in UNTESTED for rule in rules)


def _held_back(item: Judged, missed: str, count: int) -> Judged:
    reason = (
        f"its accuracy would pass, but {missed}, which is safer, did not, and of {count} candidates only those before "
        "the first miss count, so that choosing among them is no better than one try; more labelled images would decide"
    )
    rule = rulebook.of(rulebook.SEQUENCE).rule("inconclusive", reason)
    rules = (*item.rules, rule)
    return item.model_copy(update={"rules": rules, "outcome": rulebook.outcome_of(rules)})
