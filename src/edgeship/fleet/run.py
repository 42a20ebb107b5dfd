"""A whole fleet: every config checked, every label placed, each model shipped in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgeship.errors import StorageError, TargetError
from edgeship.files import lock
from edgeship.fleet.config import Fleet, members
from edgeship.fleet.member import Job
from edgeship.fleet.placing import Placed, place
from edgeship.fleet.started import facts, scheduler, wait_until_there, workers
from edgeship.results import Result, RunResult, StageRun, TrialSummary, read, write
from edgeship.targets import wire
from edgeship.targets.access import Access
from edgeship.targets.cluster import Cluster, Lost
from edgeship.targets.local import last_line

AT_ONCE = 4
WORST_FIRST = ("ERROR", "NO-SHIP", "INCONCLUSIVE", "SHIP")
OWN = ".fleet"
"""The folder of what is the fleet's and no model's: workers, jobs, logs."""
Word = Literal["ERROR", "NO-SHIP", "INCONCLUSIVE", "SHIP"]
"""A verdict, or ``ERROR``: there is none."""


class Cell(Result):
    """One model on one target of the matrix."""

    model: str
    label: str
    verdict: Word
    chosen: str | None = None
    sentence: str
    engine: str = ""
    latency_p50_ms: float | None = None
    metric: str = ""
    """The metric that stands for the task: the first of the result's."""
    value: float | None = None
    workers: tuple[str, ...] = ()
    """Those that may have served it, the preferred one first."""


class FleetResult(Result):
    """fleet.json: what a fleet came to."""

    schema_version: int = 1
    run: str
    """What the history calls this fleet run."""
    finished: str
    verdict: Word
    """The worst of all cells."""
    cells: tuple[Cell, ...]
    seconds: dict[str, float]
    """How long each model took."""
    slowest: dict[str, StageRun] = Field(default_factory=dict)
    """Model → what took longest in it: a step of its preparation, or a trial with its target's name. Absent where
    nothing was run anew."""
    notes: tuple[str, ...] = ()
    dashboard: str = ""


@dataclass
class State:
    """What a model does now, for whoever watches."""

    model: str
    labels: tuple[str, ...]
    stage: str = "waits"
    what: str = ""
    verdict: str = ""
    since: float = field(default_factory=time.monotonic)


Watch = Callable[[dict[str, State], str], None]
"""Told all states and which one changed."""


@dataclass
class _Run:
    fleet: Fleet
    out: Path
    access: Access
    placed: Placed
    name: str
    watch: Watch
    states: dict[str, State]
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    slowest: dict[str, StageRun] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)


def run_fleet(
    fleet: Fleet,
    out: Path,
    watch: Watch = lambda _states, _model: None,
    linked: Callable[[str], None] = lambda _address: None,
) -> FleetResult:
    """Ship every model of a fleet on every target of its matrix.

    Args:
        fleet: The checked fleet file.
        out: The work folder: one run folder for each model; what an earlier run finished there is reused.
        watch: Told what happens, from several threads.
        linked: Told the address of Dask's dashboard, where there is one, before anything runs.

    Returns:
        One cell for each model and target. A model that fails is a cell of its own; the others go on.

    Raises:
        ConfigError: Faults of any model's config, all at once, before anything runs.
        UserInputError: A label that nobody has, or an address that is not safe.
        TargetError: The scheduler, or a worker of this machine, does not start.
    """
    members(fleet)
    with lock(out), scheduler(fleet) as access, workers(fleet, access, out / OWN / "workers") as made:
        cluster = Cluster(access)
        try:
            here = {name for name, device in fleet.devices.items() if device.where == "here"}
            wait_until_there(cluster, made, here)
            placed = place(fleet, facts(cluster))
            dashboard = _dashboard(cluster, own=fleet.access() is None)
        except Lost as error:
            raise TargetError(f"{error}, before anything ran", do="run the same command again") from None
        finally:
            cluster.close()
        if dashboard:
            linked(dashboard)
        name = datetime.now(timezone.utc).isoformat(timespec="seconds")
        states = {model: State(model, labels) for model, labels in fleet.matrix.items()}
        run = _Run(fleet, out, access, placed, name, watch, states)
        cells = _all(run, bool(here))
    worst = min((cell.verdict for cell in cells), key=WORST_FIRST.index)
    result = FleetResult(
        run=name,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        verdict=worst,
        cells=tuple(cells),
        seconds=run.seconds,
        slowest=run.slowest,
        notes=(*placed.notes, *run.notes),
        dashboard=dashboard,
    )
    write(result, out / "fleet.json")
    return result


def _dashboard(cluster: Cluster, *, own: bool) -> str:
    """The address of Dask's dashboard; empty where the cluster is our own and the package that draws it is absent."""
    if own and importlib.util.find_spec("bokeh") is None:
        return ""
    return str(cluster.client().dashboard_link or "")


def _all(run: _Run, here: bool) -> list[Cell]:
    """Every model, some side by side; Ctrl-C ends their processes first."""
    at_once = run.fleet.scheduler.models_at_once or (1 if here else AT_ONCE)
    found: dict[str, list[Cell]] = {}
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(_one, run, model): model for model in run.fleet.matrix}
        try:
            for future in as_completed(futures):
                found[futures[future]] = future.result()
        except BaseException:
            run.stopping.set()
            with run.guard:
                for process in run.processes.values():
                    process.send_signal(signal.SIGTERM)
            for future in futures:
                future.cancel()
            raise
    return [cell for model in run.fleet.matrix for cell in found[model]]


