"""Preprocessing: equal to Pillow's own steps, exactly invertible, and firm with strange images."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeship.config import Preprocess
from edgeship.data.preprocess import MAX_PIXELS, CorruptImage, apply, decode, image_input, input_shape, input_size
from edgeship.errors import DataError
from edgeship.results import TensorInfo


def photo(height, width, seed=0):
    """A smooth picture with some texture, uint8 RGB."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / max(1, width), y * 255 / max(1, height), (x + y) % 256], axis=2)
    return np.clip(base + random.normal(0, 12, base.shape), 0, 255).astype(np.uint8)


def png(image, **options):
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def test_center_crop_is_resize_short_side_then_middle_as_torchvision_does():
    image = photo(300, 500)
    found, geometry = apply(image, Preprocess(crop_fraction=0.875), (224, 224))
    resized = Image.fromarray(image).resize((426, 256), Image.Resampling.BILINEAR).crop((101, 16, 325, 240))
    assert np.array_equal(found, np.asarray(resized).transpose(2, 0, 1).astype(np.float32))
    assert (geometry.left, geometry.top) == (-101, -16)


@pytest.mark.parametrize("align", ["center", "top-left"])
def test_letterbox_pads_and_keeps_the_ratio(align):
    image = photo(200, 400)
    found, geometry = apply(image, Preprocess(fit="letterbox", pad_align=align, pad_value=114), (416, 416))
    top = 104 if align == "center" else 0
    inner = np.asarray(Image.fromarray(image).resize((416, 208), Image.Resampling.BILINEAR))
    assert np.array_equal(found[:, top : top + 208], inner.transpose(2, 0, 1))
    outside = np.ones(416, bool)
    outside[top : top + 208] = False
    assert (found[:, outside] == 114).all()
    assert (geometry.scale_x, geometry.scale_y, geometry.top) == (1.04, 1.04, top)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "box", "lanczos"])
def test_stretch_is_pillows_resize(interpolation):
    image = photo(97, 211)
    found, _ = apply(image, Preprocess(fit="stretch", interpolation=interpolation), (64, 80))
    expected = Image.fromarray(image).resize((80, 64), Image.Resampling[interpolation.upper()])
    assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(64, 80), (224, 224), (48, 105), (97, 30), (300, 211)])
def test_opencv_bilinear_is_opencvs_resize_to_the_bit(size):
    for image in (photo(97, 211), photo(97, 211)[:, :, 0], photo(1, 7), photo(9, 1)):
        steps = Preprocess(fit="stretch", interpolation="opencv-bilinear", layout="nhwc", dtype="uint8")
        steps = steps if image.ndim == 3 else steps.model_copy(update={"color": "gray"})
        found, _ = apply(image, steps, size)
        expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(found, expected.reshape(found.shape))


def test_opencv_bilinear_crops_what_it_would_have_resized():
    image = photo(97, 211)
    steps = Preprocess(fit="center-crop", crop_fraction=0.7, interpolation="opencv-bilinear", layout="nhwc")
    found, geometry = apply(image, steps, (40, 56))
    whole = cv2.resize(image, (round(211 * geometry.scale_x), round(97 * geometry.scale_y)))
    top, left = round(-geometry.top), round(-geometry.left)
    assert np.array_equal(found, whole[top : top + 40, left : left + 56])
    long = photo(2, 9000)
    found, _ = apply(long, steps, (224, 224))
    assert found.shape == (224, 224, 3)


def test_values_colour_order_and_layout():
    image = photo(20, 30)
    steps = Preprocess(fit="stretch", color="bgr", layout="nhwc", scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
    found, _ = apply(image, steps, (20, 30))
    expected = (image[:, :, ::-1] / 255 - np.array([0.1, 0.2, 0.3])) / np.array([1, 2, 4])
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6)


