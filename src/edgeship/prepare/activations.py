"""Run a graph over frames and hand every observed tensor, batch by batch, to histograms; forward passes and binning
of different batches run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Protocol

from edgeship.prepare import activations_cuda
from edgeship.prepare.activations_cpu import CpuWorker, ObservedNames
from edgeship.prepare.counting import compiled
from edgeship.prepare.histogram import Histogram, Histograms
from edgeship.prepare.running import Running, hands

if TYPE_CHECKING:
    import onnx

    from edgeship.prepare.frame_checks import FrameBatch


class Worker(Protocol):
    """What one thread counts with."""

    def count(self, batch: FrameBatch) -> None:
        """Run one batch and count its observed tensors. Raises ModelError for NaN or infinity."""

    def histograms(self) -> Histograms:
        """What this worker counted so far."""


class Observer:
    """Histograms of the observed tensors of one graph.

    Every worker owns its histograms, and on the CPU one thread of onnxruntime, so that batches flow through
    without waiting for each other; :meth:`histograms` adds them up. Counting is integer: the result does not depend
    on timing. On ``cuda:N`` activations are counted where they are (:mod:`edgeship.prepare.activations_cuda`).

    Raises:
        DeviceError: The device is not there; nothing falls back to the CPU.
    """

    def __init__(
        self, model: onnx.ModelProto, tensors: Sequence[str], workers: int | None = None, device: str = "cpu"
    ) -> None:
        inputs = {value.name for value in model.graph.input}
        names = ObservedNames(
            tuple(name for name in tensors if name in inputs), tuple(name for name in tensors if name not in inputs)
        )
        with ThreadPoolExecutor(1) as beside:
            loop = beside.submit(compiled) if device == "cpu" else None
            session = Running(model, layout=True, threads=1, device=device, also=tensors)
        self._tensors = tuple(tensors)
        self.workers = workers or hands()
        self._make: Callable[[], Worker] = lambda: CpuWorker(session, names, loop.result() if loop else None)
        if device != "cpu":
            activations_cuda.check(device)
            self.workers = min(self.workers, activations_cuda.WORKERS)
            self._make = lambda: activations_cuda.CudaWorker(session, names, device)
        self._all: list[Worker] = []
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    def observe(self, batches: Iterator[FrameBatch]) -> Iterator[FrameBatch]:
        """Count batches as they come; yields each one when it has been counted, in any order.

        Raises:
            ModelError: NaN or infinity in an activation, with the tensor and the frame.
        """
        pending: dict[Future[None], FrameBatch] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for batch in batches:
                    pending[pool.submit(self._one, batch)] = batch
                    if len(pending) > self.workers:
                        yield from _finished(pending)
                while pending:
                    yield from _finished(pending)
            finally:
                for future in pending:
                    future.cancel()

    def histograms(self) -> Histograms:
        """What was counted so far, over all threads. Call while no batch is under way."""
        merged: Histograms = {name: Histogram() for name in self._tensors}
        for worker in self._all:
            for name, histogram in worker.histograms().items():
                merged[name].merge(histogram)
        return merged

    def _one(self, batch: FrameBatch) -> None:
        worker = self._take()
        try:
            worker.count(batch)
        finally:
            with self._lock:
                self._idle.append(worker)

    def _take(self) -> Worker:
        """An idle worker: a later pass goes on with those of an earlier one, whose memory is there already."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            self._all.append(self._make())
            return self._all[-1]


def _finished(pending: dict[Future[None], FrameBatch]) -> Iterator[FrameBatch]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        batch = pending.pop(future)
        future.result()
        yield batch
