"""Forward passes and histograms on the CPU: what one thread of calibration counts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeship.errors import ModelError
from edgeship.prepare.counting import Loop, Scratch
from edgeship.prepare.histogram import Histogram, Histograms, NotFinite

if TYPE_CHECKING:
    from edgeship.prepare.frame_checks import Array, Feeds, FrameBatch
    from edgeship.prepare.running import Running

ROWS = 2
"""Frames in one forward pass of a CPU worker, where the batch axis is free: as fast as eight, at a fraction of the
memory (ResNet-50 in eight workers: eight frames each held 11 GiB of activations)."""


@dataclass(frozen=True)
class ObservedNames:
    """The observed tensors: graph inputs, and outputs of nodes."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class CpuWorker:
    """Forward passes and histograms on the CPU."""

    def __init__(self, session: Running, names: ObservedNames, loop: Loop | None) -> None:
        self._session, self._names = session, names
        self._own: Histograms = {name: Histogram() for name in (*names.inputs, *names.outputs)}
        self._scratch = Scratch(loop)
        self._free = all(item.shape and not isinstance(item.shape[0], int) for item in session.get_inputs())

    def count(self, batch: FrameBatch) -> None:
        """Run one batch and count its observed tensors. Raises ModelError for NaN or infinity."""
        ids, feeds = batch
        if not self._free or {len(array) for array in feeds.values()} != {len(ids)}:
            self._count(ids, feeds)
            return
        for start in range(0, len(ids), ROWS):
            stop = start + ROWS
            self._count(ids[start:stop], {name: array[start:stop] for name, array in feeds.items()})

    def _count(self, ids: Sequence[str], feeds: Feeds) -> None:
        for name in self._names.inputs:
            self._add(name, feeds[name], ids)
        outputs = list(self._names.outputs)
        values = self._session.run(outputs, dict(feeds)) if outputs else []
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
