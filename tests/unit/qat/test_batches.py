"""Batches: shuffled the same way for the same seed, inputs found in what loaders give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeship.data.frames import Frames
from edgeship.data.loader import LoadOptions
from edgeship.errors import TrainingError
from edgeship.qat.batches import FrameBatches, inputs_of, on_device, split
from edgeship.results import TensorInfo


def batches(count: int, size: int, seed: int = 0) -> FrameBatches:
    values = np.arange(count, dtype=np.float32)[:, None]
    info = TensorInfo(name="x", shape=("batch", 1), dtype="float32")
    frames = Frames(tuple(map(str, range(count))), (), (info,), None, LoadOptions(size), feeds={"x": values})
    return FrameBatches(frames, ("x",), seed)


def rows(made: FrameBatches, epoch: int) -> list[float]:
    return [float(value) for (tensor,) in made.epoch(epoch) for value in tensor[:, 0]]


def test_an_epoch_is_the_same_again_and_the_next_one_another() -> None:
    made = batches(11, 4)
    assert len(made) == 2
    assert rows(made, 0) == rows(batches(11, 4), 0) != rows(made, 1)
    assert len(set(rows(made, 0))) == 8
    assert rows(batches(11, 4, seed=1), 0) != rows(made, 0)


@pytest.mark.parametrize(
    "batch", [torch.ones(2), (torch.ones(2), "label"), [torch.ones(2), 1], {"x": torch.ones(2), "y": 3}]
)
def test_the_input_is_found_in_what_loaders_give(batch: Any) -> None:
    (found,) = inputs_of(on_device(batch, "cpu"), ["x"])
    assert torch.equal(found, torch.ones(2))


@pytest.mark.parametrize("batch", [{"images": torch.ones(2)}, (), 3, None, ["text"]])
def test_a_batch_without_the_input_is_refused(batch: Any) -> None:
    with pytest.raises(TrainingError, match="x cannot be found"):
        inputs_of(batch, ["x"])


def test_every_eighth_frame_is_held_out_and_at_most_so_many() -> None:
    used, held = split(64, 0.125)
    assert held == list(range(7, 64, 8)) and sorted(used + held) == list(range(64))
    assert len(split(10_000, 0.5)[1]) <= 256
    assert split(2, 0.0) == ([0], [1])