def _one(run: _Run, model: str) -> list[Cell]:
    """One model on all its targets. A model that fails has a cell without a verdict for each."""
    start = time.monotonic()
    state = run.states[model]
    out = run.out / model
    labels = run.fleet.matrix[model]
    try:
        errors = _attempt(run, model, labels, out)
    except (OSError, StorageError) as failed:
        errors = {label: {"found": str(failed)} for label in labels}
    run.seconds[model] = round(time.monotonic() - start, 3)
    result = None if len(errors) == len(labels) else read(RunResult, out / "result.json")
    ran = [item for item in result.stages if not item.cached] if result is not None else []
    if ran:
        run.slowest[model] = max(ran, key=lambda item: item.seconds)
    cells = [_cell(run, model, label, result, errors.get(label)) for label in labels]
    state.verdict = min((cell.verdict for cell in cells), key=WORST_FIRST.index)
    state.stage, state.what = "done", next((cell.sentence for cell in cells if cell.label in errors), "")
    run.watch(run.states, model)
    return cells


def _attempt(run: _Run, model: str, labels: tuple[str, ...], out: Path) -> dict[str, dict[str, Any]]:
    """Ship a model in a process; by label the error that kept it from a verdict."""
    job = Job(
        fleet=run.fleet.file,
        run=run.name,
        model=model,
        labels=labels,
        assigned=run.placed.assigned[model],
        scheduler=_settings(run),
        out=out,
    )
    place, log_file = run.out / OWN / f"{model}.json", log_of(run.out, model)
    place.parent.mkdir(parents=True, exist_ok=True)
    write(job, place)
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeship.fleet.member", str(place)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
            errors="replace", start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    with run.guard:
        run.processes[model] = process
        if run.stopping.is_set():
            process.send_signal(signal.SIGTERM)
    assert process.stdin is not None and process.stdout is not None
    errors: dict[str, dict[str, Any]] = {}
    verdict = False
    with process.stdin:  # its end tells the process that ours is gone
        with process.stdout as lines:
            for text in lines:
                message = wire.hear(text)
                errors = _errors(message, labels) | errors
                verdict = verdict or "verdict" in message
                _follow(run, run.states[model], message)
        code = process.wait()
    with run.guard:
        del run.processes[model]
    if not verdict and len(errors) < len(labels):
        said = last_line(log_file.read_text(encoding="utf-8", errors="replace"))
        error = {"found": f"its process ended with {code} and no verdict" + (f": {said}" if said else "")}
        errors = dict.fromkeys(labels, error) | errors
    return errors


def log_of(out: Path, model: str) -> Path:
    """Where a model's process writes what it says beside its results."""
    return out / OWN / f"{model}.log"


def _settings(run: _Run) -> dict[str, Any]:
    access = run.access
    told = {"address": access.address, "ca": access.ca, "cert": access.cert, "key": access.key}
    return {key: str(value) for key, value in told.items() if value} | {"patience_s": run.fleet.scheduler.patience_s}


def _errors(message: dict[str, Any], labels: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """An error that a model's process told, by the label that it concerns; without one, by all."""
    told = message.get("error")
    if not isinstance(told, dict):
        return {}
    return dict.fromkeys([message["label"]] if "label" in message else labels, told | {"stage": message.get("stage")})


def _follow(run: _Run, state: State, message: dict[str, Any]) -> None:
    """Take what a model's process tells into its state."""
    if "note" in message:
        with run.guard:
            run.notes.append(f"{state.model}: {message['note']}")
    if "began" in message:
        state.stage, state.what = str(message["began"]), ""
    elif isinstance(message.get("what"), str):
        state.what = str(message["what"])
    else:
        return
    run.watch(run.states, state.model)


def _cell(run: _Run, model: str, label: str, result: RunResult | None, error: dict[str, Any] | None) -> Cell:
    where = {"model": model, "label": label, "workers": run.placed.assigned[model][label]}
    if result is None or error is not None:
        told = error or {}
        stage = f"{told['stage']}: " if told.get("stage") else ""
        do = f"; do: {told['do']}" if told.get("do") else ""
        return Cell(**where, verdict="ERROR", sentence=f"{stage}{told.get('found', 'no result')}{do}")
    decision = next(item for item in result.decisions if item.target_name == label)
    own = [item for item in result.trials if item.target_name == label]
    chosen = next((item for item in own if item.candidate == decision.chosen), None)
    return Cell(
        **where,
        verdict=decision.verdict,
        chosen=decision.chosen,
        sentence=decision.sentence,
        engine=own[0].engine if own else "",
        latency_p50_ms=chosen.latency_ms.p50 if chosen is not None and chosen.latency_ms is not None else None,
        **_metric(chosen),
    )


def _metric(chosen: TrialSummary | None) -> dict[str, Any]:
    name = next(iter(chosen.metrics), "") if chosen is not None else ""
    return {"metric": name, "value": chosen.metrics[name]} if chosen is not None and name else {}
