"""``gate`` and ``compare``: finished runs judged by other rules, and two runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import VERDICT_CODES

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.config import Gate
    from edgeship.decide.runs import Change, Comparison
    from edgeship.decide.upgrade import Upgrade
    from edgeship.results import Decision

MOST_CLASSES = 12
"""Figures of single classes that ``compare`` prints; all of them are in its JSON."""
ORDER = ("SHIP", "INCONCLUSIVE", "NO-SHIP")


@app.command()
def gate(
    result: Path = typer.Argument(help="A run's result.json, or the folder that holds it."),
    rules: Path | None = typer.Option(None, "--rules", "-r", help="An edgeship.toml whose [gate] judges instead."),
    junit: Path | None = typer.Option(None, "--junit", help="Write JUnit XML here, one case for each rule."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Judge a finished run again, without measuring. Exit code 0 ship, 1 no-ship, 3 inconclusive."""
    from edgeship.decide.junit import write
    from edgeship.decide.runs import judge_again

    decisions = judge_again(result, *_rules(result, rules))
    if junit is not None:
        write(decisions, junit)
    verdict = max((decision.verdict for decision in decisions), key=ORDER.index)
    value: dict[str, Any] = {
        "verdict": verdict,
        "decisions": [decision.model_dump(mode="json") for decision in decisions],
    }
    emit(value, as_json=as_json, lines=lambda: _show_decisions(decisions))
    raise typer.Exit(VERDICT_CODES[verdict])


def _rules(result: Path, rules: Path | None) -> tuple[Gate, Path | None]:
    """The gate and the history of a config file; without one, the gate that the run was judged by."""
    from edgeship.config_file import load
    from edgeship.decide.finished_run import open_run

    if rules is None:
        return open_run(result).gate, None
    settings = load(rules)
    return settings.gate, settings.history.file


def _show_decisions(decisions: tuple[Decision, ...]) -> Lines:
    for decision in decisions:
        where = f" on {decision.target_name}" if len(decisions) > 1 else ""
        yield f"{decision.verdict}{where}: {decision.sentence}"
        for judged in decision.judged:
            yield f"  {judged.candidate}: {judged.outcome}"
            for rule in judged.rules:
                yield f"    {rule.outcome:<12} {rule.name}: {rule.reason}"


@app.command()
def compare(
    run_a: Path = typer.Argument(help="A run's folder or result.json: the earlier one."),
    run_b: Path = typer.Argument(help="The run to compare with it."),
    verdict: bool = typer.Option(
        False, "--verdict", help="Judge whether B may replace A; the exit code is that verdict's: 0, 1 or 3."
    ),
    slower: float = typer.Option(
        0.05, "--slower", min=0, help="With --verdict: how much more time B may take, as a share of A's median."
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """What changed between two runs: two versions of a model, or two targets; classes with the largest change first.

    With --verdict also whether B may replace A, such as after an upgrade of TensorRT: B's own rules must hold, its
    limits must hold against A's choice, paired on the same images, and its median may not be slower than allowed.
    """
    from edgeship.decide.runs import compare as compare_runs
    from edgeship.decide.upgrade import upgrade

    found = compare_runs(run_a, run_b)
    answer = upgrade(run_a, run_b, slower) if verdict else None
    told = found.model_dump(mode="json") | ({"upgrade": answer.model_dump(mode="json")} if answer is not None else {})
    emit(told, as_json=as_json, lines=lambda: [*_show_comparison(found), *_show_upgrade(answer)])
    if answer is not None:
        raise typer.Exit(VERDICT_CODES[answer.verdict])


def _show_upgrade(answer: Upgrade | None) -> Lines:
    for item in answer.targets if answer is not None else ():
        yield f"{item.verdict} on {item.target}: {item.sentence}"
        for rule in item.rules:
            yield f"    {rule.outcome:<12} {rule.name}: {rule.reason}"


def _show_comparison(found: Comparison) -> Lines:
    from rich.table import Table

    yield (found.sentence)
    chosen = tuple(name or "nothing" for name in found.chosen)
    yield (f"chosen: {chosen[0]} → {chosen[1]}" if chosen[0] != chosen[1] else f"chosen: {chosen[0]} in both")
    for item in found.candidates:
        place = item.target if item.target == item.other_target else f"{item.target} → {item.other_target}"
        table = Table(title=f"{item.candidate} ({place})", title_justify="left", box=None, pad_edge=False)
        for heading in ("", "A", "B", "B - A", ""):
            table.add_column(heading, justify="left" if not heading else "right")
        for change in item.changes:
            table.add_row(*_row(change))
        for change in item.rules:
            table.add_row(*_row(change.model_copy(update={"name": f"rule {change.name}"})))
        moved = [change for change in item.classes if change.before != change.after]
        for change in moved[:MOST_CLASSES]:
            table.add_row(*_row(change))
        yield table
        if len(moved) > MOST_CLASSES:
            yield f"{len(moved) - MOST_CLASSES} smaller changes of single classes: see --json"
    for label, names in (("only in A", found.only_a), ("only in B", found.only_b)):
        if names:
            yield f"{label}: {', '.join(names)}"
    if not found.paired:
        yield "the two runs were not evaluated on the same images: changes of metrics have no interval"
    for label, lines in (("settings", found.settings), ("environment", found.environment)):
        for line in lines:
            yield f"{label}: {line}"


def _row(change: Change) -> tuple[str, ...]:
    def show(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g} {change.unit}".rstrip()

    difference = "-"
    if change.before is not None and change.after is not None:
        difference = f"{change.after - change.before:+.3g}"
        if change.interval is not None:
            difference += f" [{change.interval[0]:+.3g}, {change.interval[1]:+.3g}]"
    return change.name, show(change.before), show(change.after), difference, change.direction
