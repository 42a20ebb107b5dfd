"""Raw dumps: known colours, independent formulas, FFmpeg's planes, padding, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from edgeship.config import Preprocess, RawFrames
from edgeship.data.preprocess import CorruptImage, apply, open_picture
from edgeship.data.raw import frame_bytes, to_rgb
from edgeship.errors import DataError

YUV = ("nv12", "nv21", "i420", "yuyv", "uyvy")


def layout(format: str, width: int = 8, height: int = 6, **more: object) -> RawFrames:
    return RawFrames.model_validate({"format": format, "width": width, "height": height, **more})


def dump(format: str, y: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8], pad: int = 0) -> bytes:
    """A frame of planes, y [H, W] and u, v [H / 2, W / 2], in a format, its rows padded with 99."""

    def rows(plane: NDArray[np.uint8], more: int = pad) -> bytes:
        return np.pad(plane, ((0, 0), (0, more)), constant_values=99).tobytes()

    if format in ("nv12", "nv21"):
        pair = (u, v) if format == "nv12" else (v, u)
        return rows(y) + rows(np.stack(pair, 2).reshape(u.shape[0], -1))
    if format == "i420":
        return rows(y) + rows(u, pad // 2) + rows(v, pad // 2)
    tall_u, tall_v = u.repeat(2, 0), v.repeat(2, 0)
    order = (y[:, ::2], tall_u, y[:, 1::2], tall_v) if format == "yuyv" else (tall_u, y[:, ::2], tall_v, y[:, 1::2])
    return rows(np.stack(order, 2).reshape(y.shape[0], -1))


@pytest.fixture(scope="module")
def planes() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(3)
    draw = [random.integers(0, 256, shape, dtype=np.uint8) for shape in ((6, 8), (3, 4), (3, 4))]
    return draw[0], draw[1], draw[2]


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("range", ["limited", "full"])
def test_every_yuv_layout_gives_the_standards_colours(
    planes: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]], matrix: str, range: str
) -> None:
    """Against the standard's formula in floating point: E' = Y' + (2 - 2 Kr) Cr and so on, then rounding."""
    y, u, v = planes
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    low, steps, swing = (16, 219, 224) if range == "limited" else (0, 255, 255)
    luma = (y.astype(float) - low) / steps
    cb, cr = ((c.repeat(2, 0).repeat(2, 1).astype(float) - 128) / swing for c in (u, v))
    red, blue = luma + (2 - 2 * kr) * cr, luma + (2 - 2 * kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    wanted = np.clip(np.stack([red, green, blue], 2) * 255, 0, 255)
    for format in YUV:
        for pad in (0, 8):
            wide = 8 * (2 if format in ("yuyv", "uyvy") else 1) + pad
            found = to_rgb(dump(format, y, u, v, pad), layout(format, stride=wide, matrix=matrix, range=range))
            assert np.abs(found - wanted).max() < 0.51, format


def test_planes_lie_as_in_ffmpeg() -> None:
    """A smooth picture, so that FFmpeg's own interpolation of chroma and rounding stay small."""
    ramp = np.linspace(40, 200, 64)
    pixels = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:48, None], 128.0), 2).astype(np.uint8)
    for format, name in (("nv12", "nv12"), ("i420", "yuv420p"), ("yuyv", "yuyv422")):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=name)
        whole = frame.to_ndarray()
        found = to_rgb(np.ascontiguousarray(whole), layout(format, 64, 48, matrix="bt601"))
        assert np.abs(found.astype(int) - pixels).max() <= 8, format


@pytest.mark.parametrize("format", ["bayer_rggb", "bayer_grbg", "bayer_gbrg", "bayer_bggr"])
@pytest.mark.parametrize("bits", [8, 12])
def test_bayer_of_one_colour_is_that_colour(format: str, bits: int) -> None:
    colours = {"r": 200, "g": 100, "b": 50}
    cell = np.array([colours[letter] for letter in format[-4:]], np.uint16).reshape(2, 2) << (bits - 8)
    mosaic = np.tile(cell, (3, 4)).astype("<u2" if bits > 8 else np.uint8)
    found = to_rgb(mosaic.tobytes(), layout(format, bits=bits))
    assert (found == [200, 100, 50]).all()


def test_bayer_takes_the_mean_of_the_nearest() -> None:
    mosaic = np.zeros((6, 8), np.uint8)
    mosaic[2, 2] = 100  # a red sample of rggb
    found = to_rgb(mosaic, layout("bayer_rggb"))[:, :, 0]
    assert found[2, 1:4].tolist() == [50, 100, 50]
    assert found[1:4, 2].tolist() == [50, 100, 50]
    assert found[1, 1] == found[3, 3] == 25
    mosaic[:] = 0
    mosaic[2, 3] = 100  # green in a row of red
    found = to_rgb(mosaic, layout("bayer_rggb"))[:, :, 1]
    assert found[2, 2:5].tolist() == [25, 100, 25]
    assert found[1, 3] == found[3, 3] == 25


def test_a_dump_goes_through_preprocessing_as_its_picture_does(tmp_path: Path) -> None:
    y = np.full((6, 8), 81, np.uint8)
    u, v = np.full((3, 4), 90, np.uint8), np.full((3, 4), 240, np.uint8)  # red in BT.601, limited
    steps = Preprocess(fit="stretch", raw=layout("nv12", matrix="bt601"))
    content = dump("nv12", y, u, v)
    (tmp_path / "a.nv12").write_bytes(content)
    picture = open_picture(tmp_path / "a.nv12", steps)
    assert np.asarray(picture)[0, 0].tolist() == [254, 0, 0]
    whole = np.frombuffer(content, np.uint8)
    ways = [open_picture(content, steps), whole, whole.reshape(9, 8), np.asarray(picture)]
    made = [apply(way, steps, (4, 4))[0] for way in ways]
    assert all(np.array_equal(made[0], other) for other in made[1:])
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "b.png")
    assert np.asarray(open_picture(tmp_path / "b.png", steps))[0, 0].tolist() == [1, 2, 3]


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    (tmp_path / "short.nv12").write_bytes(bytes(71))
    steps = Preprocess(raw=layout("nv12"))
    assert frame_bytes(layout("nv12")) == 72
    with pytest.raises(CorruptImage, match=r"short.nv12: holds 71 bytes, not 72 for nv12 of 8×6 at 8 bytes a row"):
        open_picture(tmp_path / "short.nv12", steps)
    with pytest.raises(DataError, match=r"short.nv12 is a raw dump, and nothing says how its bytes lie"):
        open_picture(tmp_path / "short.nv12", Preprocess())
    with pytest.raises(DataError, match="frame holds 12 bytes"):
        apply(np.zeros((3, 4), np.uint8), steps, (4, 4))


@pytest.mark.parametrize(
    ("format", "more", "words"),
    [
        ("nv12", {"width": 7}, "even width and height"),
        ("nv12", {"bits": 10}, "bits belongs to a Bayer format"),
        ("nv12", {"stride": 6}, "need at least 8"),
        ("bayer_rggb", {"bits": 12, "stride": 8}, "need at least 16"),
        ("bayer_rggb", {"matrix": "bt601"}, "matrix belongs to YUV"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(format: str, more: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        layout(format, **{"width": 8, "height": 6, **more})
