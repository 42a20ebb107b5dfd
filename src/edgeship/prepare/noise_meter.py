"""Measures the noise of a switched graph with any of its groups quantized: alone, on threads, or somewhere else."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeship.prepare.compare import Snr, common_part
from edgeship.prepare.running import Running
from edgeship.prepare.segments import Segment, apart, cut, opened
from edgeship.prepare.switched_graph import FLAGS, SWITCH

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, NDArray[Any]]
Measure = Callable[[Sequence[Sequence[int]]], Iterable[float]]
"""The signal-to-noise in dB for each set of groups that are quantized together, by position, in order."""
PIECES = 8
"""Segments of a switched graph: on the average a group alone then costs little more than half of a whole run."""
KEPT_BYTES = 1 << 29
"""The most that the tensors between segments may take, over all frames."""


@dataclass(frozen=True)
class Switched:
    """A graph whose groups can each be quantized or not, and the real frames that it is measured on.

    Args:
        graph: From ``SwitchedGraph``, or the file that holds it.
        groups: How many there are.
        outputs: Names of the outputs that are compared.
        feeds: Batches of frames by input name.
    """

    graph: onnx.ModelProto | Path
    groups: int
    outputs: tuple[str, ...]
    feeds: tuple[Feeds, ...]

    @cached_property
    def meter(self) -> NoiseMeter:
        """It, open in this process."""
        return NoiseMeter(self)


class NoiseMeter:
    """A switched graph in sessions of one thread, which several threads may ask at the same time.

    The graph is cut into segments, and what the FP32 graph leaves between them is kept for every frame: a set of groups
    is run from the first segment on that holds one of them. It is cut only where nothing that onnxruntime fuses is
    parted, so that the answers are those of the whole graph to the bit. Where the tensors between would take more than
    :data:`KEPT_BYTES`, or the graph is a file, it stays whole.
    """

    def __init__(self, switched: Switched) -> None:
        self._switched = switched
        self._first, self._segments = _segments(switched)
        self._before: list[list[Feeds]] = []
        held = 0
        for feeds in switched.feeds:
            self._before.append(list(self._passes(feeds, (), 0)))
            held += sum(array.nbytes for tensors in self._before[-1][1:-1] for array in tensors.values())
            if held > KEPT_BYTES:
                self._first, self._segments = _whole(switched)
                self._before = [list(self._passes(feeds, (), 0)) for feeds in switched.feeds]
                return

    def snr(self, quantized: Sequence[int]) -> float:
        """Signal-to-noise in dB of the worst output with the groups at these positions quantized."""
        noise = {name: Snr() for name in self._switched.outputs}
        start = min((self._first[group] for group in quantized), default=len(self._segments))
        for kept in self._before:
            answers = deque(self._passes(kept[start], quantized, start), maxlen=1)[0]
            for name, item in noise.items():
                ours, theirs = kept[-1][name], answers[name]
                item.add(*(common_part(name, ours, theirs) if ours.shape != theirs.shape else (ours, theirs)))
        return min(item.db for item in noise.values())

    def _passes(self, tensors: Feeds, quantized: Sequence[int], start: int) -> Iterator[Feeds]:
        """What stands before segment ``start``, and before each later one; in the end the outputs alone."""
        flags = np.zeros(self._switched.groups, dtype=np.bool_)
        flags[list(quantized)] = True
        standing: Feeds = {**tensors, FLAGS: flags}
        yield tensors
        for number, segment in enumerate(self._segments[start:], start):
            standing |= segment.run(standing)
            later = {name for segment in self._segments[number + 1 :] for name in segment.reads}
            kept = later.union(self._switched.outputs)
            standing = {name: array for name, array in standing.items() if name in kept}
            yield {name: array for name, array in standing.items() if name != FLAGS}


def _segments(switched: Switched) -> tuple[list[int], list[Segment]]:
    """By group the segment that holds it, and the segments."""
    if isinstance(switched.graph, Path):
        return _whole(switched)
    places = {node.name: place for place, node in enumerate(switched.graph.graph.node)}
    switches = [places[f"{SWITCH}{group}"] for group in range(switched.groups)]
    whole = apart(switched.graph)
    clean = [place for place in sorted(switches) if whole[place]]
    behind = sorted({clean[len(clean) * step // PIECES] for step in range(1, PIECES)}) if clean else []
    parts = cut(switched.graph, behind)
    if len(parts) == 1:
        return _whole(switched)
    return [bisect.bisect_left(behind, place) for place in switches], opened(parts)


def _whole(switched: Switched) -> tuple[list[int], list[Segment]]:
    running = Running(switched.graph, layout=True, threads=1)
    reads = tuple(value.name for value in running.get_inputs())
    return [0] * switched.groups, [Segment(running, reads, switched.outputs)]


Spread = Callable[[Switched, int], AbstractContextManager[Measure]]
"""Opens a switched graph for measuring, with so many threads on this machine."""


@contextmanager
def on_threads(switched: Switched, threads: int) -> Iterator[Measure]:
    """Measure sets side by side in this process, each on one thread."""
    meter = switched.meter
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield lambda sets: pool.map(meter.snr, sets)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
