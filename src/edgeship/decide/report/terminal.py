"""The last lines of ``edgeship ship``: rich renderables that fit the terminal's width, printed by the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report.candidate_table import CandidateTable, Figure, candidate_table, narrowed
from edgeship.decide.report.next_steps import NextStep, next_steps
from edgeship.decide.report.view import TargetView, targets
from edgeship.text import line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType

STYLES = {"SHIP": "bold green", "NO-SHIP": "bold red", "INCONCLUSIVE": "bold yellow"}
MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
REASON = 160
NAME = 26
"""Columns that the names get at least, before a figure is left out for them."""
GAP = 2
STEPS = 3
"""What to do next that the terminal shows; the report shows all."""


def terminal_summary(run: FinishedRun) -> list[RenderableType]:
    """The verdict, a table of the candidates, why some do not pass, and where the files are."""
    lines: list[RenderableType] = []
    views = targets(run)
    for view in views:
        head = Text()
        head.append(view.decision.verdict, style=STYLES[view.decision.verdict])
        name = f" on {view.name}" if len(views) > 1 else ""
        head.append(f"{name}  {line(view.decision.sentence)}")
        lines.append(head)
        if view.candidates:
            lines += [Text(""), Fitted(candidate_table(view)), Text(""), *_reasons(view)]
        lines += [Text.assemble(("doubt   ", "yellow"), f"the reference: {line(doubt)}") for doubt in view.doubts]
        lines += [Text.assemble(("next    ", "dim"), _step(step)) for step in next_steps(view)[:STEPS]]
    bundles = run.result.bundles
    places = {"report": run.result.report, "result": "result.json"}
    places |= {f"bundle {name}" if len(bundles) > 1 else "bundle": place for name, place in bundles.items()}
    for label, place in places.items():
        near = str(_near(run.folder / place))  # on one line, so that it can be copied
        lines.append(Text.assemble((f"{label:<8}", "dim"), near, no_wrap=True, overflow="ignore"))
    return lines


@dataclass(frozen=True)
class Fitted:
    """A table of candidates as wide as the terminal: what is needed least is left out, names break at their hyphens."""

    table: CandidateTable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The table for this width."""
        shown, names = fit(self.table, options.max_width)
        grid = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
        for index, head in enumerate(shown.headings):
            width = names if index == 0 else None
            grid.add_column(head.short, justify="right" if head.number else "left", no_wrap=True, width=width)
        for row in shown.rows:
            cells = [Text(broken(line(row.figures[0].text), names), style="bold" if row.chosen else "")]
            for figure in row.figures[1:]:
                mark = f"{MARKS[figure.outcome]} " if figure.outcome else ""
                cells.append(Text(mark + figure.text, style=COLOURS.get(figure.outcome, "")))
            grid.add_row(*cells)
        yield grid


def fit(table: CandidateTable, width: int) -> tuple[CandidateTable, int]:
    """The columns that fit ``width`` beside the names, and the width of the names.

    The names, outcomes and median stay, and names get :data:`NAME` columns at least if they are as long.
    """
    heads = table.headings
    wide = [
        max(cell_len(head.short), *(_length(row.figures[index]) for row in table.rows))
        for index, head in enumerate(heads)
    ]
    least = min(wide[0], NAME)
    kept, used = [0], least
    for index in sorted(range(1, len(heads)), key=lambda index: heads[index].need):
        if heads[index].need <= 1 or used + GAP + wide[index] <= width:
            kept.append(index)
            used += GAP + wide[index]
        else:
            break
    names = max(min(wide[0], width - (used - least)), 1)
    return narrowed(table, sorted(kept)), names


def _length(figure: Figure) -> int:
    """Columns that a figure takes, with its mark."""
    return cell_len(line(figure.text)) + (2 if figure.outcome else 0)


def broken(name: str, width: int) -> str:
    """A name in lines of at most ``width`` characters, broken after ``-``, ``_``, ``/`` or ``.`` where there is one."""
    lines = [""]
    for part in re.findall(r"[^-_/.]*[-_/.]?", name):
        rest = part
        if len(lines[-1]) + len(rest) > width and lines[-1]:
            lines.append("")
        while len(rest) > width:
            lines[-1], rest = rest[:width], rest[width:]
            lines.append("")
        lines[-1] += rest
    return "\n".join(lines)


def _step(step: NextStep) -> str:
    rule = f"{line(step.rule)}: " if step.rule else ""
    return f"{rule}{line(step.change)}" + (f" ({line(step.command)})" if step.command else "")


def _reasons(view: TargetView) -> list[Text]:
    """Why each candidate does not pass: its first reason, and how many more stand in the report."""
    lines = []
    for candidate in view.candidates:
        reasons = candidate.reasons
        if reasons:
            more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            lines.append(Text.assemble((line(candidate.name), "bold"), f": {_short(reasons[0])}{more}"))
    return [*lines, Text("")] if lines else []


def _short(reason: str) -> str:
    text = line(reason)
    return text if len(text) <= REASON else text[: REASON - 1].rstrip() + "…"


def _near(place: Path) -> Path:
    """A path as short as it can be typed from here."""
    here = Path.cwd()
    return place.resolve().relative_to(here) if place.resolve().is_relative_to(here) else place
