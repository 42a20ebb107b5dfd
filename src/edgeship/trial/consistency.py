"""The consistency audit of a trial: an engine's answers do not depend on batch, neighbours or repeats.

Engines whose rows leak into each other pass every accuracy test that runs them in one way and fail in the vehicle,
which runs them in another. So the same real frames go through an open engine in several ways that must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.data.feeds import batch_of, batch_size, fixed_batch
from edgeship.errors import InconsistentError
from edgeship.progress import Progress, silent
from edgeship.results import Consistency, ConsistencyCheck, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeship.config import Batch, Precision
    from edgeship.engines import Array, Feeds, Runner

    Outputs = dict[str, Array]

MIN_DB: dict[Precision, float] = {"fp32": 60.0, "fp16": 35.0, "bf16": 25.0}
"""How far rounding may take two runs of one row apart, as signal-to-noise; kernels differ between batches. In INT8 and
FP8 a value on a boundary may round to the next level: :data:`QUANTIZED_DB`."""
TF32_DB = 40.0
QUANTIZED_DB = 20.0
MIN_EQUAL = 0.98
"""Share of equal elements in integer outputs (classes of pixels, indices)."""
CEILING_DB = 200.0
"""Equal to the last bit."""
NEIGHBOURS = 4
"""Rows that are also run among copies of themselves."""
MAX_ROWS = 64
"""Rows of the largest batch that is tried; a profile's maximum may be far more than memory likes."""


@dataclass(frozen=True)
class Asked:
    """What the audit is for: the precision that sets the tolerance, and the profile's batches."""

    precision: Precision
    batch: Batch
    timed: int
    """The batch that is measured and shipped."""
    tf32: bool = False

    @property
    def min_db(self) -> float:
        """The least signal-to-noise between two answers for the same row."""
        least = MIN_DB.get(self.precision, QUANTIZED_DB)
        return min(least, TF32_DB) if self.tf32 else least


def audit_consistency(runner: Runner, frames: Feeds, asked: Asked, progress: Progress = silent) -> Consistency:
    """Run the same frames in several ways and compare.

    Repeats must agree; a batch of equal rows must give equal answers; a row must be answered alike among copies of
    itself and among others; a permuted batch must give permuted answers; the smallest, the timed and the largest batch
    must agree on the rows that they share.

    Args:
        runner: An open engine.
        frames: Real frames by input name, rows along the first axis.
        asked: Precision and batches.
        progress: Told which comparison runs.

    Raises:
        DataError: The frames do not fit the engine.
        EngineError: The engine failed.
    """
    checks: list[ConsistencyCheck] = []
    names = ("repeat", "equal rows", "other neighbours", "permuted rows", "batches")
    ways = (_repeat, _equal_rows, _other_neighbours, _permuted, _batches)
    for number, (name, way) in enumerate(zip(names, ways, strict=True)):
        progress(number, len(names), f"consistency: {name}")
        checks += [_judged(name, words, pair, asked) for words, pair in way(runner, frames, asked)]
    notes = []
    if _rows(runner, asked) == 1:
        notes.append("the engine takes one row at a time: rows cannot influence each other")
    return Consistency(checks=tuple(checks), min_db=asked.min_db, min_equal=MIN_EQUAL, notes=tuple(notes))


def require_consistent(found: Consistency) -> None:
    """Raise InconsistentError that names what differs and by how much."""
    failed = [check for check in found.checks if not check.passed]
    if not failed:
        return
    said = "; ".join(f"{check.what}: output {check.output!r} {check.said}" for check in failed[:4])
    raise InconsistentError(
        f"the engine's answers depend on more than the frame: {said}",
        expected=f"the same answer for the same row, within {found.min_db:g} dB",
        do="look for arithmetic across the batch axis in the model (a mean or norm over axis 0, a reshape that mixes "
        "rows); where the model has none, build the engine again or with a batch of min = opt = max",
    )


