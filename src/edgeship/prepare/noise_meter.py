"""Measures the noise of a switched graph with any of its groups quantized: alone, on threads, or somewhere else."""

from __future__ import annotations

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
from edgeship.prepare.switched_graph import FLAGS

if TYPE_CHECKING:
    import onnx

Feeds = dict[str, NDArray[Any]]
Measure = Callable[[Sequence[Sequence[int]]], Iterable[float]]
"""The signal-to-noise in dB for each set of groups that are quantized together, by position, in order."""


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
    """A switched graph in a session of one thread, which several threads may ask at the same time."""

    def __init__(self, switched: Switched) -> None:
        self._switched = switched
        self._session = Running(switched.graph, layout=True, threads=1)
        self._wanted = [self._run(feeds, ()) for feeds in switched.feeds]

    def snr(self, quantized: Sequence[int]) -> float:
        """Signal-to-noise in dB of the worst output with the groups at these positions quantized."""
        noise = {name: Snr() for name in self._switched.outputs}
        for feeds, wanted in zip(self._switched.feeds, self._wanted, strict=True):
            answers = self._run(feeds, quantized)
            for name, ours, theirs in zip(self._switched.outputs, wanted, answers, strict=True):
                noise[name].add(*(common_part(name, ours, theirs) if ours.shape != theirs.shape else (ours, theirs)))
        return min(item.db for item in noise.values())

    def _run(self, feeds: Feeds, quantized: Sequence[int]) -> list[NDArray[Any]]:
        flags = np.zeros(self._switched.groups, dtype=np.bool_)
        flags[list(quantized)] = True
        answer: list[NDArray[Any]] = self._session.run(self._switched.outputs, {**feeds, FLAGS: flags})
        return answer


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
