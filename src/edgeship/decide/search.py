"""Find the fastest mixed-precision engine that passes, with few engine builds. Pure: a callback builds and tries.

The ranking says which groups of nodes do the damage. Keeping the worst k of them in high precision costs time and
buys accuracy. Plans are tried as a fixed sequence, the most kept first, down to the first that does not pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edgeship.config import Precision
from edgeship.decide import rulebook
from edgeship.decide.sentences import slower
from edgeship.results import Candidate, Decision, Judged, Outcome, SearchAttempt, Searched, Sensitivity

ACTIVATIONS = frozenset(("Sigmoid", "Mul", "HardSigmoid", "HardSwish", "Tanh", "Softmax", "Erf", "Gelu"))


@dataclass(frozen=True)
class Tried:
    """A candidate after its trial: how it was judged and its median latency (None: not measured).

    ``hottest`` is the audit's profile: operator kinds by share of the run time. ``preview_db`` is the signal-to-noise
    of the target's outputs against the preview's. ``ran`` is False for an engine that was built where it cannot run.
    """

    judged: Judged
    median_ms: float | None = None
    keep: tuple[str, ...] = ()
    hottest: tuple[tuple[str, float], ...] = ()
    preview_db: float | None = None
    ran: bool = True


Attempt = Callable[[Candidate], Tried]
"""Quantize, build and judge one candidate. A trial that crashes returns its failing Judged and does not raise."""
Preview = Callable[[Candidate], Judged]
"""Judge the accuracy of a candidate's graph on the workstation, without building anything."""
Ahead = Callable[[Sequence[Candidate]], None]
"""Told the plans that are looked at next, in order, as long as none fails: what can be begun ahead."""


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Args:
        precision: Of the mixed candidates: ``int8``, or ``fp16`` with nodes in FP32.
        max_trials: Engine builds allowed, besides the natural limit of log2(groups) + 4.
        preview: Where the target is not this workstation: judged first, so that only survivors are built.
        ahead: Told which previews will be asked for; None: nobody begins any of them ahead.
        fallback: Whether to stop when the plain candidate is slower than high precision, where keeping nodes only
            loses.
        extra_keep: Nodes that the config keeps in every candidate of this precision.
        repair: Steps that repaired the weights and ranges of plain INT8, and so of every plan.
    """

    precision: Precision = "int8"
    max_trials: int = 24
    preview: Preview | None = None
    ahead: Ahead | None = None
    fallback: bool = True
    extra_keep: tuple[str, ...] = ()
    repair: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The low precision, as sentences call it."""
        return self.precision.partition("-")[0].upper()


def settled(found: Searched, decision: Decision) -> Searched:
    """What a search found, by the verdict: what its own trials left open, candidates timed turn by turn may settle.

    Unchanged where nothing ships, or what the search chose.
    """
    if decision.chosen is None or decision.chosen == found.chosen:
        return found
    plan = next((item for item in found.attempts if item.candidate == decision.chosen), None)
    half = found.half.attempts if found.half is not None else ()
    keep = next((item.keep for item in (*found.attempts, *half) if item.candidate == decision.chosen), ())
    left = found.sentence.rstrip(".")
    return found.model_copy(
        update={
            "answer": "high-precision" if plan is None else "mixed" if keep else "plain",
            "chosen": decision.chosen,
            "keep": keep,
            "sentence": f"ship {decision.chosen}: the verdict settled what the search left open ({left}).",
        }
    )


def trial_limit(groups: int, max_trials: int = 24) -> int:
    """Engines a search may build, the plain INT8 one included: log2(groups) + 4 at most."""
    return min(max_trials, math.floor(math.log2(max(groups, 1))) + 4)


