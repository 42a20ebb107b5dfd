"""Run a graph over frames and hand every observed tensor, frame by frame, to histograms; forward passes and binning
of different batches run at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeship.errors import MissingExtra, ModelError, StageError
from edgeship.prepare.histogram import Histogram, NotFinite, Scratch

if TYPE_CHECKING:
    import onnx

    Array = NDArray[Any]
    Feeds = Mapping[str, Array]
    Batch = tuple[Sequence[str], Feeds]
    """Frame ids, and input name → array with the frames along its first axis."""

Histograms = dict[str, Histogram]


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


def open_session(model: onnx.ModelProto, *, threads: int = 0, device: str = "cpu", optimize: bool = True) -> Any:
    """An onnxruntime session for calibration: warnings about unused weights silenced, providers as asked.

    Args:
        optimize: False for graphs that are meant for another engine: onnxruntime 1.32's own rewriting of float16
            Q/DQ graphs on the CPU was seen to change their answers (29 dB became 15 dB on ResNet-18).

    Raises:
        MissingExtra: onnxruntime is not installed.
        ModelError: onnxruntime refuses the graph.
        StageError: The provider of ``device`` is not there.
    """
    try:
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError:
        raise MissingExtra("running an ONNX graph", "onnxruntime", "host") from None
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    provider: Any = "CPUExecutionProvider"
    if device.startswith("cuda"):
        provider = ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0), "use_tf32": 0})
    try:
        opened = ort.InferenceSession(model.SerializeToString(), options, providers=[provider])
    except (
        state.Fail,
        state.InvalidGraph,
        state.NotImplemented,
        state.InvalidProtobuf,
        state.RuntimeException,
    ) as error:
        raise ModelError(f"onnxruntime refuses the graph: {' '.join(str(error).split())[:400]}") from None
    if device.startswith("cuda") and opened.get_providers()[0] != "CUDAExecutionProvider":
        raise StageError(
            f"{device} was asked for, onnxruntime offers {', '.join(opened.get_providers())}",
            do="install onnxruntime-gpu with a matching CUDA, or calibrate with device = 'cpu'",
        )
    return opened


class Observer:
    """Histograms of the observed tensors of one graph.

    Every worker thread owns its histograms and one thread of onnxruntime, so that batches flow through without
    waiting for each other; :meth:`histograms` adds them up. Counting is integer: the result does not depend on timing.
    """

    def __init__(
        self, model: onnx.ModelProto, tensors: Sequence[str], workers: int | None = None, device: str = "cpu"
    ) -> None:
        inputs = {value.name for value in model.graph.input}
        self._inputs = tuple(name for name in tensors if name in inputs)
        self._outputs = tuple(name for name in tensors if name not in inputs)
        self._tensors = tuple(tensors)
        self.workers = workers or min(len(os.sched_getaffinity(0)), 8)
        self._session = open_session(with_outputs(model, tensors), threads=1, device=device)
        self._local = threading.local()
        self._all: list[Histograms] = []
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
        for own in self._all:
            for name, histogram in own.items():
                merged[name].merge(histogram)
        return merged

    def _one(self, batch: Batch) -> None:
        ids, feeds = batch
        own, scratch = self._mine()
        for name in self._inputs:
            _count(own[name], name, feeds[name], ids, scratch)
        values = self._session.run(list(self._outputs), dict(feeds)) if self._outputs else []
        for name, value in zip(self._outputs, values, strict=True):
            _count(own[name], name, value, ids, scratch)

    def _mine(self) -> tuple[Histograms, Scratch]:
        if not hasattr(self._local, "own"):
            self._local.own = ({name: Histogram() for name in self._tensors}, Scratch())
            with self._lock:
                self._all.append(self._local.own[0])
        mine: tuple[Histograms, Scratch] = self._local.own
        return mine


def _finished(pending: dict[Future[None], Batch]) -> Iterator[Batch]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        batch = pending.pop(future)
        future.result()
        yield batch


def _count(histogram: Histogram, name: str, values: Array, ids: Sequence[str], scratch: Scratch) -> None:
    try:
        histogram.add(values, scratch)
    except NotFinite:
        kind, frame = _first_bad(values, ids)
        raise ModelError(
            f"tensor {name!r} holds {kind} on frame {frame}",
            expected="finite activations on every calibration frame",
            do="look at that frame and at the layers before this tensor; check the preprocessing",
        ) from None


def _first_bad(values: Array, ids: Sequence[str]) -> tuple[str, str]:
    kind = "NaN" if np.isnan(values).any() else "infinity"
    if values.ndim and values.shape[0] == len(ids):
        rows = np.flatnonzero(~np.isfinite(values).reshape(len(ids), -1).all(axis=1))
        return kind, str(ids[int(rows[0])])
    return kind, ", ".join(map(str, ids))
