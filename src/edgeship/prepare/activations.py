"""Run a graph over frames and hand every observed tensor, batch by batch, to histograms; forward passes and binning
of different batches run at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeship.errors import ModelError
from edgeship.prepare import graph
from edgeship.prepare.histogram import Histogram, NotFinite, Scratch

if TYPE_CHECKING:
    import onnx

    from edgeship.engines.ort.session import ExactSession

    Array = NDArray[Any]
    Feeds = Mapping[str, Array]
    Batch = tuple[Sequence[str], Feeds]
    """Frame ids, and input name → array with the frames along its first axis."""

Histograms = dict[str, Histogram]

ROWS = 2
"""Frames in one forward pass of a CPU worker, where the batch axis is free: as fast as eight, at a fraction of the
memory (ResNet-50 in eight workers: eight frames each held 11 GiB of activations)."""


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy of the graph that also returns ``tensors``."""
    import onnx

    known = {value.name: value for value in model.graph.value_info}
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    present = {value.name for value in twin.graph.output} | {value.name for value in twin.graph.input}
    for name in tensors:
        if name not in present:
            twin.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
            present.add(name)
    return twin


class Worker(Protocol):
    """What one thread counts with."""

    def count(self, batch: Batch) -> None:
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
        names = Names(
            tuple(name for name in tensors if name in inputs), tuple(name for name in tensors if name not in inputs)
        )
        session = graph.session(with_outputs(model, tensors), threads=1, device=device)
        self._tensors = tuple(tensors)
        self.workers = workers or min(len(os.sched_getaffinity(0)), 8)
        self._make: Callable[[], Worker] = lambda: CpuWorker(session, names)
        if device != "cpu":
            from edgeship.prepare import activations_cuda

            activations_cuda.check(device)
            self.workers = min(self.workers, activations_cuda.WORKERS)
            self._make = lambda: activations_cuda.CudaWorker(session, names, device)
        self._all: list[Worker] = []
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    def observe(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Count batches as they come; yields each one when it has been counted, in any order.

        Raises:
            ModelError: NaN or infinity in an activation, with the tensor and the frame.
        """
        pending: dict[Future[None], Batch] = {}
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

    def _one(self, batch: Batch) -> None:
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


@dataclass(frozen=True)
class Names:
    """The observed tensors: graph inputs, and outputs of nodes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class CpuWorker:
    """Forward passes and histograms on the CPU."""

    def __init__(self, session: ExactSession, names: Names) -> None:
        self._session, self._names = session, names
        self._own: Histograms = {name: Histogram() for name in (*names.inputs, *names.outputs)}
        self._scratch = Scratch()
        self._free = all(item.shape and not isinstance(item.shape[0], int) for item in session.get_inputs())

    def count(self, batch: Batch) -> None:
        """Run one batch and count its observed tensors. Raises ModelError for NaN or infinity."""
        ids, feeds = batch
        step = ROWS if self._free and {len(array) for array in feeds.values()} == {len(ids)} else max(len(ids), 1)
        for start in range(0, len(ids), step):
            stop = start + step
            self._count(ids[start:stop], {name: array[start:stop] for name, array in feeds.items()})

    def _count(self, ids: Sequence[str], feeds: Feeds) -> None:
        for name in self._names.inputs:
            self._add(name, feeds[name], ids)
        outputs = list(self._names.outputs)
        values = self._session.run(outputs, feeds) if outputs else []
        for name, value in zip(outputs, values, strict=True):
            self._add(name, value, ids)

    def histograms(self) -> Histograms:
        """What this worker counted so far."""
        return self._own

    def _add(self, name: str, values: Array, ids: Sequence[str]) -> None:
        try:
            self._own[name].add(values, self._scratch)
        except NotFinite:
            raise not_finite(name, values, ids) from None


def _finished(pending: dict[Future[None], Batch]) -> Iterator[Batch]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        batch = pending.pop(future)
        future.result()
        yield batch


def not_finite(name: str, values: Array, ids: Sequence[str]) -> ModelError:
    """The error for NaN or infinity in tensor ``name``, with the frame."""
    kind, frame = _first_bad(values, ids)
    return ModelError(
        f"tensor {name!r} holds {kind} on frame {frame}",
        expected="finite activations on every calibration frame",
        do="look at that frame and at the layers before this tensor; check the preprocessing",
    )


def _first_bad(values: Array, ids: Sequence[str]) -> tuple[str, str]:
    kind = "NaN" if np.isnan(values).any() else "infinity"
    if values.ndim and values.shape[0] == len(ids):
        rows = np.flatnonzero(~np.isfinite(values).reshape(len(ids), -1).all(axis=1))
        return kind, str(ids[int(rows[0])])
    return kind, ", ".join(map(str, ids))
