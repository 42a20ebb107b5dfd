"""What each repair of INT8 gained, those too that did not help and are not shipped."""

from __future__ import annotations

from collections.abc import Iterable

from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Column, Prose, Row, Section, Table
from edgeship.results import Repaired


def repair_section(run: FinishedRun) -> Section | None:
    """INT8 before and after each repair, against FP32 on calibration frames; None where nothing was repaired."""
    found = run.repaired
    if not found:
        return None
    columns = (
        Column("Candidate"),
        Column("Layers changed"),
        Column("int8", number=True),
        Column("Repaired", number=True),
        Column("Same answer, int8", number=True),
        Column("Repaired", number=True),
        Column("Without rounding", number=True),
        Column("Took", number=True),
        Column("Kept"),
    )
    table = Table(
        "Signal-to-noise of the worst output against FP32; a repair that gains less than 0.1 dB is not tried further",
        columns,
        tuple(Row(tuple(Cell(value) for value in _values(name, item))) for name, item in found.items()),
    )
    frames = max(found.values(), key=lambda item: item.frames)
    judged = f"{frames.held_out} others" if frames.held_out else "the same"
    blocks: list[Block] = [table, *(Prose(note + ".") for note in _notes(found.values()))]
    lead = f"Each step looked at {frames.frames} calibration frames, and INT8 was compared with FP32 on {judged}."
    return Section("repair", "Repaired INT8", tuple(blocks), lead=lead)


def _values(name: str, item: Repaired) -> tuple[str, ...]:
    changed = ", ".join(f"{step} {count}" for step, count in item.changed.items())
    return (
        name,
        changed,
        _db(item.before_db),
        _db(item.after_db),
        _share(item.agreement_before),
        _share(item.agreement_after),
        _db(item.float_db),
        numbers.seconds(item.seconds),
        "yes" if item.improved else "no",
    )


def _notes(items: Iterable[Repaired]) -> list[str]:
    notes = (note for item in items for note in item.notes)
    return list(dict.fromkeys(notes))


def _db(value: float) -> str:
    return f"{numbers.fixed(value, 1)}\u00a0dB"


def _share(value: float | None) -> str:
    return numbers.metric_value(value, share=True) if value is not None else ""
