"""Histograms made on the GPU: activations stay on the device, only counts come back.

onnxruntime's outputs are bound on the device and read as torch tensors without a copy (DLPack). The bins are those of
:class:`edgeship.prepare.histogram.Histogram`, so the same values give the same histogram on either side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.errors import DeviceError, MissingExtra
from edgeship.prepare.activations_cpu import ObservedNames, not_finite
from edgeship.prepare.histogram import BINS, MIN_EXPONENT, Histogram, exponent_of

if TYPE_CHECKING:
    from torch import Tensor

    from edgeship.prepare.frame_checks import FrameBatch
    from edgeship.prepare.histogram import Histograms
    from edgeship.prepare.running import Running

WORKERS = 2
"""Threads that feed the device: one batch runs while another is counted."""
GROUP = 1 << 26
"""Values binned at a time: 256 MiB of float32, and as much for their bins."""
_NOWHERE = 2 * BINS
"""A bin that no value falls into: where the values of the bin at zero go, see :func:`_tally`."""


def check(device: str) -> None:
    """Whether torch computes on ``device``.

    Raises:
        MissingExtra: torch is not installed.
        DeviceError: It has no CUDA, or no such device.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtra(f"calibrating on {device}", "torch", "host") from None
    from edgeship.engines import cuda

    if not torch.cuda.is_available() or cuda.index_of(device) >= torch.cuda.device_count():
        raise DeviceError(
            f"{device} was asked for, and the torch {torch.__version__} installed here sees "
            f"{torch.cuda.device_count()} CUDA devices",
            expected="torch built for CUDA: activations are counted on the device",
            do="install torch for this machine's CUDA, or calibrate with device = 'cpu'",
        )


class NotFiniteTensor(ValueError):
    """The tensor named by ``args[0]`` holds NaN or infinity."""


