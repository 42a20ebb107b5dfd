"""How latency is distributed, what disturbed it, and what an engine costs outside the frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.charts import row_charts
from edgeship.decide import rulebook
from edgeship.decide.finished_run import TrialFolder
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Column, Heading, Prose, Row, Section, Table
from edgeship.decide.report.budget import budget_blocks
from edgeship.decide.report.view import CandidateView, TargetView
from edgeship.results import Baseline, Trial, trial_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BINS = 96


@lru_cache(maxsize=64)
def _samples(path: Path, key: str) -> NDArray[np.float64] | None:
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        if key not in arrays.files:
            return None
        values = np.asarray(arrays[key], dtype=np.float64).ravel()
    return values[np.isfinite(values) & (values > 0)]


def load_samples(build: TrialFolder, clock: str) -> NDArray[np.float64] | None:
    """Latency samples in milliseconds, in order; None when they were not kept. Raises ArtifactError."""
    latency = build.trial.latency
    if latency is None or latency.samples is None:
        return None
    values = _samples(trial_folder.verified(build.folder, latency.samples), f"{clock}_ms")
    return values if values is not None and values.size else None


def latency_section(view: TargetView, prefix: str) -> Section | None:
    """One distribution a candidate, on one axis."""
    import numpy as np

    measured = [(candidate, view.latency(candidate)) for candidate in view.candidates]
    known = [(candidate, latency) for candidate, latency in measured if latency is not None]
    if not known:
        return None
    limits = [value for value in map(view.limit, (rulebook.P50, rulebook.P99)) if value is not None]
    low, high = min(item.min for _, item in known), max(item.p99 for _, item in known)
    shown = [limit for limit in limits if limit < high * 2.5]
    high = max(high * 1.08, *(limit * 1.04 for limit in shown), low * 1.05)
    log = high / low > 12
    axis = row_charts.axis(low * 0.97 if not log else low * 0.9, high, 8, log=log)
    rows = []
    for candidate, latency in known:
        samples = load_samples(candidate.builds[0], view.clock)
        counts = np.zeros(0, dtype=np.int64)
        beyond = 0
        if samples is not None:
            edges = (
                np.geomspace(axis.scale.low, axis.scale.high, BINS + 1)
                if log
                else np.linspace(axis.scale.low, axis.scale.high, BINS + 1)
            )
            counts = np.histogram(samples, edges)[0]
            beyond = int(np.count_nonzero(samples > axis.scale.high))
        marks = [("median", latency.p50), ("tail", latency.p99)]
        tail = f"{beyond:,} beyond the axis" if beyond else ""
        name = Cell(candidate.name, code=True, sub=_samples_note(candidate, latency.samples, tail))
        row = row_charts.histogram_row(axis, counts.tolist(), marks, shown)
        cells = (name, Cell(row), *_quantile_cells(latency.p50, latency.p90, latency.p99))
        rows.append(Row(cells, emphasis=candidate.chosen))
    columns = (
        Column("Candidate"),
        Column("Distribution, ms" + (" (log)" if log else ""), chart=True, wide=True, head=row_charts.scale_row(axis)),
        *(Column(name, number=True) for name in ("p50", "p90", "p99")),
    )
    caption = f"Latency samples, {view.clock} time. Solid line: median; dotted: p99; dashed: budget"
    lead = "Steady state: every call of the measured stretch counts, none is left out."
    blocks: list[Block] = [
        Table(caption, columns, tuple(rows)),
        *_conditions(view),
        *_costs(view),
        *budget_blocks(view),
    ]
    return Section(f"{prefix}latency", "Latency distributions", tuple(blocks), short="Latency", lead=lead)


def _samples_note(candidate: CandidateView, samples: int, tail: str) -> str:
    latency = candidate.trial.latency if candidate.trial is not None else None
    notes = [f"{samples:,} calls"]
    if latency is not None and not latency.settled:
        notes.append("median not settled")
    return ", ".join([*notes, *([tail] if tail else [])])


def _quantile_cells(*values: float) -> Iterator[Cell]:
    return (Cell(numbers.milliseconds(value)) for value in values)


def _conditions(view: TargetView) -> Iterator[Block]:
    """What may have disturbed a measurement, in words."""
    for candidate in view.candidates:
        latency = candidate.trial.latency if candidate.trial is not None else None
        if latency is not None and latency.conditions.changed:
            yield Prose(f"{candidate.name}: {latency.conditions.changed}")
        if latency is not None and latency.conditions.machine.busy:
            yield Prose(f"{candidate.name}: {latency.conditions.machine.busy}")


def _span(values: Sequence[float], unit: str) -> str:
    """A reading before, during and after: one number, or from the lowest to the highest."""
    if not values:
        return numbers.ABSENT
    low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return f"{low}\u00a0{unit}" if low == high else f"{low} to {high}\u00a0{unit}"


def _median(trial: Trial, name: str) -> str:
    quantiles = getattr(trial.latency, name, None)
    return numbers.milliseconds(quantiles.p50 if quantiles is not None else None)


def _memory(trial: Trial) -> str:
    memory = trial.latency.peak_memory_mib if trial.latency is not None else None
    return f"{numbers.significant(memory)}\u00a0MiB" if memory is not None else numbers.ABSENT


def _machine(trial: Trial, name: str, unit: str = "") -> str:
    """A reading of the machine's load."""
    value = getattr(trial.latency.conditions.machine, name) if trial.latency is not None else None
    return numbers.ABSENT if value is None else f"{numbers.fixed(value, 2)}{unit}"


