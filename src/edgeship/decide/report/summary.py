"""The Markdown summary for continuous integration: the verdict, the candidates, the rules that do not pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import numbers
from edgeship.decide.report.candidate_table import candidate_table
from edgeship.decide.report.next_steps import next_steps
from edgeship.decide.report.view import RULE_WORDS, CandidateView, TargetView, targets
from edgeship.files import write_text
from edgeship.text import line

SIGNS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
SPECIAL = re.compile(r"([\\`*_\[\]|<>~&])|^([#+-])")


def write_summary(run: FinishedRun, path: Path) -> None:
    """Write the Markdown summary. Raises StorageError when the place cannot be written."""
    write_text(path, markdown_summary(run))


def markdown_summary(run: FinishedRun) -> str:
    """GitHub-flavoured Markdown. Names from outside are escaped: they cannot form markup or links."""
    parts = [f"# edgeship: {_plain(run.result.title)}", ""]
    views, stages = targets(run), run.result.stages
    for view in views:
        parts += _target(view, several=len(views) > 1)
    total = sum(stage.seconds for stage in stages)
    if stages:
        reused = sum(stage.cached for stage in stages)
        again = f", {reused} of {len(stages)} stages reused" if reused else ""
        parts += [f"Run time {numbers.seconds(total)}{again}.", ""]
    return "\n".join(parts)


def _target(view: TargetView, *, several: bool) -> list[str]:
    where = f" on {_plain(view.name)}" if several else ""
    parts = [f"## {view.decision.verdict}{where}", "", _plain(view.decision.sentence), ""]
    if view.search is not None:
        parts += [f"Search: {_plain(view.search.sentence)}", ""]
    if view.candidates:
        parts += [*_candidates(view), ""]
    steps = next_steps(view)
    if view.doubts:
        parts += [f"**The reference is doubtful.** {_plain(doubt)}" for doubt in view.doubts] + [""]
    if steps:
        parts += ["### What to do next", ""]
        for step in steps:
            command = f" {_code(step.command)}" if step.command else ""
            parts.append(f"- {_plain(step.rule)}: {_plain(step.found)}. {_plain(step.change)}.{command}")
        parts.append("")
    focus = view.focus
    if focus is not None and focus.rules:
        parts += [f"### Rules for {_code(focus.name)}", "", *_rules(view, focus), ""]
    others = [candidate for candidate in view.candidates if candidate is not focus and candidate.reason]
    if others:
        parts += ["### Why the others do not pass", ""]
        parts += [f"- {_code(candidate.name)}: {_plain(candidate.reason)}" for candidate in others]
        parts.append("")
    return parts


def _candidates(view: TargetView) -> list[str]:
    table = candidate_table(view)
    rows = []
    for row in table.rows:
        name = _code(row.figures[0].text)
        cells = [f"**{name}**" if row.chosen else name]
        for figure in row.figures[1:]:
            cells.append(f"{SIGNS[figure.outcome]} {figure.text}" if figure.outcome else figure.text)
        rows.append(cells)
    return _table([_plain(head.title) for head in table.headings], rows)


def _rules(view: TargetView, candidate: CandidateView) -> list[str]:
    rows = [
        [
            _plain(numbers.rule_title(rule.name)),
            view.quantity(rule, rule.measured),
            view.quantity(rule, rule.bound),
            view.quantity(rule, rule.limit),
            f"{SIGNS[rule.outcome]} {RULE_WORDS[rule.outcome]}",
            _plain(rule.reason),
        ]
        for rule in candidate.rules
    ]
    return _table(["rule", "measured", "bound", "limit", "outcome", "reason"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return SPECIAL.sub(r"\\\g<0>", line(text))


def _code(text: str) -> str:
    """A code span that may hold back-ticks and stands in a table cell."""
    plain = line(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", plain)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"
