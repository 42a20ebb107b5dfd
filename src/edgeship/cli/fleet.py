"""``fleet`` and ``worker``: many models on many devices."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeship.cli.app import app
from edgeship.cli.output import JSON_OPTION, console, emit, show

if TYPE_CHECKING:
    from rich.table import Table

    from edgeship.cli.output import Lines
    from edgeship.fleet.run import FleetResult, State, Watch

CA = typer.Option(None, "--ca", help="PEM of the authority that signed the certificates of all sides.")
CERT = typer.Option(None, "--cert", help="PEM of this side's certificate.")
KEY = typer.Option(None, "--key", help="PEM of its key.")
CODES = {"SHIP": 0, "NO-SHIP": 1, "INCONCLUSIVE": 3, "ERROR": 4}
"""The exit code of the worst cell."""


@app.command()
def fleet(
    file: Path = typer.Argument(Path("fleet.toml"), help="The fleet file."),
    out: Path | None = typer.Option(None, "--out", help="The work folder (default: fleet-out beside the file)."),
    scheduler: str | None = typer.Option(None, "--scheduler", help="Join this cluster: tls://host:8786."),
    ca: Path | None = CA,
    cert: Path | None = CERT,
    key: Path | None = KEY,
    as_json: bool = JSON_OPTION,
) -> None:
    """Ship many models on many devices: each model prepared once, its trials on the devices' workers.

    Writes a page of the matrix, fleet.json and junit.xml. Exit codes: 0 every cell ships, 1 one does not, 2 the input
    is wrong, 3 one is inconclusive, 4 one has no verdict.
    """
    from edgeship.fleet.config import load_fleet
    from edgeship.fleet.matrix import write_junit, write_page
    from edgeship.fleet.run import run_fleet

    given = {"address": scheduler, "ca": _whole(ca), "cert": _whole(cert), "key": _whole(key)}
    settings = load_fleet(file, {name: str(value) for name, value in given.items() if value is not None})
    folder = (out or settings.file.parent / "fleet-out").resolve()
    with _watched(quiet=as_json) as watch:
        result = run_fleet(settings, folder, watch, _show_dashboard)
    write_page(result, folder)
    write_junit(result, folder)
    emit(result, as_json=as_json, lines=lambda: _lines(result, folder))
    raise typer.Exit(CODES[result.verdict])


@app.command()
def worker(
    scheduler: str = typer.Argument(help="The scheduler: tls://host:8786."),
    labels: list[str] = typer.Option([], "--labels", "-l", help="What it serves, beside its name. Repeat, or a,b."),
    name: str | None = typer.Option(None, "--name", help="Its name in the cluster (default: the host's)."),
    base: Path = typer.Option(Path("edgeship-worker"), "--base", help="Where it keeps the files of trials."),
    ssh: str | None = typer.Option(None, "--ssh", help="Pass trials on to user@name, a device with SSH alone."),
    python: str = typer.Option("python3", "--python", help="The interpreter on that device."),
    remote_dir: str = typer.Option("edgeship-trials", "--remote-dir", help="The folder on that device."),
    at_once: int = typer.Option(1, "--at-once", min=1, help="Trials on the device at once; timing is alone anyway."),
    ca: Path | None = CA,
    cert: Path | None = CERT,
    key: Path | None = KEY,
    with_stdin: bool = typer.Option(False, "--end-with-stdin", hidden=True, help="Stop when standard input closes."),
) -> None:
    """Serve one device to a fleet, until the scheduler is gone. Needs the light install and the extra fleet."""
    from edgeship.config import Target
    from edgeship.errors import UserInputError
    from edgeship.fleet.worker import Joining, work
    from edgeship.targets.access import Access
    from edgeship.targets.parent import end_with_stdin

    if ssh is not None and at_once > 1:
        raise UserInputError("--at-once does not go with --ssh", do="start the worker on that device")
    if with_stdin:
        end_with_stdin()

    names = tuple(part.strip() for text in labels for part in text.split(",") if part.strip())
    via = Target(host=ssh, python=python, remote_dir=remote_dir) if ssh is not None else None
    own = name or socket.gethostname()
    work(Joining(Access(scheduler, ca, cert, key), own, names, base.resolve(), via, at_once))
    show(f"{own}: the scheduler is gone", error=True)
    raise typer.Exit(4)


def _show_dashboard(address: str) -> None:
    show(f"Dask's dashboard: {address}", error=True)


def _whole(path: Path | None) -> Path | None:
    return path.resolve() if path is not None else None


@contextmanager
def _watched(*, quiet: bool) -> Iterator[Watch]:
    """A live table of the models in a terminal; in a log a line for each stage."""
    if quiet:
        yield lambda _states, _model: None
        return
    screen = console(error=True)
    if not screen.is_terminal:
        told: dict[str, str] = {}

        def tell(states: dict[str, State], model: str) -> None:
            state = states[model]
            line = f"  {model:<16} {state.verdict or state.stage}"
            if told.get(model) != line:
                told[model] = line
                show(line, error=True)

        yield tell
        return
    from rich.live import Live

    with Live(console=screen, refresh_per_second=5, transient=True) as live:
        yield lambda states, _model: live.update(_table(states))


def _table(states: dict[str, State]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "targets", "stage", ""):
        table.add_column(heading)
    for state in list(states.values()):
        table.add_row(state.model, ", ".join(state.labels), state.verdict or state.stage, state.what[:80])
    return table


def _lines(result: FleetResult, folder: Path) -> Lines:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "target", "verdict", "ships", "p50 ms", "metric", "worker"):
        table.add_column(heading, justify="right" if heading == "p50 ms" else "left")
    for cell in result.cells:
        latency = "-" if cell.latency_p50_ms is None else f"{cell.latency_p50_ms:.4g}"
        metric = "-" if cell.value is None else f"{cell.metric} {cell.value:.4f}"
        worker_of = cell.workers[0] if cell.workers else "-"
        table.add_row(cell.model, cell.label, cell.verdict, cell.chosen or "-", latency, metric, worker_of)
    yield table
    yield from (f"note: {note}" for note in result.notes)
    yield from (f"{cell.model} on {cell.label}: {cell.sentence}" for cell in result.cells if cell.verdict != "SHIP")
    yield f"{result.verdict}   matrix {folder / 'fleet.html'}"