class DeviceHistograms:
    """Histograms of several tensors on one torch device.

    Bins are counted for the ranges known so far, before the extremes of the batch have come back: the device is not
    kept waiting. Where a tensor turns out wider, its range grows and it is counted again.
    """

    def __init__(self, names: Sequence[str], device: str) -> None:
        import torch

        self._names = tuple(names)
        self._counts = torch.zeros((len(self._names), 2 * BINS), dtype=torch.int64, device=device)
        self._state = [Histogram() for _ in self._names]
        self._sizes = [0] * len(self._names)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Count one batch of every tensor.

        Raises:
            NotFiniteTensor: NaN or infinity; nothing of the batch was counted.
        """
        import torch

        flats = [values[name].reshape(-1).to(torch.float32) for name in self._names]
        present = [index for index, flat in enumerate(flats) if flat.numel()]
        if not present:
            return
        extremes = torch.stack([bound for index in present for bound in torch.aminmax(flats[index])])
        guesses = [self._state[index].exponent for index in present]
        rows = _count([flats[index] for index in present], [MIN_EXPONENT if k is None else k for k in guesses])
        bounds = [(float(low), float(high)) for low, high in extremes.cpu().numpy().reshape(-1, 2)]
        for index, pair in zip(present, bounds, strict=True):
            if not all(map(math.isfinite, pair)):
                raise NotFiniteTensor(self._names[index])
        wider = [
            place
            for place, (index, (low, high)) in enumerate(zip(present, bounds, strict=True))
            if self._widen(index, low, high, flats[index].numel())
        ]
        if wider:
            exponents = [self._state[present[place]].exponent or 0 for place in wider]
            rows[wider] = _count([flats[present[place]] for place in wider], exponents)
        self._counts[present] += rows

    def _widen(self, index: int, low: float, high: float, size: int) -> bool:
        """Note a tensor's extremes; whether its range grew."""
        state = self._state[index]
        state.low, state.high = min(state.low, low), max(state.high, high)
        amax = max(-low, high)
        if amax == 0.0:
            state.zeros += size
            return False
        self._sizes[index] += size
        before, needed = state.exponent, exponent_of(amax)
        if before is not None and before >= needed:
            return False
        state.exponent = needed
        for _ in range(needed - before if before is not None else 0):
            folded = self._counts[index].reshape(-1, 2).sum(dim=1)
            self._counts[index] = 0
            self._counts[index, BINS // 2 : BINS + BINS // 2] = folded
        return True

    def histograms(self) -> dict[str, Histogram]:
        """What was counted, on the host."""
        counts = self._counts.cpu().numpy()
        found = {}
        for name, state, size, row in zip(self._names, self._state, self._sizes, counts, strict=True):
            found[name] = state.copy()
            found[name].counts = row.astype(np.int64)
            found[name].counts[BINS] += size - int(row.sum())
        return found


def _count(flats: Sequence[Tensor], exponents: Sequence[int]) -> Tensor:
    """int64 [tensors, 2 * BINS]: counts of float32 tensors in the range ``±2**exponent``, the bin at zero left out."""
    import torch

    rows: list[Tensor] = []
    start = 0
    while start < len(flats):
        stop, room = start + 1, GROUP - flats[start].numel()
        while stop < len(flats) and flats[stop].numel() <= room:
            room -= flats[stop].numel()
            stop += 1
        joined = torch.cat(list(flats[start:stop]))
        sizes = [flat.numel() for flat in flats[start:stop]]
        for part, exponent in zip(torch.split(joined, sizes), exponents[start:stop], strict=True):
            part.mul_(math.ldexp(float(BINS), -exponent))  # a power of two: exact
        index = joined.floor_().to(torch.int32)
        index.masked_fill_(index == 0, _NOWHERE)
        rows += [_tally(part) for part in torch.split(index, sizes)]
        start = stop
    return torch.stack(rows).to(torch.int64)


def _tally(index: Tensor) -> Tensor:
    """Counts of whole numbers in ``[-BINS, BINS)``; others are left out.

    The bin at zero is left out too, and later filled with what is missing: half of all activations are exactly zero,
    and a GPU counts slowly where all threads count in one place.
    """
    import torch

    if index.is_cuda:
        return torch.histc(index, bins=2 * BINS, min=-BINS, max=BINS)
    inside = index[(index >= -BINS) & (index < BINS)]
    return torch.bincount(inside.to(torch.int64) + BINS, minlength=2 * BINS)


class CudaWorker:
    """Forward passes on onnxruntime's CUDA provider, histograms on the same device, one torch stream."""

    def __init__(self, session: Running, names: ObservedNames, device: str) -> None:
        import torch

        from edgeship.engines import cuda

        self._session, self._names, self._device = session, names, device
        self._index = cuda.index_of(device)
        streams: Any = torch.cuda
        self._stream = streams.Stream(device=device)
        with torch.cuda.stream(self._stream):
            self._own = DeviceHistograms((*names.inputs, *names.outputs), device)

    def count(self, batch: FrameBatch) -> None:
        """Run one batch and count its observed tensors.

        Raises:
            ModelError: NaN or infinity in an activation.
            DeviceError: The device's memory is full.
        """
        import torch
        from torch.utils.dlpack import from_dlpack

        from edgeship.engines.ort import session as sessions

        ids, feeds = batch
        with sessions.translated("calibrating", self._device), torch.cuda.stream(self._stream):
            fed, found = self._forward(feeds)
            held = {**{name: fed[name] for name in self._names.inputs}, **found}
            values = {name: from_dlpack(value) for name, value in held.items()}
            try:
                self._own.add(values)
            except NotFiniteTensor as error:
                name = str(error.args[0])
                raise not_finite(name, values[name].cpu().numpy(), ids) from None
            self._stream.synchronize()  # before onnxruntime takes the memory back

    def _forward(self, feeds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The batch and the observed outputs as onnxruntime's values on the device."""
        from edgeship.engines.ort import session as sessions

        ort = sessions.library()
        binding = self._session.session.io_binding()
        fed = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", self._index)
            for name, array in feeds.items()
        }
        if not self._names.outputs:
            return fed, {}
        for name, value in fed.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._names.outputs:
            binding.bind_output(name, "cuda", self._index)
        self._session.session.run_with_iobinding(binding)
        return fed, dict(zip(self._names.outputs, binding.get_outputs(), strict=True))

    def histograms(self) -> Histograms:
        """What this worker counted so far."""
        return self._own.histograms()
