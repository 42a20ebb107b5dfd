"""A finished run in short, as the history keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeship.files import sha256_json
from edgeship.results import Decision, EarlierRun, Result, Rule, RunResult, Trial, VerdictWord

QUANTILES = ("p50", "p90", "p99")


class KeptRule(Result):
    """One rule as it was judged for one candidate of one target."""

    target: str
    candidate: str
    name: str
    outcome: str
    measured: float | None
    bound: float | None
    limit: float | None
    unit: str
    reason: str


class KeptFigure(Result):
    """One figure of one candidate: a metric, a quantile of latency, the engine's size."""

    target: str
    candidate: str
    name: str
    """``top1``, ``latency_p50_ms``, ``engine_mib``."""
    value: float


class KeptTarget(Result):
    """One target of a run: its verdict, and what it was tried on."""

    name: str
    verdict: VerdictWord
    chosen: str | None
    engine: str
    engine_version: str = ""
    """As the engine that was built tells; empty where none was."""
    device: str = ""
    """The device's own name; the config's where no engine was built."""


class Entry(Result):
    """One finished run of the history."""

    number: int = 0
    """Its number in the history, from 1; 0: not appended yet."""
    digest: str
    """SHA-256 over what was measured and judged: the same run is kept once."""
    finished: str
    """ISO 8601, UTC."""
    model: str
    version: str
    commit: str
    changed: bool
    verdict: VerdictWord
    sentence: str
    edgeship: str
    fleet: str = ""
    """The fleet run that it was part of; empty: none."""
    digests: dict[str, str]
    """SHA-256 of the graph, the weights, the images and the config."""
    targets: tuple[KeptTarget, ...]
    rules: tuple[KeptRule, ...] = ()
    figures: tuple[KeptFigure, ...] = ()

    def target(self, name: str) -> KeptTarget | None:
        """The target of that name; None where the run had none."""
        return next((item for item in self.targets if item.name == name), None)

    def earlier(self, target: KeptTarget) -> EarlierRun:
        """This run on one target, as a later run's report shows it."""
        figures = {item.name: item.value for item in self.figures if _place(item) == (target.name, target.chosen)}
        return EarlierRun(
            number=self.number,
            finished=self.finished,
            version=self.version,
            commit=self.commit,
            target=target.name,
            verdict=target.verdict,
            chosen=target.chosen,
            figures=figures,
        )


@dataclass(frozen=True)
class Evidence:
    """A file of a released engine's trial: what a later run is compared with.

    Args:
        target: The target that it shipped on.
        name: The file's name in the trial's folder.
        data: Its bytes.
    """

    target: str
    name: str
    data: bytes


def digest_of(model: str, version: str, decisions: Sequence[Decision], seals: Sequence[str]) -> str:
    """SHA-256 over what a run measured (the seals of its trials) and judged; equal for one run told twice."""
    judged = [item.model_dump(mode="json") for item in decisions]
    return sha256_json({"model": model, "version": version, "decisions": judged, "trials": list(seals)})


def entry_of(result: RunResult, trials: Sequence[Trial], seals: Sequence[str], fleet: str = "") -> Entry:
    """The entry of a finished run.

    Args:
        result: Its result.
        trials: Its trials in full, in the order of ``result.trials``.
        seals: The digests of the trials' folders.
        fleet: The fleet run that it was part of.
    """
    lineage = result.lineage
    return Entry(
        digest=digest_of(result.title, lineage.version, result.decisions, seals),
        finished=result.finished,
        model=result.title,
        version=lineage.version,
        commit=lineage.commit,
        changed=lineage.changed,
        verdict=result.verdict,
        sentence=result.sentence,
        edgeship=result.edgeship,
        fleet=fleet,
        digests=lineage.digests,
        targets=tuple(_target(result, trials, number) for number in range(len(result.decisions))),
        rules=tuple(
            _rule(decision.target_name, judged.candidate, rule)
            for decision in result.decisions
            for judged in decision.judged
            for rule in judged.rules
        ),
        figures=tuple(_figures(result)),
    )


def _target(result: RunResult, trials: Sequence[Trial], number: int) -> KeptTarget:
    decision = result.decisions[number]
    own = [trial for trial in trials if trial.target_name == decision.target_name]
    identity = next((trial.build.identity for trial in own if trial.build is not None), None)
    return KeptTarget(
        name=decision.target_name,
        verdict=decision.verdict,
        chosen=decision.chosen,
        engine=own[0].engine if own else "",
        engine_version=identity.version if identity is not None else "",
        device=identity.device if identity is not None else own[0].device if own else "",
    )


def _rule(target: str, candidate: str, rule: Rule) -> KeptRule:
    told = rule.model_dump(include=set(KeptRule.model_fields) & set(Rule.model_fields))
    return KeptRule(target=target, candidate=candidate, **told)


def _figures(result: RunResult) -> list[KeptFigure]:
    found: dict[tuple[str, str, str], float] = {}
    for trial in result.trials:
        place = (trial.target_name, trial.candidate)
        values = dict(trial.metrics)
        if trial.latency_ms is not None:
            values |= {f"latency_{name}_ms": getattr(trial.latency_ms, name) for name in QUANTILES}
        if trial.engine_mib is not None:
            values["engine_mib"] = trial.engine_mib
        for name, value in values.items():
            found.setdefault((*place, name), value)  # of several builds the first, as result.json is read
    return [KeptFigure(target=t, candidate=c, name=n, value=value) for (t, c, n), value in found.items()]


def _place(item: KeptFigure) -> tuple[str, str]:
    return item.target, item.candidate
