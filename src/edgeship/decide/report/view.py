"""What page, Markdown and terminal have in common: a run's trials and judgements by candidate and target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from edgeship.decide import rulebook
from edgeship.decide.finished_run import FinishedRun, TrialFolder
from edgeship.decide.report import numbers
from edgeship.metrics.several import tasks_in
from edgeship.results import Clock, Decision, Judged, Quantiles, Rule, Searched, Trial, TrialSummary, common_clock

PRIMARY = ("top1", "map", "map50", "miou")
OUTCOME_WORDS = {"pass": "passes", "fail": "fails", "inconclusive": "undecided"}
RULE_WORDS = {"pass": "pass", "fail": "fail", "inconclusive": "undecided"}
VERDICT_OUTCOME = {"SHIP": "pass", "NO-SHIP": "fail", "INCONCLUSIVE": "inconclusive"}


@dataclass(frozen=True)
class CandidateView:
    """One candidate on one target: its trials (rebuilds included) and its judgement."""

    name: str
    builds: tuple[TrialFolder, ...]
    judged: Judged | None
    chosen: bool

    @property
    def trial(self) -> Trial | None:
        """The first build's trial."""
        return self.builds[0].trial if self.builds else None

    @property
    def outcome(self) -> str:
        """pass, fail or inconclusive; a failed trial fails."""
        if self.judged is not None:
            return self.judged.outcome
        return "fail" if self.trial is not None and self.trial.failure is not None else "inconclusive"

    @property
    def outcome_word(self) -> str:
        """The outcome in words."""
        if self.trial is not None and self.trial.failure is not None:
            return "failed"
        return OUTCOME_WORDS[self.outcome]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules as judged."""
        return self.judged.rules if self.judged is not None else ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it does not pass."""
        if self.trial is not None and self.trial.failure is not None:
            return (f"{self.trial.failure.stage}: {self.trial.failure.message}",)
        return self.judged.reasons if self.judged is not None else ()

    @property
    def reason(self) -> str:
        """Why it does not pass, in one cell."""
        return "; ".join(self.reasons)

    def rule(self, name: str) -> Rule | None:
        """The rule of that name."""
        return next((rule for rule in self.rules if rule.name == name), None)

    def metric(self, name: str | None) -> float | None:
        """A task metric."""
        evaluation = self.trial.evaluation if self.trial is not None else None
        return evaluation.metrics.get(name) if evaluation is not None and name is not None else None

    def drop(self, name: str | None) -> float | None:
        """The drop of a metric."""
        return self.judged.drop.get(name) if self.judged is not None and name is not None else None

    def drop_bound(self, name: str | None) -> float | None:
        """The upper confidence bound of a drop: the rule's, else the interval's upper end."""
        rule = self.rule(rulebook.of(rulebook.MAX_DROP).named(name or ""))
        if rule is not None and rule.bound is not None:
            return rule.bound
        interval = self.judged.drop_interval.get(name) if self.judged is not None and name is not None else None
        return interval[1] if interval is not None else None


