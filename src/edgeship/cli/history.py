"""``history``: finished runs over time, from the SQLite file beside the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeship.cli.app import app
from edgeship.cli.output import JSON_OPTION, emit

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.history.difference import Difference
    from edgeship.history.entry import Entry
    from edgeship.history.store import History

NAME = "edgeship-history.sqlite"
program = typer.Typer(
    help="Finished runs over time: show them, what changed between two, and write them as a table.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(program, name="history")
FILE = typer.Option(
    None, "--file", "-f", help="The history (default: that of edgeship.toml here, else edgeship-history.sqlite)."
)
MODEL = typer.Option(None, "--model", help="Only runs of this model.")


def opened(file: Path | None) -> History:
    """The history that a command means. Raises UserInputError where there is none."""
    from edgeship.config_file import FILE as CONFIG
    from edgeship.config_file import load
    from edgeship.errors import UserInputError
    from edgeship.history.store import History

    place = file
    if place is None:
        place = load(Path(CONFIG)).history.file if Path(CONFIG).is_file() else Path(NAME)
    if not place.exists():
        raise UserInputError(
            f"no history at {place}",
            expected="the file that ship writes beside edgeship.toml",
            do="run edgeship ship, or name the file with --file",
        )
    return History(place)


@program.command()
def show(
    entry: str | None = typer.Argument(None, help="An entry's number, or last; without one, the runs as a table."),
    file: Path | None = FILE,
    model: str | None = MODEL,
    limit: int = typer.Option(20, "--limit", "-n", min=1, help="How many runs, the last ones."),
    as_json: bool = JSON_OPTION,
) -> None:
    """The last runs, or one of them with every rule's value, bound and limit."""
    history = opened(file)
    if entry is not None:
        found = history.entry(entry)
        emit(found, as_json=as_json, lines=lambda: _one(found))
        return
    entries = history.entries(model=model, limit=limit)
    told = {"entries": [item.model_dump(mode="json") for item in entries]}
    emit(told, as_json=as_json, lines=lambda: _all(entries))


@program.command()
def diff(
    before: str = typer.Argument(help="An entry's number."),
    after: str = typer.Argument("last", help="Another one, or last."),
    file: Path | None = FILE,
    as_json: bool = JSON_OPTION,
) -> None:
    """What changed between two runs, rule by rule and figure by figure. For the statistics see compare."""
    from edgeship.history.difference import difference

    history = opened(file)
    found = difference(history.entry(before), history.entry(after))
    emit(found, as_json=as_json, lines=lambda: _difference(found))


@program.command()
def export(
    out: Path = typer.Argument(help="Where to write: a path that ends in .csv or .parquet."),
    file: Path | None = FILE,
    model: str | None = MODEL,
    as_json: bool = JSON_OPTION,
) -> None:
    """Every rule of every run as one row of a CSV or Parquet table."""
    from edgeship.history.export import export as write

    count = write(opened(file).entries(model=model), out)
    emit({"rows": count, "file": str(out)}, as_json=as_json, lines=lambda: [f"{out}: {count} rows"])


def _all(entries: list[Entry]) -> Lines:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("#", "finished", "model", "version", "commit", "verdict", "target", "ships", "engine", "p50 ms"):
        table.add_column(heading, justify="right" if heading in ("#", "p50 ms") else "left")
    for entry in entries:
        for number, target in enumerate(entry.targets):
            when = entry.finished[:16].replace("T", " ")
            run = (str(entry.number), when, entry.model, entry.version, entry.commit[:10]) if number == 0 else ("",) * 5
            latency = entry.earlier(target).figures.get("latency_p50_ms")
            engine = f"{target.engine} {target.engine_version}".strip()
            shown = "-" if latency is None else f"{latency:.4g}"
            table.add_row(*run, target.verdict, target.name, target.chosen or "-", engine, shown)
    yield table if entries else "the history has no run of it"


def _one(entry: Entry) -> Lines:
    version = f" {entry.version}" if entry.version else ""
    yield f"#{entry.number} {entry.model}{version}, {entry.finished}: {entry.verdict}"
    yield entry.sentence
    if entry.commit:
        yield f"commit {entry.commit}{', with changes' if entry.changed else ''}"
    for name, digest in entry.digests.items():
        yield f"{name} {digest[:12]}"
    for target in entry.targets:
        yield f"{target.name}: {target.verdict}, {target.engine} {target.engine_version} on {target.device}"
        for rule in entry.rules:
            if rule.target == target.name:
                values = (("measured", rule.measured), ("bound", rule.bound), ("limit", rule.limit))
                told = ", ".join(f"{name} {value:.4g}" for name, value in values if value is not None)
                yield f"  {rule.candidate:<12} {rule.outcome:<12} {rule.name}{f': {told}' if told else ''} {rule.unit}"


def _difference(found: Difference) -> Lines:
    from rich.table import Table

    yield f"#{found.entries[0]} → #{found.entries[1]}: {' → '.join(dict.fromkeys(found.verdicts))}"
    yield from found.facts
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "candidate", "", "before", "after", "change", ""):
        table.add_column(heading, justify="right" if heading in ("before", "after", "change") else "left")
    for item in found.moved:
        values = ["-" if value is None else f"{value:.4g}" for value in (item.before, item.after)]
        change = "-" if item.before is None or item.after is None else f"{item.after - item.before:+.3g}"
        outcome = " → ".join(dict.fromkeys(item.outcome))
        table.add_row(item.target, item.candidate, item.name, *values, change, outcome)
    yield table if found.moved else "no rule and no figure differs"
    for label, names in (("only before", found.only_before), ("only after", found.only_after)):
        if names:
            yield f"{label}: {', '.join(names)}"
