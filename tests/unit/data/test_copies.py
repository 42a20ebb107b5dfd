"""The same picture twice, by its bytes or by its look."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from edgeship.data import copies
from edgeship.data.copies import first_of, thumbnail


def scene(seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    coarse = np.kron(random.normal(128, 60, (12, 16)), np.ones((20, 20)))
    return Image.fromarray(np.clip(coarse + random.normal(0, 10, (240, 320)), 0, 255).astype(np.uint8)).convert("RGB")


def small(picture: Image.Image, *, channels_last: bool = False) -> np.ndarray:
    pixels = np.asarray(picture.resize((96, 64)), dtype=np.float32)
    return thumbnail(pixels if channels_last else pixels.transpose(2, 0, 1), channels_last=channels_last)


def again(picture: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=60)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def test_a_picture_that_was_encoded_again_is_a_copy_and_another_one_is_not():
    pictures = [scene(0), scene(1), again(scene(0)), scene(2), again(again(scene(1)))]
    first = first_of([small(picture) for picture in pictures], [str(k) for k in range(5)])
    assert first.tolist() == [0, 1, 0, 3, 1]


def test_copies_among_many_are_those_that_comparing_each_with_each_finds():
    random = np.random.default_rng(0)
    count, spread = 2500, np.exp(-np.arange(256) / 2)  # along one direction most lie close together
    which, noise = random.integers(0, 900, count), random.choice([0.0, 0.005, 0.015, 0.1], count)
    made = (random.normal(size=(900, 256))[which] + noise[:, None] * random.normal(size=(count, 256))) * spread
    made[:5] = 0
    small = (made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)).astype(np.float32)
    digests = [str(place) if noise[place] else f"scene {scene}" for place, scene in enumerate(which)]
    alike = small @ small.T >= copies.ALIKE
    wanted: list[int] = []
    for place, digest in enumerate(digests):
        before = [digests.index(digest), *np.flatnonzero(alike[place, :place])[:1].tolist()]
        wanted.append(min(wanted[other] if other < place else place for other in before))
    assert 500 < sum(first < place for place, first in enumerate(wanted)) < 2000
    assert first_of(list(small), digests).tolist() == wanted


def test_a_flat_picture_is_a_copy_of_no_other_whatever_its_size():
    for size in ((500, 333), (416, 416), (17, 31)):
        for value in ((114 - 123.7) / 58.4, 0.1, 3e4):
            flat = np.full((3, *size), value, np.float32)
            assert not thumbnail(flat, channels_last=False).any()
            assert not thumbnail(flat.transpose(1, 2, 0), channels_last=True).any()


def test_a_small_picture_is_the_mean_of_each_of_its_fields():
    picture = np.random.default_rng(0).normal(0, 50, (3, 37, 50)).astype(np.float32)
    rows, columns = np.arange(17) * 37 // 16, np.arange(17) * 50 // 16
    fields = np.array(
        [
            [
                picture[:, rows[row] : rows[row + 1], columns[column] : columns[column + 1]].mean()
                for column in range(16)
            ]
            for row in range(16)
        ]
    ).ravel()
    fields -= fields.mean()
    for last in (False, True):
        made = thumbnail(picture.transpose(1, 2, 0) if last else picture, channels_last=last)
        np.testing.assert_allclose(made, fields / np.linalg.norm(fields), atol=1e-6)


def test_equal_bytes_are_copies_whatever_they_show():
    flat = thumbnail(np.full((3, 32, 32), 7.0, np.float32), channels_last=False)
    assert first_of([flat] * 3, ["a", "b", "a"]).tolist() == [0, 1, 0]


def test_layouts_give_the_same_small_picture():
    assert np.allclose(small(scene(3)), small(scene(3), channels_last=True), atol=1e-6)


def test_pictures_below_the_smallest_size_are_told_by_their_bytes_alone():
    tiny = thumbnail(np.random.default_rng(0).random((3, 8, 8)), channels_last=False)
    assert first_of([tiny, tiny], ["a", "b"]).tolist() == [0, 1]
