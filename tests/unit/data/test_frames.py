"""Frames and loading: the same choice every time, corrupt images counted, bounded memory."""

from __future__ import annotations

import hashlib
import threading

import numpy as np
import pytest
from PIL import Image

from edgeship.config import Preprocess
from edgeship.data.frames import FrameChoice, frames, spread
from edgeship.data.loader import Item, Loader, LoadOptions
from edgeship.errors import DataError
from edgeship.results import TensorInfo

INPUT = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="float32")
STRETCH = Preprocess(fit="stretch")


@pytest.fixture
def folder(tmp_path):
    for number in range(10):
        path = tmp_path / "frames" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number * 20,) * 3).save(path)
    return tmp_path / "frames"


def test_frames_are_spread_evenly_and_always_the_same(folder):
    found = frames(folder, STRETCH, [INPUT], FrameChoice(count=4, batch=3))
    assert found.ids == ("01.png", "03.png", "06.png", "08.png")
    batches = list(found)
    assert [len(ids) for ids, _ in batches] == [3, 1]
    assert batches[0][1]["images"].shape == (3, 3, 8, 8)
    assert [batch[1]["images"][0, 0, 0, 0] for batch in batches] == [20, 160]
    assert found.hashes[0] == hashlib.sha256((folder / "01.png").read_bytes()).hexdigest()
    again = frames(folder, STRETCH, [INPUT], FrameChoice(count=4, batch=3))
    assert again.hashes == found.hashes
    assert np.array_equal(next(iter(again))[1]["images"], batches[0][1]["images"])


def test_a_seed_shifts_the_choice():
    assert spread(10, 4, 0) != spread(10, 4, 3)
    assert spread(10, None) == list(range(10))
    assert spread(3, 9) == [0, 1, 2]
    for seed in range(20):
        chosen = spread(1000, 64, seed)
        assert len(set(chosen)) == 64
        assert set(np.diff(chosen)) <= {15, 16}


def test_npz_of_raw_images_and_of_ready_arrays(tmp_path):
    path = tmp_path / "f.npz"
    raw = np.arange(6 * 8 * 8 * 3, dtype=np.uint8).reshape(6, 8, 8, 3)
    np.savez(path, images=raw.transpose(0, 3, 1, 2).astype(np.float32))
    ready = frames(path, None, [INPUT], FrameChoice(count=4, batch=4))
    assert next(iter(ready))[1]["images"].shape == (4, 3, 8, 8)
    other = TensorInfo(name="x", shape=("batch", 3, 8, 8), dtype="float32")
    np.savez(path, images=raw)
    found = frames(path, STRETCH, [other], FrameChoice(count=4, batch=4))
    assert np.array_equal(next(iter(found))[1]["x"], raw[[0, 2, 3, 5]].transpose(0, 3, 1, 2))
    stored = found.hashes
    np.savez_compressed(path, images=raw)
    assert frames(path, STRETCH, [other], FrameChoice(count=4, batch=4)).hashes == stored
    assert frames(path, STRETCH, [INPUT], FrameChoice(count=4, batch=4)).hashes == stored


def test_an_array_without_axes_belongs_to_every_frame(tmp_path):
    path = tmp_path / "f.npz"
    inputs = [INPUT, TensorInfo(name="gain", shape=(), dtype="float32")]
    np.savez(path, images=np.zeros((4, 3, 8, 8), np.float32), gain=np.float32(2))
    found = frames(path, None, inputs, FrameChoice(batch=2))
    assert [(feeds["images"].shape[0], float(feeds["gain"])) for _, feeds in found] == [(2, 2.0), (2, 2.0)]
    assert len(set(found.hashes)) == 1
    np.savez(path, images=np.zeros((4, 3, 8, 8), np.float32), gain=np.zeros(4, np.float32))
    with pytest.raises(DataError, match=r"'gain' has shape \[4\]"):
        frames(path, None, inputs, FrameChoice())


def test_ready_arrays_that_do_not_fit(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, images=np.zeros((3, 3, 9, 8), np.float32))
    with pytest.raises(DataError, match=r"'images' has shape \[3, 3, 9, 8\]"):
        frames(path, None, [INPUT], FrameChoice())
    np.savez(path, other=np.zeros(3))
    with pytest.raises(DataError, match="holds other"):
        frames(path, None, [INPUT], FrameChoice())


def test_an_integer_input_does_not_take_floats(folder):
    info = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="uint8")
    with pytest.raises(DataError, match=r'set preprocess\.dtype = "uint8"'):
        list(frames(folder, STRETCH, [info], FrameChoice()))
    half = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="float16")
    assert next(iter(frames(folder, STRETCH, [half], FrameChoice())))[1]["images"].dtype == np.float16


def test_corrupt_images_stop_the_run_or_are_skipped_by_name(folder):
    (folder / "04.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1 corrupt image so far: .*04\.png"):
        list(frames(folder, STRETCH, [INPUT], FrameChoice()))
    allowed = frames(folder, STRETCH, [INPUT], FrameChoice(allow_corrupt=1))
    assert sum(len(ids) for ids, _ in allowed) == 9
    assert len(allowed.skipped) == 1


def test_the_loader_stays_within_its_window():
    alive, most, lock = 0, 0, threading.Lock()

    def source():
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return np.zeros((8, 8, 3), np.uint8)

    loader = Loader(
        (Item(str(number), source) for number in range(200)), STRETCH, (8, 8), LoadOptions(batch=4, workers=2)
    )
    for batch in loader:
        with lock:
            alive -= len(batch.ids)
    assert alive == 0
    assert most <= 4 + 4 + 2 * 2 + 1


def test_leaving_the_loop_early_ends_the_threads():
    before = threading.active_count()
    loader = Loader(
        (Item(str(number), np.zeros((8, 8, 3), np.uint8)) for number in range(500)),
        STRETCH,
        (8, 8),
        LoadOptions(batch=2, workers=3),
    )
    walk = iter(loader)
    next(walk)
    walk.close()
    assert threading.active_count() == before