def test_gray_is_pillows_luma_and_float16_and_uint8_come_as_asked():
    image = photo(20, 30)
    found, _ = apply(image, Preprocess(fit="stretch", color="gray", dtype="uint8"), (20, 30))
    assert found.shape == (1, 20, 30)
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], np.asarray(Image.fromarray(image).convert("L")))
    half, _ = apply(image, Preprocess(fit="stretch", dtype="float16", scale=1 / 255), (20, 30))
    assert half.dtype == np.float16


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"scale": 1 / 255, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "color": "bgr"},
        {"dtype": "float16", "mean": (127.0, 127.0, 127.0), "layout": "nhwc"},
        {"dtype": "uint8", "scale": 2.0, "std": (2.0,), "color": "gray"},
    ],
)
def test_an_input_is_the_same_in_an_array_that_is_given(steps):
    preprocess = Preprocess(fit="stretch", **steps)
    alone, _ = apply(photo(20, 30), preprocess, (16, 24))
    assert (alone.shape, alone.dtype) == (input_shape(preprocess, (16, 24)), np.dtype(preprocess.dtype))
    batch = np.zeros((3, *alone.shape), alone.dtype)
    row, _ = apply(photo(20, 30), preprocess, (16, 24), batch[1])
    assert np.shares_memory(row, batch)
    assert np.array_equal(batch[1], alone)
    assert not batch[[0, 2]].any()


def test_uint8_with_mean_is_refused():
    with pytest.raises(DataError, match="whole numbers"):
        apply(photo(4, 4), Preprocess(fit="stretch", dtype="uint8", mean=(0.5,)), (4, 4))


SIZES = st.tuples(st.integers(1, 900), st.integers(1, 900))


@settings(max_examples=60, deadline=None)
@given(size=SIZES, fit=st.sampled_from(["center-crop", "letterbox", "stretch"]), box=st.tuples(*[st.floats(0, 1)] * 4))
def test_boxes_come_back_from_the_input(size, fit, box):
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    _, geometry = apply(image, Preprocess(fit=fit), (96, 128))
    x1, x2 = sorted((box[0] * width, box[2] * width))
    y1, y2 = sorted((box[1] * height, box[3] * height))
    there = geometry.boxes_to_input(np.array([[x1, y1, x2, y2]]))
    assert np.allclose(geometry.boxes_to_image(there), [[x1, y1, x2, y2]], atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "center-crop"])
@pytest.mark.parametrize("stride", [1, 4])
def test_masks_come_back_from_the_input(fit, stride):
    truth = np.zeros((240, 320), np.uint8)
    truth[60:180, 80:240] = 200
    steps = Preprocess(fit=fit, interpolation="nearest", color="gray", pad_value=7)
    found, geometry = apply(truth, steps, (128, 128))
    back = geometry.mask_to_image(found[0, ::stride, ::stride].astype(np.int16), outside=-1)
    seen = back >= 0
    assert back.shape == truth.shape
    assert seen.all() == (fit != "center-crop")
    assert (back[seen] == truth[seen]).mean() > 0.95
    assert not (back == 7).any()


def test_a_crop_marks_what_the_model_never_saw():
    _, geometry = apply(np.zeros((100, 400, 3), np.uint8), Preprocess(crop_fraction=1.0), (50, 50))
    back = geometry.mask_to_image(np.ones((50, 50), np.int16), outside=-1)
    assert (back[:, :149] == -1).all()
    assert (back[:, 151:249] == 1).all()
    assert (back[:, 251:] == -1).all()


