"""The Markdown summary for continuous integration: the verdict, the candidates, the rules that do not pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from edgeship.decide.report import numbers
from edgeship.decide.report.evidence import Evidence
from edgeship.decide.report.view import RULE_WORDS, CandidateView, TargetView, targets
from edgeship.files import write_text

SIGNS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
SPECIAL = re.compile(r"([\\`*_\[\]|<>~&])|^([#+-])")


def write_summary(evidence: Evidence, path: Path) -> None:
    """Write the Markdown summary. Raises StorageError when the place cannot be written."""
    write_text(path, markdown_summary(evidence))


def markdown_summary(evidence: Evidence) -> str:
    """GitHub-flavoured Markdown. Names from outside are escaped: they cannot form markup or links."""
    parts = [f"# edgeship: {_plain(evidence.title)}", ""]
    for view in targets(evidence):
        parts += _target(view, several=len(evidence.decisions) > 1)
    total = sum(stage.seconds for stage in evidence.stages)
    if evidence.stages:
        reused = sum(stage.cached for stage in evidence.stages)
        again = f", {reused} of {len(evidence.stages)} stages reused" if reused else ""
        parts += [f"Run time {numbers.seconds(total)}{again}.", ""]
    return "\n".join(parts)


def _target(view: TargetView, *, several: bool) -> list[str]:
    where = f" on {_plain(view.name)}" if several else ""
    parts = [f"## {view.decision.verdict}{where}", "", _plain(view.decision.sentence), ""]
    if view.search is not None:
        parts += [f"Search: {_plain(view.search.sentence)}", ""]
    if view.candidates:
        parts += [*_candidates(view), ""]
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
    metric, share = view.metric, view.share(view.metric)
    head = ["candidate", f"p50 ({view.clock} time)", "p99"]
    if metric is not None:
        head += [_plain(numbers.metric_title(metric)), "drop", "bound of the drop"]
    rows = []
    for candidate in view.candidates:
        latency = view.latency(candidate)
        name = f"**{_code(candidate.name)}**" if candidate.chosen else _code(candidate.name)
        row = [
            name,
            *(numbers.milliseconds(value) for value in ((latency.p50, latency.p99) if latency else (None,) * 2)),
        ]
        if metric is not None:
            row.append(numbers.metric_value(candidate.metric(metric), share=share))
            row.append(numbers.drop_value(candidate.drop(metric), share=share))
            row.append(numbers.drop_value(candidate.drop_bound(metric), share=share))
        agreement = candidate.judged.agreement if candidate.judged is not None else None
        rows.append([*row, numbers.percent(agreement, 1), f"{SIGNS[candidate.outcome]} {candidate.outcome_word}"])
    return _table([*head, "agreement", "outcome"], rows)


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
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def _code(text: str) -> str:
    """A code span that may hold back-ticks and stands in a table cell."""
    line = " ".join(text.split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"