COSTS: tuple[tuple[str, Callable[[Trial], str]], ...] = (
    ("Built in", lambda trial: numbers.seconds(trial.build.seconds if trial.build is not None else None)),
    ("Loaded in", lambda trial: numbers.seconds(trial.latency.load_s if trial.latency is not None else None)),
    ("Peak memory", _memory),
    ("Wall p50", lambda trial: _median(trial, "wall_ms")),
    ("Device p50", lambda trial: _median(trial, "device_ms")),
    ("Upload p50", lambda trial: _median(trial, "upload_ms")),
    ("Download p50", lambda trial: _median(trial, "download_ms")),
    ("Clock", lambda trial: _span(trial.latency.conditions.clock_mhz if trial.latency else (), "MHz")),
    ("Temperature", lambda trial: _span(trial.latency.conditions.temperature_c if trial.latency else (), "°C")),
    ("Others' CPU", lambda trial: _machine(trial, "others_cores", "\u00a0cores")),
    ("Load", lambda trial: _machine(trial, "load")),
    ("Power", lambda trial: _span(trial.latency.conditions.power_w if trial.latency else (), "W")),
)


def _costs(view: TargetView) -> Iterator[Block]:
    """Build, load and memory, transfers and conditions; columns in which nothing was measured are left out."""
    known = [(candidate, candidate.trial) for candidate in view.candidates if candidate.trial is not None]
    found = [(title, [read(trial) for _, trial in known]) for title, read in COSTS]
    shown = [(title, cells) for title, cells in found if any(cell != numbers.ABSENT for cell in cells)]
    if not shown:
        return
    rows = tuple(
        Row((Cell(candidate.name, code=True), *(Cell(cells[index]) for _, cells in shown)), emphasis=candidate.chosen)
        for index, (candidate, _) in enumerate(known)
    )
    columns = (Column("Candidate"), *(Column(title, number=True) for title, _ in shown))
    yield Heading("Around the measurement")
    yield Table(
        "Build, load, memory, transfers and conditions of each trial, as far as they were measured",
        columns,
        rows,
    )


# --- PyTorch -------------------------------------------------------------------------------------------------


def baseline_section(view: TargetView, prefix: str) -> Section | None:
    """What PyTorch would cost on this target, and the ratio to the focus candidate at the same batch."""
    title, identity = "What PyTorch would cost", f"{prefix}baselines"
    found = view.run.baselines(view.name)
    if found is None:
        if not view.run.result.config.get("benchmark", {}).get("baseline"):
            return None
        missing = Prose("PyTorch was not timed here: this target is on another host.", missing=True)
        return Section(identity, title, (missing,), short="PyTorch")
    latency = view.latency(view.focus) if view.focus is not None else None
    trial = view.focus.trial if view.focus is not None else None
    ours = (latency.p50, trial.latency.batch) if latency is not None and trial and trial.latency else None
    medians = {row.name: _baseline_p50(view, row) for row in found.rows}
    most = max([value for value in medians.values() if value is not None] + ([ours[0]] if ours else []), default=1.0)
    rows = []
    if ours is not None and view.focus is not None:
        bar = row_charts.bar_row(ours[0] / most, "kept")
        shown = numbers.milliseconds(ours[0])
        cells = (Cell(view.focus.name, code=True), Cell(str(ours[1])), Cell(shown), Cell(bar), Cell("1×"), Cell(""))
        rows.append(Row(cells, emphasis=True))
    for row in found.rows:
        median = medians[row.name]
        ratio = median / ours[0] if median is not None and ours is not None and row.batch == ours[1] else None
        shape = Cell(row_charts.bar_row(median / most) if median is not None else "")
        note = row.failed or ("" if row.latency is None or row.latency.settled else "median not settled")
        name = Cell(f"PyTorch {row.name}")
        shown = numbers.milliseconds(median)
        cells = (name, Cell(str(row.batch)), Cell(shown), shape, Cell(numbers.times(ratio)), Cell(note))
        rows.append(Row(cells))
    columns = (
        Column("Instead"),
        Column("Batch", number=True),
        Column("p50", number=True),
        Column("", chart=True, wide=True),
        Column("Slower by", number=True),
        Column("Note"),
    )
    caption = (
        f"PyTorch {found.torch} on {found.device}: the same shapes, timed by the same benchmark in the same run, "
        f"{view.clock} time; ratios at equal batch only"
    )
    return Section(identity, title, (Table(caption, columns, tuple(rows)),), short="PyTorch")


def _baseline_p50(view: TargetView, row: Baseline) -> float | None:
    """Its median by the clock of the target's engines."""
    timed = row.latency.timed(view.clock) if row.latency is not None else None
    return timed.quantiles.p50 if timed is not None else None