@pytest.mark.parametrize("fit", ["center-crop", "letterbox", "stretch"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (30, 20_000)])
def test_extreme_shapes(fit, shape):
    image = np.full((*shape, 3), 77, np.uint8)
    found, geometry = apply(image, Preprocess(fit=fit), (224, 224))
    assert found.shape == (3, 224, 224)
    assert (geometry.height, geometry.width) == shape
    assert (found == 77).any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_turns_the_image(kind):
    image = Image.fromarray(photo(40, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, kind, exif=exif, quality=95)
    found = decode(stream.getvalue())
    assert found.shape == (60, 40, 3)
    assert np.abs(found.astype(int) - np.rot90(np.asarray(image), -1)).mean() < 8


def test_other_pixel_modes_become_rgb():
    rgb = photo(16, 24)
    image = Image.fromarray(rgb)
    assert np.array_equal(decode(png(image)), rgb)
    assert decode(png(image.convert("L"))).shape in ((16, 24), (16, 24, 3))
    assert decode(png(image.convert("RGBA"))).shape == (16, 24, 3)
    assert decode(png(image.convert("P"))).shape == (16, 24, 3)
    assert decode(png(image.convert("P"), transparency=bytes([0, 128]))).shape == (16, 24, 3)
    assert decode(png(image.convert("1"))).shape == (16, 24, 3)
    stream = io.BytesIO()
    image.convert("CMYK").save(stream, "JPEG", quality=95)
    assert np.abs(decode(stream.getvalue()).astype(int) - rgb).mean() < 20


def test_sixteen_bit_greyscale_keeps_its_range():
    ramp = np.linspace(0, 65535, 64 * 4).reshape(4, 64).astype(np.uint16)
    found = decode(png(Image.fromarray(ramp)))
    assert np.abs(found.reshape(4, 64, -1)[:, :, 0].astype(float) - ramp / 257).max() <= 0.5


def test_floating_point_images_are_refused():
    stream = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(stream, "TIFF")
    with pytest.raises(CorruptImage, match="no fixed range"):
        decode(stream.getvalue())


def test_damaged_unknown_and_huge_files_are_named(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(photo(64, 64)).save(whole, "JPEG")
    for name, content in {
        "cut.jpg": whole.getvalue()[:-300],
        "empty.png": b"",
        "text.png": b"hello",
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CorruptImage, match=name):
            decode(path)
    with pytest.raises(CorruptImage, match="does not exist"):
        decode(tmp_path / "absent.png")
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(CorruptImage, match="pixels"):
        decode(png(Image.new("1", (side, side))))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged EXIF and still gives the pixels
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), flips=st.integers(1, 12))
def test_mutated_images_decode_or_are_named(seed, flips):
    random = np.random.default_rng(seed)
    kind = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")[seed % 5]
    stream = io.BytesIO()
    Image.fromarray(photo(24, 24)).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(flips):
        content[random.integers(0, len(content))] = random.integers(0, 256)
    try:
        found = decode(bytes(content), "mutant")
    except CorruptImage as error:
        assert "mutant" in str(error)
    else:
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_arrays_that_are_no_images_are_refused(array):
    with pytest.raises(DataError, match="cannot be preprocessed"):
        apply(array, Preprocess(), (8, 8))


def test_the_model_input_is_checked_against_the_steps():
    info = TensorInfo(name="x", shape=("batch", 3, 32, 48), dtype="float32")
    assert input_size(info, Preprocess()) == (32, 48)
    assert image_input([info], Preprocess()) == info
    with pytest.raises(DataError, match="3 channels"):
        input_size(info, Preprocess(color="gray"))
    with pytest.raises(DataError, match="asks for height 64"):
        input_size(info, Preprocess(size=(64, 48)))
    dynamic = TensorInfo(name="x", shape=("batch", "h", "w", 3), dtype="float32")
    with pytest.raises(DataError, match="height of input 'x' is dynamic"):
        input_size(dynamic, Preprocess(layout="nhwc"))
    assert input_size(dynamic, Preprocess(layout="nhwc", size=(10, 20))) == (10, 20)
    with pytest.raises(DataError, match="2 inputs"):
        image_input([info, info], Preprocess())
    with pytest.raises(DataError, match=r"preprocess\.input is 'y'"):
        image_input([info], Preprocess(input="y"))
