"""``report``: the page of a finished run, written again without measuring."""

from __future__ import annotations

from pathlib import Path

import typer

from edgeship.cli.app import app
from edgeship.cli.output import show


@app.command()
def report(
    run: Path = typer.Argument(help="A run's folder, or its result.json."),
    out: Path | None = typer.Option(None, "--out", "-o", help="The page (default: report.html in the run's folder)."),
    markdown: Path | None = typer.Option(None, "--markdown", help="Write the Markdown summary here too."),
) -> None:
    """Write the report of a finished run again, from its result.json and the folders that it names."""
    from edgeship.decide.finished_run import open_run
    from edgeship.decide.report import write_report, write_summary

    found = open_run(run)
    place = out or found.folder / found.result.report
    write_report(found, place)
    if markdown is not None:
        write_summary(found, markdown)
    show(str(place))