@dataclass(frozen=True)
class TargetView:
    """One target: its decision and its candidates."""

    run: FinishedRun
    decision: Decision
    number: int

    @property
    def name(self) -> str:
        """The target's name."""
        return self.decision.target_name

    @property
    def search(self) -> Searched | None:
        """The search on this target; None where there was none."""
        return self.run.result.search.get(self.name)

    @property
    def confidence(self) -> float:
        """Of every bound; 0: statistics are off."""
        return self.run.gate.confidence

    @property
    def confidence_words(self) -> str:
        """``95 %``, or that statistics are off."""
        return f"{self.confidence * 100:g}\u00a0%" if self.confidence else "statistics off"

    @cached_property
    def doubts(self) -> tuple[str, ...]:
        """Why the reference may mean nothing: what the gate found, and a reference that failed."""
        found = [
            rule.reason
            for item in self.decision.judged
            for rule in item.rules
            if rulebook.of(rule.name).name == rulebook.REFERENCE
        ]
        failure = self.run.reference.trial.failure
        if failure is not None:
            found.append(f"It failed in {failure.stage}: {failure.message}")
        return tuple(dict.fromkeys(found))

    @cached_property
    def summaries(self) -> dict[str, TrialSummary]:
        """What result.json says of each candidate's first build on this target."""
        own = [item for item in self.run.result.trials if item.target_name == self.name]
        return {item.candidate: item for item in reversed(own)}

    @cached_property
    def candidates(self) -> tuple[CandidateView, ...]:
        """All candidates tried or judged on this target, in the order of the trials."""
        builds: dict[str, list[TrialFolder]] = {}
        for item in self.run.trials:
            if item.trial.target_name == self.name:
                builds.setdefault(item.trial.candidate.name, []).append(item)
        judged = {item.candidate: item for item in self.decision.judged}
        names = [*builds, *(name for name in judged if name not in builds)]
        return tuple(
            CandidateView(
                name=name,
                builds=tuple(sorted(builds.get(name, []), key=lambda item: item.trial.rebuild)),
                judged=judged.get(name),
                chosen=name == self.decision.chosen,
            )
            for name in names
        )

    @cached_property
    def focus(self) -> CandidateView | None:
        """The chosen candidate, or the one nearest to passing: fewest rules failed, then fewest undecided."""
        for candidate in self.candidates:
            if candidate.chosen:
                return candidate
        judged = [candidate for candidate in self.candidates if candidate.rules]
        if not judged:
            return self.candidates[0] if self.candidates else None

        def distance(candidate: CandidateView) -> tuple[int, int, float]:
            outcomes = [rule.outcome for rule in candidate.rules]
            latency = self.latency(candidate)
            return outcomes.count("fail"), outcomes.count("inconclusive"), latency.p50 if latency else float("inf")

        return min(judged, key=distance)

    @cached_property
    def metric(self) -> str | None:
        """The metric that stands for the task."""
        known = self.metrics
        for candidate in self.candidates:
            for rule in candidate.rules:
                subject = rulebook.subject_of(rule.name)
                if subject in known:
                    return subject
        return next((name for name in PRIMARY if name in known), known[0] if known else None)

    @cached_property
    def metrics(self) -> list[str]:
        """Every metric that was evaluated, in the task's order."""
        names: dict[str, None] = {}
        builds = (build for candidate in self.candidates for build in candidate.builds)
        for item in (self.run.reference, *builds):
            if item.trial.evaluation is not None:
                names.update(dict.fromkeys(item.trial.evaluation.metrics))
        return list(names)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The names of several tasks that were evaluated at once; empty where it was one."""
        evaluation = self.run.reference.trial.evaluation
        return tuple(tasks_in(evaluation.task)) if evaluation is not None else ()

    def share(self, metric: str | None) -> bool:
        """Whether a metric is a share, so that it is written as a percentage."""
        values = [value for value in (candidate.metric(metric) for candidate in self.candidates) if value is not None]
        reference = self.reference_metric(metric)
        return numbers.is_share([*values, *([reference] if reference is not None else [])])

    def reference_metric(self, metric: str | None) -> float | None:
        """The reference's value of a metric."""
        evaluation = self.run.reference.trial.evaluation
        return evaluation.metrics.get(metric) if evaluation is not None and metric is not None else None

    @cached_property
    def clock(self) -> Clock:
        """The one clock that the candidates are compared by."""
        trials = [candidate.trial for candidate in self.candidates if candidate.trial is not None]
        return common_clock([trial.latency for trial in trials], self.run.gate.clock)

    def latency(self, candidate: CandidateView) -> Quantiles | None:
        """A candidate's latency by this target's clock."""
        if candidate.trial is None or candidate.trial.latency is None:
            return None
        timed = candidate.trial.latency.timed(self.clock)
        return timed.quantiles if timed is not None else None

    def limit(self, rule: str) -> float | None:
        """The limit of a rule, as any candidate was judged by it."""
        for candidate in self.candidates:
            found = candidate.rule(rule)
            if found is not None and found.limit is not None:
                return found.limit
        return None

    def rule_share(self, rule: Rule) -> bool:
        """Whether a rule's numbers are shares."""
        subject = rulebook.subject_of(rule.name)
        return self.share(subject) if subject in self.metrics else True

    def quantity(self, rule: Rule, value: float | None) -> str:
        """A rule's number as it is shown."""
        return numbers.rule_quantity(rule, value, share=self.rule_share(rule))


def targets(run: FinishedRun) -> tuple[TargetView, ...]:
    """The views of all targets."""
    return tuple(TargetView(run, decision, index) for index, decision in enumerate(run.result.decisions, 1))
