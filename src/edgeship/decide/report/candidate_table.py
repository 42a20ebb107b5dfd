"""The table of the candidates, as terminal, Markdown and page show it: one model, three renderers.

:func:`candidate_table` makes the model; ``terminal.py``, ``summary.py`` and ``verdict.py`` render it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeship.decide.report import numbers
from edgeship.decide.report.view import CandidateView, TargetView
from edgeship.results import Trial


@dataclass(frozen=True)
class Heading:
    """The head of a column.

    Args:
        title: In full.
        short: For a narrow terminal.
        need: How much the column is needed: a narrow terminal leaves out those with the highest number first.
        number: Whether its cells are figures, set to the right.
    """

    title: str
    short: str
    need: int
    number: bool = True


@dataclass(frozen=True)
class Figure:
    """One cell. ``outcome``: pass, fail or inconclusive, where the cell says one; ``sort``: what it sorts by."""

    text: str
    sort: float | str | None = None
    outcome: str = ""
    note: str = ""


@dataclass(frozen=True)
class CandidateRow:
    """One candidate. The first figure is its name."""

    figures: tuple[Figure, ...]
    chosen: bool


@dataclass(frozen=True)
class CandidateTable:
    """Every row has a figure for each heading."""

    headings: tuple[Heading, ...]
    rows: tuple[CandidateRow, ...]


def candidate_table(view: TargetView) -> CandidateTable:
    """Every candidate of a target, in the order of the trials."""
    metric = view.metric
    return CandidateTable(headings(view, metric), tuple(candidate_row(view, item, metric) for item in view.candidates))


def headings(view: TargetView, metric: str | None) -> tuple[Heading, ...]:
    """What :func:`candidate_row` fills."""
    found = [
        Heading("Candidate", "candidate", 0, number=False),
        Heading("Outcome", "outcome", 0, number=False),
        Heading(f"p50, {view.clock}", f"p50 {view.clock}", 1),
        Heading("p99", "p99", 4),
        Heading("Images/s", "images/s", 9),
    ]
    if metric is not None:
        title = numbers.metric_title(metric)
        found += [Heading(title, title, 3), Heading("Drop", "drop", 2), Heading("Drop ≤", "drop ≤", 5)]
    rest = (Heading("Agreement", "agree", 6), Heading("Achieved", "achieved", 7), Heading("Engine", "engine", 8))
    return (*found, *rest)


def candidate_row(view: TargetView, candidate: CandidateView, metric: str | None) -> CandidateRow:
    """A candidate's figures."""
    latency, trial, judged = view.latency(candidate), candidate.trial, candidate.judged
    p50, p99 = (latency.p50, latency.p99) if latency is not None else (None, None)
    figures = [
        Figure(candidate.name, candidate.name, note=_note(candidate)),
        Figure(candidate.outcome_word, outcome=candidate.outcome),
        Figure(numbers.milliseconds(p50), p50),
        Figure(numbers.milliseconds(p99), p99),
        _throughput(trial),
    ]
    if metric is not None:
        share = view.share(metric)
        value, drop = candidate.metric(metric), candidate.drop(metric)
        bound = candidate.drop_bound(metric) if view.confidence else None
        figures += [
            Figure(numbers.metric_value(value, share=share), value),
            Figure(numbers.drop_value(drop, share=share), drop),
            Figure(numbers.drop_value(bound, share=share), bound),
        ]
    agreement = judged.agreement if judged is not None else None
    achieved = trial.audit.achieved if trial is not None and trial.audit is not None else None
    size = trial.build.engine.size_bytes if trial is not None and trial.build is not None else None
    figures += [
        Figure(numbers.percent(agreement, 1), agreement),
        Figure(numbers.percent(achieved, 0), achieved),
        Figure(numbers.size(size), size),
    ]
    return CandidateRow(tuple(figures), candidate.chosen)


def absent_row(view: TargetView, metric: str | None) -> CandidateRow:
    """A row for a target on which no candidate was tried."""
    return CandidateRow((Figure(numbers.ABSENT),) * len(headings(view, metric)), chosen=False)


def narrowed(table: CandidateTable, kept: list[int]) -> CandidateTable:
    """The table with these columns only, in its order."""
    rows = tuple(replace(row, figures=tuple(row.figures[index] for index in kept)) for row in table.rows)
    return CandidateTable(tuple(table.headings[index] for index in kept), rows)


def _note(candidate: CandidateView) -> str:
    notes = ["chosen"] if candidate.chosen else []
    trial = candidate.trial
    if trial is not None and trial.candidate.keep:
        count = len(trial.candidate.keep)
        notes.append(f"{count} node{'s' if count != 1 else ''} kept in high precision")
    if len(candidate.builds) > 1:
        notes.append(f"worst of {len(candidate.builds)} builds decides")
    if trial is not None and trial.failure is not None:
        notes.append(f"{trial.failure.stage}: {trial.failure.kind}")
    return ", ".join(notes)


def _throughput(trial: Trial | None) -> Figure:
    if trial is None or trial.latency is None:
        return Figure(numbers.ABSENT)
    value = trial.latency.throughput
    return Figure(f"{value:,.0f}" if value >= 100 else numbers.significant(value), value)