def several(frames: Feeds, inputs: Sequence[TensorInfo]) -> dict[str, Array]:
    """Frames with two different rows at least: a single frame is joined by itself, mirrored along its last axis."""
    if batch_size(inputs, {name: array.shape for name, array in frames.items()}) > 1:
        return dict(frames)
    return {
        name: np.concatenate([array, array[..., ::-1]]) if array.ndim > 1 and len(array) == 1 else array
        for name, array in frames.items()
    }


Pair = tuple["Outputs", "Outputs"]


def _repeat(runner: Runner, frames: Feeds, asked: Asked) -> Iterator[tuple[str, Pair]]:
    feeds = batch_of(frames, runner.inputs, asked.timed)
    yield f"the same batch of {asked.timed} twice", (runner.infer(feeds), runner.infer(feeds))


def _equal_rows(runner: Runner, frames: Feeds, asked: Asked) -> Iterator[tuple[str, Pair]]:
    rows = _rows(runner, asked)
    if rows < 2:
        return
    first = {name: array[:1] if array.ndim else array for name, array in frames.items()}
    answers = runner.infer(batch_of(_with_fixed(first, frames, runner), runner.inputs, rows))
    per_row = {name: array for name, array in answers.items() if _is_per_row(array, rows)}
    copies = {name: np.repeat(array[:1], rows, axis=0) for name, array in per_row.items()}
    yield f"{rows} equal rows in one batch", (copies, per_row)


def _other_neighbours(runner: Runner, frames: Feeds, asked: Asked) -> Iterator[tuple[str, Pair]]:
    """A mean over the batch is the same in any order: only other neighbours show it where the batch is fixed."""
    rows = _rows(runner, asked)
    if rows < 2:
        return
    mixed = runner.infer(batch_of(frames, runner.inputs, rows))
    per_row = [name for name, array in mixed.items() if _is_per_row(array, rows)]
    few = min(rows, NEIGHBOURS, max((len(array) for array in frames.values() if array.ndim), default=1))
    among_copies: dict[str, list[Array]] = {name: [] for name in per_row}
    for place in range(few):
        one = {name: array[place : place + 1] if array.ndim else array for name, array in frames.items()}
        answers = runner.infer(batch_of(_with_fixed(one, frames, runner), runner.inputs, rows))
        for name in per_row:
            among_copies[name].append(answers[name][place : place + 1])
    same = {name: np.concatenate(found) for name, found in among_copies.items() if found}
    words = f"{few} rows among copies of themselves and among others, batch {rows}"
    yield words, ({name: mixed[name][:few] for name in same}, same)


def _permuted(runner: Runner, frames: Feeds, asked: Asked) -> Iterator[tuple[str, Pair]]:
    rows = _rows(runner, asked)
    if rows < 2:
        return
    feeds = batch_of(frames, runner.inputs, rows)
    order = np.roll(np.arange(rows), 1)
    turned = {name: array[order] if _takes_rows(runner, name, rows) else array for name, array in feeds.items()}
    before, after = runner.infer(feeds), runner.infer(turned)
    kept = {name: array[order] for name, array in before.items() if _is_per_row(array, rows)}
    yield f"a batch of {rows} in another order", (kept, {name: after[name] for name in kept})


def _batches(runner: Runner, frames: Feeds, asked: Asked) -> Iterator[tuple[str, Pair]]:
    """The rows that two batch sizes share, with the smallest batch run as often as it needs."""
    sizes = sorted({asked.batch.min, asked.batch.opt, asked.timed, _rows(runner, asked)})
    largest = sizes[-1]
    if not any(_takes_rows(runner, info.name, None) for info in runner.inputs) or largest == 1:
        return
    feeds = batch_of(frames, runner.inputs, largest)
    whole = runner.infer(feeds)
    per_row = [name for name, array in whole.items() if _is_per_row(array, largest)]
    for size in sizes[:-1]:
        parts = [runner.infer(batch_of(feeds, runner.inputs, size, start)) for start in _starts(largest, size)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in per_row if name in parts[0]}
        rows = min(len(parts) * size, largest)
        same = {name: array[:rows] for name, array in joined.items() if array.shape[1:] == whole[name].shape[1:]}
        yield (
            f"batch {size} against batch {largest}",
            ({name: whole[name][:rows] for name in same}, same),
        )


