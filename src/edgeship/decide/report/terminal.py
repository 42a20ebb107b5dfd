"""The last lines of ``edgeship ship``: plain strings and rich renderables, printed by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.decide.report import numbers
from edgeship.decide.report.evidence import Evidence
from edgeship.decide.report.view import CandidateView, TargetView, targets

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {"SHIP": "bold green", "NO-SHIP": "bold red", "INCONCLUSIVE": "bold yellow"}
MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
REASON = 160


def terminal_summary(evidence: Evidence, places: dict[str, Path] | None = None) -> list[RenderableType]:
    """The verdict, a table of the candidates, and where the files are.

    Args:
        evidence: What the run found out.
        places: Label → path, such as ``{"report": …, "bundle": …}``.
    """
    from rich.text import Text

    lines: list[RenderableType] = []
    for view in targets(evidence):
        head = Text()
        head.append(view.decision.verdict, style=STYLES[view.decision.verdict])
        name = f" on {view.name}" if len(evidence.decisions) > 1 else ""
        head.append(f"{name}  {view.decision.sentence}")
        lines.append(head)
        if view.candidates:
            lines.append(_table(view))
            lines += _reasons(view)
    for label, path in (places or {}).items():
        lines.append(Text.assemble((f"{label:<8}", "dim"), str(path)))
    return lines


def _table(view: TargetView) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    metric = numbers.metric_title(view.metric) if view.metric else None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("candidate", overflow="fold")
    for title in (f"p50 ms ({view.clock})", "p99 ms", *([metric, "drop", "≤ bound"] if metric else []), "agree"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for candidate in view.candidates:
        outcome = Text(f"{MARKS[candidate.outcome]} {candidate.outcome_word}", style=COLOURS[candidate.outcome])
        name = Text(candidate.name, style="bold" if candidate.chosen else "")
        table.add_row(name, *_cells(view, candidate, metric is not None), outcome)
    return table


def _cells(view: TargetView, candidate: CandidateView, with_metric: bool) -> list[str]:
    latency = view.latency(candidate)
    cells = [
        numbers.milliseconds(latency.p50 if latency else None, unit=False),
        numbers.milliseconds(latency.p99 if latency else None, unit=False),
    ]
    if with_metric:
        share = view.share(view.metric)
        cells += [
            numbers.metric_value(candidate.metric(view.metric), share=share),
            numbers.drop_value(candidate.drop(view.metric), share=share),
            numbers.drop_value(candidate.drop_bound(view.metric), share=share),
        ]
    agreement = candidate.judged.agreement if candidate.judged is not None else None
    return [*cells, numbers.percent(agreement, 1)]


def _reasons(view: TargetView) -> list[Text]:
    """Why each candidate does not pass: its first reason, and how many more stand in the report."""
    from rich.text import Text

    lines = []
    for candidate in view.candidates:
        reasons = candidate.reasons
        if reasons:
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            lines.append(Text.assemble((candidate.name, "bold"), f": {_short(reasons[0])}{more}"))
    return [*lines, Text("")] if lines else []


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= REASON else line[: REASON - 1].rstrip() + "…"
