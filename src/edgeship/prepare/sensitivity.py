"""Ranks groups of nodes by the damage of their quantization, on real frames, with no engine built.

The graph is rewritten so that each group of nodes (a convolution or matrix product with its activation, or another
operator with an integer kernel) is there twice, in an ``If``: as it was, and with its inputs, weights and, for
onnxruntime, outputs rounded to their 8-bit grids. A boolean vector fed at run time says which groups are quantized,
so one session answers for every group alone and for every plan that keeps some of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from edgeship.data.loader import default_workers
from edgeship.errors import DataError, UserInputError
from edgeship.prepare import graph
from edgeship.prepare.float_nodes import float_nodes
from edgeship.prepare.inferred_graph import infer, select
from edgeship.prepare.node_groups import find_groups
from edgeship.prepare.noise_meter import Spread, Switched, on_threads
from edgeship.prepare.quantized_tensors import Placement, Style
from edgeship.prepare.switched_graph import SwitchedGraph
from edgeship.progress import Progress, silent
from edgeship.results import Sensitivity

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.calibration_cache import CalibrationCache
    from edgeship.prepare.frame_checks import FrameBatch

FRAMES = 4
"""Frames that every group is measured on unless told otherwise."""


@dataclass(frozen=True)
class RankOptions:
    """Settings of one ranking.

    ``keep`` names nodes that stay in high precision in any case; ``frames`` is how many real frames are used, in
    whole batches; ``workers`` measure groups side by side, each on one thread (None: one for each core, at most
    eight).
    """

    style: Style | Literal["fp16"] = "onnxruntime"
    """``fp16``: every node that computes on floats is rounded to FP16, and no calibration is needed."""
    per_channel: bool = True
    keep: tuple[str, ...] = ()
    frames: int = FRAMES
    workers: int | None = None
    spread: Spread = on_threads
    """Where sets of groups are measured."""


def rank(
    model: Path | onnx.ModelProto,
    calibration: CalibrationCache | None,
    frames: Iterable[FrameBatch],
    options: RankOptions | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Rank groups of nodes by the damage that quantizing them alone does to the outputs, worst first.

    Args:
        model: The slim FP32 ONNX file, or the graph.
        calibration: Ranges of this model, from ``prepare.calibration_cache.load``; None for ``fp16``.
        frames: Real frames in batches of (ids, {input: array}); the first batches that hold
            ``options.frames`` are used.

    Raises:
        DataError: No frames.
        UserInputError: A keep pattern names nothing, or the model holds nothing that could be quantized.
    """
    options = options or RankOptions()
    start = time.perf_counter()
    loaded = graph.load_onnx(model) if isinstance(model, Path) else model
    simulator = Simulator(loaded, calibration, frames, options)
    groups = simulator.groups
    steps = _steps(len(groups))
    total = len(groups) + len(steps)
    damage: list[float] = []
    curve: list[tuple[int, float]] = []
    with options.spread(simulator.switched, options.workers or default_workers()) as measure:
        for snr_db in measure([[position] for position in range(len(groups))]):
            damage.append(snr_db)
            progress(len(damage), total, "rank nodes")
        order = sorted(range(len(groups)), key=lambda item: (damage[item], item))
        for kept, snr_db in zip(steps, measure([order[kept:] for kept in steps]), strict=True):
            curve.append((kept, round(snr_db, 3)))
            progress(len(groups) + len(curve), total, "rank nodes")
    return Sensitivity(
        style=options.style,
        groups=tuple(groups[item].result(round(damage[item], 3)) for item in order),
        frames=simulator.frames,
        seconds=time.perf_counter() - start,
        plain_db=curve[0][1],
        curve=tuple(curve),
    )


def _steps(count: int) -> list[int]:
    """0, 1, 2, 4, … below ``count``."""
    found = [0]
    step = 1
    while step < count:
        found.append(step)
        step *= 2
    return found


class Simulator:
    """A graph whose groups can each be quantized or not, at run time, beside the reference's own outputs.

    Raises:
        DataError: No frames.
        UserInputError: The model holds nothing that could be quantized.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: CalibrationCache | None,
        frames: Iterable[FrameBatch],
        options: RankOptions,
    ) -> None:
        reference = infer(model)
        kept = frozenset(select(reference, options.keep))
        left = kept if options.style == "fp16" else kept.union(float_nodes(reference))
        chosen = {} if calibration is None or options.style == "fp16" else calibration.placements
        placement: Placement = next((place for style, place in chosen.items() if style == options.style), "default")
        self.groups = find_groups(reference, left, options.style, placement)
        if not self.groups:
            raise UserInputError("the model holds no node that could be quantized, so there is nothing to rank")
        feeds = tuple(_take(frames, options.frames))
        if not feeds:
            raise DataError("no frames to rank on", do="give frames from the deployment camera")
        self.frames = sum(max((len(array) for array in batch.values() if array.ndim), default=1) for batch in feeds)
        outputs = tuple(value.name for value in reference.graph.output)
        switched = SwitchedGraph(reference, calibration, options.style, options.per_channel).build(self.groups)
        self.switched = Switched(switched, len(self.groups), outputs, feeds)

    def snr(self, quantized: Sequence[int]) -> float:
        """Signal-to-noise in dB of the worst output with the groups at these positions quantized."""
        return self.switched.meter.snr(quantized)


def _take(frames: Iterable[FrameBatch], limit: int) -> Iterable[dict[str, NDArray[Any]]]:
    """The first batches that hold ``limit`` frames or more, whole: a graph may take no part of one."""
    taken = 0
    for ids, feeds in frames:
        if taken >= limit:
            return
        taken += max(len(ids), 1)
        yield dict(feeds)