def _starts(largest: int, size: int) -> list[int]:
    """Where batches of ``size`` begin in ``largest`` rows: at most eight of them."""
    return list(range(0, largest - size + 1, size))[:8]


def _rows(runner: Runner, asked: Asked) -> int:
    """The largest batch that is tried."""
    return fixed_batch(runner.inputs) or max(min(asked.batch.max, MAX_ROWS), asked.timed)


def _takes_rows(runner: Runner, name: str, rows: int | None) -> bool:
    """Whether an input's first axis is the batch: a dynamic one, or a fixed one of just so many rows."""
    info = next(info for info in runner.inputs if info.name == name)
    if not info.shape:
        return False
    return isinstance(info.shape[0], str) or info.shape[0] == rows


def _with_fixed(first: Feeds, frames: Feeds, runner: Runner) -> dict[str, Array]:
    """The single row of every input whose first axis is a batch; the whole array of the others."""
    several = {info.name for info in runner.inputs if info.shape and isinstance(info.shape[0], str)}
    only = not several
    return {name: first[name] if only or name in several else frames[name] for name in frames}


def _is_per_row(array: Array, rows: int) -> bool:
    return array.ndim > 0 and array.shape[0] == rows


def _judged(kind: str, words: str, pair: Pair, asked: Asked) -> ConsistencyCheck:
    """The worst output of one comparison."""
    found = [_compared(kind, words, name, one, pair[1][name], asked) for name, one in pair[0].items()]
    if not found:
        return ConsistencyCheck(
            kind=kind, what=words, output="", passed=True, said="no output has one row for each frame"
        )
    return min(found, key=lambda check: (check.passed, check.db if check.db is not None else CEILING_DB))


def _compared(kind: str, words: str, name: str, one: Array, other: Array, asked: Asked) -> ConsistencyCheck:
    if one.shape != other.shape:
        said = f"has shape {list(other.shape)}, not {list(one.shape)}"
        return ConsistencyCheck(kind=kind, what=words, output=name, passed=False, said=said)
    if one.dtype.kind != "f":
        equal = float(np.mean(one == other)) if one.size else 1.0
        said = f"agrees in {equal:.1%} of its elements"
        return ConsistencyCheck(kind=kind, what=words, output=name, passed=equal >= MIN_EQUAL, equal=equal, said=said)
    db = worst_row_db(one, other)
    said = "is not finite in the same places" if db is None else f"differs by noise at {db:.1f} dB"
    passed = db is not None and db >= asked.min_db
    return ConsistencyCheck(kind=kind, what=words, output=name, passed=passed, db=db, said=said)


def worst_row_db(one: Array, other: Array) -> float | None:
    """Signal-to-noise of the row that differs most; None where one is finite and the other is not.

    A row's noise is taken over the mean power of all rows, since one row may be all zeros. Detections may come in
    another order where their scores are equal: rows are also compared with their values sorted, and the better counts.

    Args:
        one: Floats [rows, ...].
        other: The same shape.
    """
    a, b = _flat(one), _flat(other)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return None
    a, b = np.nan_to_num(a, posinf=0.0, neginf=0.0), np.nan_to_num(b, posinf=0.0, neginf=0.0)
    power = float(np.mean(a**2)) if a.size else 0.0
    noise = [_worst(a, b), _worst(np.sort(a, axis=1), np.sort(b, axis=1))]
    least = min(noise)
    if least == 0.0:
        return CEILING_DB
    return float(min(10 * np.log10(power / least), CEILING_DB)) if power > 0 else -CEILING_DB


def _flat(array: Array) -> NDArray[Any]:
    rows = array.shape[0] if array.ndim else 1
    return np.asarray(array, np.float64).reshape(rows, -1)


def _worst(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.max(np.mean((a - b) ** 2, axis=1), initial=0.0)) if a.size else 0.0