def sizes(groups: int, count: int) -> list[int]:
    """How many groups the plans keep, most first: at most ``count``, geometric from half of the groups to one."""
    if groups < 2 or count < 1:
        return []
    most = max(1, groups // 2)
    steps = [most ** (1 - i / max(count - 1, 1)) for i in range(count)]
    return list(dict.fromkeys(max(1, round(step)) for step in steps))


def search(
    ranking: Sensitivity, plain: Tried, high: Tried | None, attempt: Attempt, options: SearchOptions | None = None
) -> Searched:
    """Search the fastest mixed-precision engine that passes.

    Args:
        ranking: Groups worst first, from :func:`edgeship.prepare.sensitivity.rank`.
        plain: The low precision everywhere, plain or repaired, already tried (counts as one trial).
        high: The same model in the high precision (fp16 or fp32), already tried; None: not tried.
        attempt: Builds and judges one candidate, whose ``keep`` names nodes of the model.
        options: See :class:`SearchOptions`.

    Returns:
        ``mixed`` with the fastest plan that passes, ``plain`` when nothing needs to be kept, ``high-precision`` when
        only that passes, ``nothing`` otherwise; each with a sentence that says what stood in the way.
    """
    return _Search(ranking, plain, high, attempt, options or SearchOptions()).run()


@dataclass(frozen=True)
class _Plan:
    candidate: Candidate
    count: int
    why: str


@dataclass
class _Search:
    ranking: Sensitivity
    plain: Tried
    high: Tried | None
    attempt: Attempt
    options: SearchOptions
    attempts: list[SearchAttempt] = field(default_factory=list)
    tried: dict[frozenset[str], Tried] = field(default_factory=dict)
    previewed: dict[frozenset[str], Outcome] = field(default_factory=dict)
    builds: int = 0

    def run(self) -> Searched:
        first = self._plan("", self.plain.keep, 0, f"{self._name.removeprefix('plain ')} everywhere")
        where: Literal["target", "preview"] = "target" if self.plain.ran else "preview"
        self.attempts.append(_attempt(self.plain.judged, first, self.plain.median_ms, where))
        if rulebook.accuracy_of(self.plain.judged.rules) == "pass":
            if self.plain.judged.outcome == "pass":
                if self.options.fallback and self._slower_than_high() and self._high_passes():
                    return self._refused(self._slower_sentence(self.plain))
                return self._answer("plain", self.plain, f"{self._name} passes every rule; nothing needs to be kept")
            return self._refused(f"{self._name} keeps its accuracy, but {_first_reason(self.plain.judged)}")
        if self.options.fallback and self._slower_than_high():
            found = self._without_activations() if self.options.precision != "fp16" else None
            return found or self._refused(self._slower_sentence(self.plain))
        best = self._descend()
        if best is None:
            return self._refused(self._nothing_sentence())
        if self.options.fallback and not self._beats_high(best) and self._high_passes():
            return self._refused(self._slower_sentence(best))
        return self._answer("mixed", best, self._mixed_sentence(best))

    # --- steps

    def _descend(self) -> Tried | None:
        """The fastest of the plans that pass, from the most kept groups down to the first miss.

        The sizes are fixed before anything is tried and the first miss ends it, so that many plans err no more often
        than one (see :mod:`edgeship.decide.sequence`).
        """
        survivors: list[int] = []
        plans = [self._worst(k) for k in sizes(len(self.ranking.groups), self._left())]
        if self.options.preview is not None and self.options.ahead is not None:
            self.options.ahead([plan.candidate for plan in plans])
        for plan in plans:
            if self._look(plan) != "pass":
                break
            survivors.append(plan.count)
        return self._confirm(survivors)

    def _confirm(self, survivors: list[int]) -> Tried | None:
        """Build what the preview let through, fewest kept first; where the target disagrees, the next larger one."""
        for k in reversed(survivors):
            tried = self._build(self._worst(k))
            if tried is None or not tried.ran or rulebook.accuracy_of(tried.judged.rules) == "pass":
                break
        return self._fastest()

    def _worst(self, k: int) -> _Plan:
        groups = self.ranking.groups
        nodes = tuple(node for group in groups[:k] for node in group.nodes)
        return self._plan(f"keep{k}", nodes, k, f"the {k} most harmful of {len(groups)} groups kept")

    def _without_activations(self) -> Searched | None:
        """Where INT8 is slower, the activations are often to blame: try INT8 convolutions with them kept."""
        nodes = tuple(
            node
            for group in self.ranking.groups
            for node, operator in zip(group.nodes, group.operator.split("+"), strict=False)
            if operator in ACTIVATIONS
        )
        if not nodes or self._left() <= 0:
            return None
        plan = self._plan("keep-activations", nodes, 0, "INT8 is slower here: its activations kept")
        tried = self._build(plan) if self._look(plan) == "pass" else None
        if tried is None or tried.judged.outcome != "pass" or not self._beats_high(tried):
            return None
        return self._answer("mixed", tried, self._mixed_sentence(tried))

    # --- one plan

    @property
    def _name(self) -> str:
        """What the plans begin from, for sentences."""
        word, repair = self.options.word, self.options.repair
        return f"{word} repaired by {' and '.join(repair)}" if repair else f"plain {word}"

    def _plan(self, kept: str, nodes: tuple[str, ...], count: int, why: str) -> _Plan:
        keep = tuple(dict.fromkeys([*self.options.extra_keep, *nodes]))
        repair = self.options.repair
        name = "-".join([self.options.precision, *(["+".join(repair)] if repair else []), kept])
        return _Plan(Candidate(name=name, precision=self.options.precision, keep=keep, repair=repair), count, why)

    def _look(self, plan: _Plan) -> Outcome:
        """The accuracy of a plan: from the preview where there is one, else from a trial."""
        key = frozenset(plan.candidate.keep)
        if self.options.preview is None:
            tried = self._build(plan)
            return rulebook.accuracy_of(tried.judged.rules) if tried is not None else "fail"
        if key not in self.previewed:
            seen = self.options.preview(plan.candidate)
            self.previewed[key] = rulebook.accuracy_of(seen.rules)
            self.attempts.append(_attempt(seen, plan, None, "preview"))
        return self.previewed[key]

    def _build(self, plan: _Plan) -> Tried | None:
        """Try a plan on the target; None when no build is left for it."""
        key = frozenset(plan.candidate.keep)
        if key in self.tried:
            return self.tried[key]
        if self.builds + 1 >= trial_limit(len(self.ranking.groups), self.options.max_trials):
            return None
        self.builds += 1
        tried = self.attempt(plan.candidate)
        tried = replace(tried, keep=plan.candidate.keep)
        self.tried[key] = tried
        attempt = _attempt(tried.judged, plan, tried.median_ms, "target")
        self.attempts.append(attempt.model_copy(update={"preview_db": tried.preview_db}))
        return tried

    def _left(self) -> int:
        """Plans that may still be tried, in the preview or on the target; plain INT8 was the first."""
        plans = len(self.tried.keys() | self.previewed.keys())
        return trial_limit(len(self.ranking.groups), self.options.max_trials) - 1 - plans

    def _fastest(self) -> Tried | None:
        passing = [item for item in self.tried.values() if item.judged.outcome == "pass"]
        return min(passing, key=lambda item: item.median_ms if item.median_ms is not None else math.inf, default=None)

    # --- what the times say

    def _slower_than_high(self) -> bool:
        return self.high is not None and _at_least(self.plain.median_ms, self.high.median_ms)

    def _beats_high(self, tried: Tried) -> bool:
        return self.high is None or not _at_least(tried.median_ms, self.high.median_ms)

    def _high_passes(self) -> bool:
        return self.high is not None and self.high.judged.outcome == "pass"

    # --- answers

    def _answer(self, answer: Literal["mixed", "plain"], tried: Tried, sentence: str) -> Searched:
        return Searched(
            answer=answer,
            chosen=tried.judged.candidate,
            keep=tried.keep,
            sentence=f"{sentence}.{self._preview_sentence()}",
            attempts=tuple(self.attempts),
            ranking=self.ranking,
            builds=self.builds,
            saved_builds=self._saved(),
        )

    def _refused(self, why: str) -> Searched:
        high, passes = self.high, self._high_passes()
        if high is None:
            sentence = f"nothing passes: {why}."
        elif passes:
            sentence = f"ship {high.judged.candidate}: {why}."
        else:
            sentence = f"nothing passes: {why}; {high.judged.candidate}: {_first_reason(high.judged)}."
        return Searched(
            answer="high-precision" if passes else "nothing",
            chosen=high.judged.candidate if passes and high is not None else None,
            keep=next((item.keep for item in self.tried.values() if not item.ran), ()),
            sentence=sentence + self._preview_sentence(),
            attempts=tuple(self.attempts),
            ranking=self.ranking,
            builds=self.builds,
            saved_builds=self._saved(),
        )

    def _saved(self) -> int:
        return len(self.previewed.keys() - self.tried.keys())

    def _preview_sentence(self) -> str:
        """What the preview on the workstation was worth; empty where there was none."""
        if not self.previewed:
            return ""
        text = f" Previews on the workstation saved {self._saved()} builds"
        seen = [item.preview_db for item in self.tried.values() if item.preview_db is not None]
        if seen:
            text += f"; the target's outputs were at least {min(seen):.1f} dB above their difference from the preview's"
        return text + "."

    def _slower_sentence(self, tried: Tried) -> str:
        """Why high precision is the better choice than ``tried``: plain INT8, or the fastest mixed plan that passes."""
        assert self.high is not None and self.high.median_ms is not None and tried.median_ms is not None
        name = (
            self._name.removeprefix("plain ")
            if tried is self.plain
            else f"{tried.judged.candidate}, the fastest mixed plan that passes,"
        )
        times = tried.median_ms, self.high.median_ms
        text = slower(name, tried.judged.rules, times, self.high.judged.candidate, tried.hottest)
        if tried is not self.plain:
            text += f"; {self._name} takes {_ms(self.plain.median_ms)}, but {_first_reason(self.plain.judged)}"
        return text

    def _nothing_sentence(self) -> str:
        accurate = [item for item in self.tried.values() if rulebook.accuracy_of(item.judged.rules) == "pass"]
        if accurate:
            nearest = min(accurate, key=lambda item: item.median_ms or math.inf)
            return f"{nearest.judged.candidate} keeps the accuracy, but {_first_reason(nearest.judged)}"
        if not self.tried:
            return f"no plan could be tried beyond {self._name}: {_first_reason(self.plain.judged)}"
        last = max(self.tried.values(), key=lambda item: len(item.keep))
        if not last.ran:
            kept = f"nodes in high precision: {len(last.keep)}"
            return f"{last.judged.candidate} keeps the accuracy in its preview ({kept}), and was built, not run"
        reason = "; ".join(rule.reason for rule in last.judged.rules if rule.outcome != "pass")
        return f"{len(self.tried)} mixed plans were tried and none passes; {last.judged.candidate}: {reason}"

    def _mixed_sentence(self, best: Tried) -> str:
        text = f"{best.judged.candidate} passes with {len(best.keep)} nodes kept in high precision"
        if best.median_ms is not None:
            others = [f"{self._name} {_ms(self.plain.median_ms)}"]
            if self.high is not None:
                others.append(f"{self.high.judged.candidate} {_ms(self.high.median_ms)}")
            text += f" at {_ms(best.median_ms)} ({', '.join(others)})"
        if not self._beats_high(best) and self.high is not None:
            text += f"; {self.high.judged.candidate} is faster all the same"
        return text


def _attempt(judged: Judged, plan: _Plan, median: float | None, where: Literal["target", "preview"]) -> SearchAttempt:
    return SearchAttempt(
        candidate=judged.candidate,
        keep=plan.candidate.keep,
        groups_kept=plan.count,
        where=where,
        outcome=judged.outcome,
        accuracy=rulebook.accuracy_of(judged.rules),
        latency_ms=median,
        drop=judged.drop,
        why=plan.why,
    )


def _first_reason(judged: Judged) -> str:
    rules = [rule for rule in judged.rules if rule.outcome != "pass"]
    rules.sort(key=lambda rule: rule.outcome != "fail")
    return rules[0].reason if rules else "every rule passes"


def _at_least(left: float | None, right: float | None) -> bool:
    return left is not None and right is not None and left >= right


def _ms(value: float | None) -> str:
    return "unmeasured" if value is None else f"{value:.3g} ms"
