"""What a whole frame costs: its parts, its rate, its start and its energy, where the gate asked for them."""

from __future__ import annotations

from collections.abc import Iterator

from edgeship.decide.budget_rules import PARTS
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Column, Heading, Row, Table
from edgeship.decide.report.view import TargetView


def budget_blocks(view: TargetView) -> Iterator[Block]:
    """Tables of frames, and of starts and energy; nothing where none was measured."""
    known = [(candidate, candidate.trial) for candidate in view.candidates if candidate.trial is not None]
    rows = []
    for candidate, trial in known:
        times = trial.frame
        if times is None:
            continue
        late = f"{times.missed} of {times.paced}" if times.fps is not None else numbers.ABSENT
        parts = [times.parts_ms.get(name) for name in PARTS]
        medians = (numbers.milliseconds(part.p50 if part is not None else None) for part in parts)
        total = (numbers.milliseconds(value) for value in (times.total_ms.p50, times.total_ms.p99))
        cells = (Cell(candidate.name, code=True), *(Cell(text) for text in (*medians, *total, late)))
        rows.append(Row(cells, emphasis=candidate.chosen))
    if rows:
        titles = (*PARTS.values(), "Frame p50", "Frame p99", "Late")
        columns = (Column("Candidate"), *(Column(title.capitalize(), number=True) for title in titles))
        yield Heading("The whole frame")
        yield Table("Medians of the parts of a frame, wall time, as the runtime does it", columns, tuple(rows))
    yield from _rest(view)


def _rest(view: TargetView) -> Iterator[Block]:
    rows = []
    for candidate in view.candidates:
        trial = candidate.trial
        if trial is None or (trial.starts is None and trial.energy is None):
            continue
        starts, energy = trial.starts, trial.energy
        cells = (
            numbers.seconds(max(starts.cold_ms) / 1e3) if starts is not None else numbers.ABSENT,
            numbers.seconds(max(starts.warm_ms) / 1e3) if starts is not None else numbers.ABSENT,
            _mean(energy.mj_per_frame, "mJ") if energy is not None else numbers.ABSENT,
            _mean(energy.power_w, "W") if energy is not None else numbers.ABSENT,
            _mean(energy.rest_w, "W") if energy is not None else numbers.ABSENT,
        )
        rows.append(Row((Cell(candidate.name, code=True), *map(Cell, cells)), emphasis=candidate.chosen))
    if rows:
        titles = ("Cold start", "Warm start", "Energy a frame", "Power", "At rest")
        columns = (Column("Candidate"), *(Column(title, number=True) for title in titles))
        yield Heading("Start and energy")
        yield Table("From nothing to the first answer (longest), and energy above rest (mean)", columns, tuple(rows))


def _mean(values: tuple[float, ...], unit: str) -> str:
    return f"{numbers.significant(sum(values) / len(values))}\u00a0{unit}" if values else numbers.ABSENT
