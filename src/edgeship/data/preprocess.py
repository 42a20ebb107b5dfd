"""From an image file to the model's input, and back: one implementation for parity on images, calibration,
evaluation and the vehicle.

Resizing is Pillow's own (``Image.resize``), which filters when it shrinks, or OpenCV's ``INTER_LINEAR``, which does
not.
Values are ``(pixel * scale - mean) / std`` on 0..255 pixels, in float32.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import (  # the plugins by name: Pillow's own lazy loading is not safe from several threads
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from edgeship.config import Preprocess
from edgeship.data import opencv_resize, raw
from edgeship.errors import DataError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]

MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: Pillow's own limit against decompression bombs."""
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
"""What is decoded. Formats that start other programs (EPS) or are rarely camera frames are left out."""
PLUGINS = (
    BmpImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
"""The decoders of ``FORMATS``."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
PICTURES = SUFFIXES | raw.SUFFIXES
"""Encoded images, and raw dumps."""
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
OPENCV = "opencv-bilinear"
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files."""


class CorruptImage(DataError):
    """One image cannot be decoded. Evaluation and calibration count these against ``allow_corrupt``."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}", do="give an image that opens: replace or remove this file")
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Geometry:
    """How one image was placed in the model's input: ``x_input = x_image * scale_x + left``, the same for y.

    A crop has negative ``left`` and ``top``; a letterbox has positive ones. Units are pixels; pixel centres lie at
    half integers, as in Pillow's resize.
    """

    height: int
    """Of the image, after EXIF orientation."""
    width: int
    input_height: int
    input_width: int
    scale_x: float = 1.0
    scale_y: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def boxes_to_image(self, boxes: Array) -> Array:
        """Boxes [N, 4] (x1, y1, x2, y2) in input pixels → in image pixels, clipped to the image; float32."""
        scale = np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])
        offset = np.array([self.left, self.top, self.left, self.top])
        limit = np.array([self.width, self.height, self.width, self.height], dtype=np.float64)
        moved = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - offset) / scale
        clipped: Array = np.clip(moved, 0.0, limit)
        return clipped.astype(np.float32)

    def mask_to_image(self, mask: Array, outside: float = 0) -> Array:
        """A class map [h, w] over the whole input, at any stride → [height, width] of the image, nearest neighbour.

        Args:
            mask: Class indices.
            outside: Value of pixels that the model never saw (cut away by the centre crop).
        """
        rows, rows_seen = _nearest(self.height, self.scale_y, self.top, self.input_height, mask.shape[0])
        columns, columns_seen = _nearest(self.width, self.scale_x, self.left, self.input_width, mask.shape[1])
        placed = mask[rows[:, None], columns[None, :]]
        if not rows_seen.all():
            placed[~rows_seen, :] = outside
        if not columns_seen.all():
            placed[:, ~columns_seen] = outside
        return placed


def _nearest(length: int, scale: float, offset: float, span: int, cells: int) -> tuple[Array, Array]:
    """For each image pixel of one axis: the cell of the mask under its centre, and whether the model saw it."""
    centre = (np.arange(length) + 0.5) * scale + offset
    index = np.floor(centre * (cells / span)).astype(np.int64)
    return np.clip(index, 0, cells - 1), (centre >= 0) & (centre <= span)


def decode(source: Path | bytes, name: str | None = None) -> Array:
    """Decode an image file to uint8 RGB [height, width, 3], turned upright by its EXIF orientation.

    Greyscale is repeated over the channels, palettes are resolved, alpha is dropped, CMYK is converted without a
    colour profile, and 16-bit greyscale is mapped from 0..65535 to 0..255. 32-bit and floating-point images are
    refused: their range is not known.

    Args:
        source: A file, or a file's content.
        name: What to call it in errors; default: the path.

    Raises:
        CorruptImage: Damaged, of an unknown format or mode, or larger than :data:`MAX_PIXELS`.
    """
    return np.asarray(open_image(source, name))


def open_image(source: Path | bytes, name: str | None = None) -> Image.Image:
    """As :func:`decode`, but a Pillow image in mode RGB, or L where the file is greyscale."""
    label = name or (str(source) if isinstance(source, Path) else "image")
    with _opened(source, label) as image:
        ImageOps.exif_transpose(image, in_place=True)
        image.load()
        return _to_rgb(image, label)


def open_picture(source: Path | bytes, preprocess: Preprocess | None, name: str | None = None) -> Image.Image:
    """As :func:`open_image`, or a raw dump in RGB, converted as ``preprocess.raw`` declares it.

    With a declared layout, files of encoded images are told by their suffix; all else is a raw dump.

    Args:
        source: A file, or its content.
        preprocess: The steps that declare the layout; None: no raw dumps are known.
        name: The file's path, where only the content is given.

    Raises:
        CorruptImage: It cannot be decoded, or a dump has not the size of its layout.
        DataError: A raw dump, and no layout is declared.
    """
    label = name or (str(source) if isinstance(source, Path) else "frame")
    suffix = Path(label).suffix.lower()
    layout = preprocess.raw if preprocess is not None else None
    if layout is None and suffix in raw.SUFFIXES:
        raise DataError(
            f"{label} is a raw dump, and nothing says how its bytes lie",
            expected="the layout of the camera in [frames]",
            do='add [frames] with format = "nv12" (or another), width and height',
        )
    if layout is None or suffix in SUFFIXES:
        return open_image(source, name)
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
        return Image.fromarray(raw.to_rgb(content, layout, label))
    except OSError as error:
        raise CorruptImage(label, f"cannot be read: {error.strerror}") from None
    except DataError as error:
        raise CorruptImage(label, f"{error.found.removeprefix(label).lstrip()}, not {error.expected}") from None


def check_header(path: Path, preprocess: Preprocess | None = None) -> None:
    """Open an image file without decoding its pixels. Raises as :func:`open_picture` where that fails already."""
    if path.suffix.lower() in raw.SUFFIXES:
        open_picture(path, preprocess)
        return
    with _opened(path, str(path)):
        return


@contextmanager
def _opened(source: Path | bytes, label: str) -> Iterator[Image.Image]:
    """An image file whose header was read; what fails, also in the block, is a CorruptImage."""
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise CorruptImage(label, _too_large(f"{width}×{height}"))
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CorruptImage(label, _too_large("the image")) from None
    except FileNotFoundError:
        raise CorruptImage(label, "the file does not exist") from None
    except UnidentifiedImageError:
        raise CorruptImage(label, f"not an image of a known format ({', '.join(FORMATS)})") from None
    except _BROKEN as error:
        raise CorruptImage(label, f"cannot be decoded: {error}") from None


def _too_large(what: str) -> str:
    return f"{what} has more than {MAX_PIXELS:,} pixels and is not decoded"


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    if image.mode in ("1", "P", "RGBA", "RGBX", "LA", "La", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB")
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise CorruptImage(name, "32-bit greyscale: its range is not known; save it as 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    raise CorruptImage(name, f"pixel mode {image.mode!r} has no fixed range; save it as 8 or 16 bits")


def apply(
    image: Array | Image.Image, preprocess: Preprocess, size: tuple[int, int], out: Array | None = None
) -> tuple[Array, Geometry]:
    """Turn a decoded image into one model input, without the batch axis.

    Args:
        image: uint8 RGB [height, width, 3] or greyscale [height, width], or a Pillow image of mode RGB or L. With
            ``preprocess.raw``, an array of one or two axes is a raw dump.
        preprocess: The steps.
        size: (height, width) of the model's input.
        out: Where to put the input; default: a new array.

    Returns:
        The input, [C, H, W] or [H, W, C] in ``preprocess.dtype``, and where the image lies in it.

    Raises:
        DataError: The array is not an 8-bit image, or the values do not fit ``dtype = "uint8"``.
    """
    if preprocess.raw is not None and isinstance(image, np.ndarray) and image.ndim <= 2:
        image = raw.to_rgb(image, preprocess.raw)
    pixels, geometry = place(_as_image(image), preprocess, size)
    return normalise(pixels, preprocess, out), geometry


def _as_image(image: Array | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (colour or image.ndim == 2) or 0 in image.shape:
        raise DataError(
            f"an image array of shape {list(image.shape)} and dtype {image.dtype} cannot be preprocessed",
            expected="uint8, [height, width, 3] in RGB order or [height, width] greyscale",
        )
    return Image.fromarray(np.ascontiguousarray(image))


def place(image: Image.Image, preprocess: Preprocess, size: tuple[int, int]) -> tuple[Array, Geometry]:
    """Resize and crop or pad: uint8 [H, W] (gray) or [H, W, 3] (RGB), and the geometry."""
    mode = "L" if preprocess.color == "gray" else "RGB"
    if image.mode != mode and not (mode == "RGB" and image.mode == "L"):
        image = image.convert(mode)
    fitted, geometry = _FITS[preprocess.fit](image, preprocess, size)
    if fitted.mode != mode:
        fitted = fitted.convert(mode)
    return np.asarray(fitted), geometry


def _stretch(image: Image.Image, preprocess: Preprocess, size: tuple[int, int]) -> tuple[Image.Image, Geometry]:
    (height, width), (w, h) = size, image.size
    return _resize(image, (width, height), preprocess), Geometry(h, w, height, width, width / w, height / h)


def _letterbox(image: Image.Image, preprocess: Preprocess, size: tuple[int, int]) -> tuple[Image.Image, Geometry]:
    (height, width), (w, h) = size, image.size
    ratio = min(width / w, height / h)
    new_w, new_h = min(width, max(1, round(w * ratio))), min(height, max(1, round(h * ratio)))
    centred = preprocess.pad_align == "center"
    left, top = ((width - new_w) // 2, (height - new_h) // 2) if centred else (0, 0)
    resized = _resize(image, (new_w, new_h), preprocess)
    geometry = Geometry(h, w, height, width, new_w / w, new_h / h, left, top)
    if (new_w, new_h) == (width, height):
        return resized, geometry
    pad = round(preprocess.pad_value)
    canvas = Image.new(image.mode, (width, height), pad if image.mode == "L" else (pad, pad, pad))
    canvas.paste(resized, (left, top))
    return canvas, geometry


def _center_crop(image: Image.Image, preprocess: Preprocess, size: tuple[int, int]) -> tuple[Image.Image, Geometry]:
    """The short side to floor(size / crop_fraction), the long side in proportion, then the middle, as torchvision."""
    (height, width), (w, h) = size, image.size
    target_w, target_h = int(width / preprocess.crop_fraction), int(height / preprocess.crop_fraction)
    if target_w * h >= target_h * w:
        new_w, new_h = target_w, max(target_h, target_w * h // w)
    else:
        new_w, new_h = max(target_w, target_h * w // h), target_h
    left, top = round((new_w - width) / 2), round((new_h - height) / 2)
    geometry = Geometry(h, w, height, width, new_w / w, new_h / h, -left, -top)
    if preprocess.interpolation == OPENCV:
        window = (top, left, height, width)
        return Image.fromarray(opencv_resize.resize(np.asarray(image), (new_h, new_w), window)), geometry
    if new_w * new_h <= MAX_PIXELS:
        resized = _resize(image, (new_w, new_h), preprocess)
        return resized.crop((left, top, left + width, top + height)), geometry
    box = (left * w / new_w, top * h / new_h, (left + width) * w / new_w, (top + height) * h / new_h)
    return image.resize((width, height), _FILTERS[preprocess.interpolation], box=box), geometry


_FITS = {"stretch": _stretch, "letterbox": _letterbox, "center-crop": _center_crop}


def _resize(image: Image.Image, size: tuple[int, int], preprocess: Preprocess) -> Image.Image:
    if image.size == size:
        return image
    if preprocess.interpolation == OPENCV:
        return Image.fromarray(opencv_resize.resize(np.asarray(image), (size[1], size[0])))
    return image.resize(size, _FILTERS[preprocess.interpolation])


def normalise(pixels: Array, preprocess: Preprocess, out: Array | None = None) -> Array:
    """uint8 [H, W] or [H, W, 3] in RGB order → the model's values in its colour order, layout and dtype, in ``out``.

    Raises:
        DataError: The dtype is uint8 and scale, mean and std do not give whole numbers in 0..255.
    """
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if preprocess.color == "bgr":
        pixels = pixels[:, :, ::-1]
    planes = pixels.transpose(2, 0, 1) if preprocess.layout == "nchw" else pixels
    if preprocess.dtype == "uint8":
        _check_bytes(preprocess)
    if out is None:
        out = np.empty(planes.shape, dtype=preprocess.dtype)
    identity = preprocess.scale == 1.0 and not any(preprocess.mean) and set(preprocess.std) == {1.0}
    values = out if identity or preprocess.dtype == "float32" else np.empty(planes.shape, dtype=np.float32)
    np.copyto(values, planes)
    if identity:
        return out
    shape = (-1, 1, 1) if preprocess.layout == "nchw" else (1, 1, -1)
    if preprocess.scale != 1.0:
        values *= np.float32(preprocess.scale)
    if any(preprocess.mean):
        values -= np.asarray(preprocess.mean, dtype=np.float32).reshape(shape)
    if set(preprocess.std) != {1.0}:
        values /= np.asarray(preprocess.std, dtype=np.float32).reshape(shape)
    if values is not out:
        np.copyto(out, np.rint(values) if preprocess.dtype == "uint8" else values, casting="unsafe")
    return out


def input_shape(preprocess: Preprocess, size: tuple[int, int]) -> tuple[int, int, int]:
    """Shape of one image's input, in the layout."""
    channels = 1 if preprocess.color == "gray" else 3
    return (channels, *size) if preprocess.layout == "nchw" else (*size, channels)


def _check_bytes(preprocess: Preprocess) -> None:
    values = np.arange(256, dtype=np.float64)[:, None] * preprocess.scale
    table = (values - np.asarray(preprocess.mean)) / np.asarray(preprocess.std)
    if np.abs(table - np.rint(table)).max() > 1e-6 or table.min() < 0 or table.max() > 255:
        raise DataError(
            "preprocess.dtype is uint8, but scale, mean and std give values that are not whole numbers in 0..255",
            do='remove scale, mean and std, or set dtype = "float32"',
        )


def image_input(inputs: Sequence[TensorInfo], preprocess: Preprocess) -> TensorInfo:
    """The input that takes the image: ``preprocess.input``, or the only one that ``[inputs]`` does not declare.

    Raises:
        DataError: No such input, several without a choice, or an input that is not a batch of images.
    """
    names = ", ".join(repr(info.name) for info in inputs)
    if preprocess.input is not None:
        found = [info for info in inputs if info.name == preprocess.input]
        if not found:
            raise DataError(f"preprocess.input is {preprocess.input!r}; the model has {names}", do="name one of these")
        return found[0]
    left = [info for info in inputs if info.name not in preprocess.fed()]
    if len(left) != 1:
        raise DataError(
            f"the model has {len(inputs)} inputs ({names}), and {len(left) or 'none'} of them could take the image",
            expected="one, and a declaration of every other",
            do="name the image's input in preprocess.input, and declare the others: [inputs.NAME] with from or value",
        )
    return left[0]


def input_size(info: TensorInfo, preprocess: Preprocess) -> tuple[int, int]:
    """(height, width) of the model's input, checked against the preprocessing.

    Raises:
        DataError: Not four axes, another number of channels, a size that contradicts the model's, or a dynamic
            height or width without ``preprocess.size``.
    """
    shape = list(info.shape)
    channels = 1 if preprocess.color == "gray" else 3
    order = "[batch, channels, height, width]" if preprocess.layout == "nchw" else "[batch, height, width, channels]"
    if len(shape) != 4:
        raise DataError(f"input {info.name!r} has shape {shape}", expected=f"an image batch {order}")
    found, height, width = (shape[1], *shape[2:]) if preprocess.layout == "nchw" else (shape[3], *shape[1:3])
    if isinstance(found, int) and found != channels:
        raise DataError(
            f"input {info.name!r} has shape {shape}: {found} channels",
            expected=f"{channels} for color = {preprocess.color!r} in {order}",
            do="set preprocess.color or preprocess.layout to what the model was trained with",
        )
    size = []
    for place_, (name, value) in enumerate((("height", height), ("width", width))):
        asked = preprocess.size[place_] if preprocess.size else None
        if isinstance(value, int) and asked is not None and asked != value:
            raise DataError(
                f"preprocess.size asks for {name} {asked}; input {info.name!r} has shape {shape}",
                do="remove preprocess.size, or export the model at that size",
            )
        if not isinstance(value, int) and asked is None:
            raise DataError(
                f"the {name} of input {info.name!r} is dynamic ({value})", do="set preprocess.size = [height, width]"
            )
        size.append(value if isinstance(value, int) else int(asked or 0))
    return size[0], size[1]


def in_dtype(preprocess: Preprocess, info: TensorInfo) -> Preprocess:
    """The preprocessing in the dtype of the engine's input: a float16 engine takes float16 values.

    Raises:
        DataError: One of the two is an integer type and the other is not.
    """
    if preprocess.dtype == info.dtype:
        return preprocess
    if "uint8" in (preprocess.dtype, info.dtype) or info.dtype not in ("float32", "float16"):
        raise DataError(
            f"preprocess.dtype is {preprocess.dtype}, input {info.name!r} takes {info.dtype}",
            do=f'set preprocess.dtype = "{info.dtype}"',
        )
    return preprocess.model_copy(update={"dtype": info.dtype})
