"""Finds the few nodes that an FP16 graph must compute in FP32 to answer as its reference does, and ranks all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeship.prepare.sensitivity import RankOptions, Simulator, rank
from edgeship.progress import Progress, silent
from edgeship.results import SensitiveGroup, Sensitivity

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch

GOAL_DB = 30.0
"""Signal-to-noise that FP16 reaches in every output where nothing is wrong; most networks reach 50 and more."""
MARGIN_DB = 3.0
"""The simulation rounds between nodes only; engines round inside them too."""
FRAGILE = frozenset(
    ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization",
     "RMSNormalization", "Softmax", "LogSoftmax", "Attention", "Pow", "Sqrt", "Exp", "Log", "Reciprocal", "Div",
     "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "ReduceProd", "CumSum")
)  # fmt: skip
"""Norms, attention, powers and reductions: their sums and quotients leave FP16's range or resolution first."""
TRIES = 4
"""Conversions that a rescue makes, at most: the kept nodes double each time."""


@dataclass(frozen=True)
class Rescue:
    """The nodes to keep in FP32, and the signal-to-noise of the worst output with them."""

    keep: tuple[str, ...]
    output_snr_db: float


def rescue(
    reference: onnx.ModelProto,
    frames: Sequence[FrameBatch],
    kept: tuple[str, ...],
    convert: Callable[[tuple[str, ...]], float],
) -> Rescue | None:
    """The fewest nodes, worst first, whose FP32 brings every output to :data:`GOAL_DB`; None: no few do.

    Every node is ranked by what FP16 in it alone does to the outputs. Two orders are tried in the simulation: that
    ranking, and the same with norms, attention, powers and reductions first; the one of which fewer nodes suffice is
    taken (the second, where both need as many), and the converted graph decides.

    Args:
        kept: Nodes that stay in FP32 in any case.
        convert: Converts with these nodes kept; the signal-to-noise of the worst output.
    """
    options = RankOptions("fp16", keep=kept)
    ranking = rank(reference, None, frames, options)
    simulator = Simulator(reference, None, frames, options)
    orders = [[group.nodes for group in groups] for groups in (fragile_first(ranking), ranking.groups)]
    count, nodes = min(((_fewest(simulator, order), order) for order in orders), key=lambda found: found[0])
    for _ in range(TRIES):
        if count > len(nodes) // 2:
            return None
        keep = tuple(name for group in nodes[:count] for name in group)
        reached = convert((*kept, *keep))
        if reached >= GOAL_DB:
            return Rescue((*kept, *keep), reached)
        count *= 2
    return None


def ranked(
    reference: onnx.ModelProto, frames: Iterable[FrameBatch], options: RankOptions, progress: Progress = silent
) -> Sensitivity:
    """Every node by what FP16 in it alone does to the outputs, in the better of the two orders of :func:`rescue`.

    That is the one whose plans of 0, 1, 2, 4, … nodes in FP32 have the greater signal-to-noise together.

    Args:
        reference: The slim FP32 graph.
        options: Of the style ``fp16``.
    """
    few = list(frames)
    ranking = rank(reference, None, few, options, progress)
    simulator = Simulator(reference, None, few, options)
    place = {group.nodes[0].name: index for index, group in enumerate(simulator.groups)}
    first = fragile_first(ranking)
    order = [place[group.nodes[0]] for group in first]
    curve = tuple((kept, round(simulator.snr(order[kept:]), 3)) for kept, _ in ranking.curve)
    if sum(snr_db for _, snr_db in curve) < sum(snr_db for _, snr_db in ranking.curve):
        return ranking
    return ranking.model_copy(update={"groups": first, "curve": curve})


def fragile_first(ranking: Sensitivity) -> tuple[SensitiveGroup, ...]:
    """The groups of a ranking, those with one of :data:`FRAGILE` before all others."""
    return tuple(sorted(ranking.groups, key=lambda group: not FRAGILE.intersection(group.operator.split("+"))))


def _fewest(simulator: Simulator, nodes: list[tuple[str, ...]]) -> int:
    """The fewest groups from the top of an order that suffice in the simulation; one at least."""
    place = {group.nodes[0].name: index for index, group in enumerate(simulator.groups)}
    order = [place[names[0]] for names in nodes]

    def enough(count: int) -> bool:
        return simulator.snr(order[count:]) >= GOAL_DB + MARGIN_DB

    failing, passing = 0, len(order)
    step = 1
    while step < len(order):
        if enough(step):
            passing = step
            break
        failing, step = step, 2 * step
    while passing - failing > 1:
        middle = (failing + passing) // 2
        failing, passing = (failing, middle) if enough(middle) else (middle, passing)
    return max(passing, 1)
