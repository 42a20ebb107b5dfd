"""The tables of edgeship.toml that say how a model's inputs are filled, and what every table has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of the config: frozen, unknown keys refused."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Input(Section):
    """``[inputs.NAME]``: where an input beside the image comes from, in calibration, evaluation and the vehicle.

    ==============  ==================================================================================================
    image_size      height and width of the image as it was decoded, before preprocessing
    input_size      height and width of the network's image input
    constant        ``value``, a number or nested lists of the input's shape, with or without its batch axis
    arrays          an ``.npy`` for each image, without the batch axis
    columns         numbers in the ``columns`` of a CSV, a row for each image
    images          another camera's image, by its own ``[preprocess.NAME]``
    ==============  ==================================================================================================

    A file belongs to the image whose path it shares, up to the suffix. Where files are called otherwise, a CSV in the
    place of the folder names the image and, in the column of the input's name, the file.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    origin: Literal["image_size", "input_size", "constant", "arrays", "columns", "images"] = Field(alias="from")
    value: Any = None
    """Of a constant."""
    order: Literal["height-width", "width-height"] = "height-width"
    """Of a size."""
    calibration: Path | None = None
    """The folder, or the CSV, beside ``calibration.images``."""
    evaluation: Path | None = None
    """The folder, or the CSV, beside ``evaluation.images``."""
    columns: tuple[str, ...] = ()
    """Of the CSV, in the order of the input's values."""
    preprocess: Preprocess | None = None
    """Steps of a camera's own, written as ``[preprocess.NAME]``; default: those of ``[preprocess]``."""

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, raw: Any) -> Any:
        named = isinstance(raw, dict) and ("from" in raw or "origin" in raw)
        return {**raw, "from": "constant"} if isinstance(raw, dict) and "value" in raw and not named else raw

    @model_validator(mode="after")
    def _fitting(self) -> Input:
        stored = self.origin in ("arrays", "columns", "images")
        needs = {"value": self.origin == "constant", "columns": self.origin == "columns"}
        for key, needed in needs.items():
            given = key in self.model_fields_set and getattr(self, key) not in (None, ())
            if given != needed:
                raise ValueError(f'from = "{self.origin}" {"needs" if needed else "takes no"} {key}')
        for key in ("calibration", "evaluation"):
            if getattr(self, key) is not None and not stored:
                raise ValueError(f'from = "{self.origin}" takes no {key}: it is known of every image')
        if self.preprocess is not None and self.origin != "images":
            raise ValueError(f'from = "{self.origin}" takes no preprocess; from = "images" does')
        return self


class Memory(Section):
    """``[state]``: ``NAME = { in = "mem_in", out = "mem_out", init = 0 }``, an output that is the next step's input.

    ``evaluation.group`` says which frames are one sequence; within it they are in the order of their names.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    origin: str = Field(alias="in")
    """The input."""
    result: str = Field(alias="out")
    """The output, of the same shape and type."""
    init: float = 0.0
    """What the memory holds before the first frame, everywhere."""


class RawFrames(Section):
    """The layout of raw dumps, written in ``[frames]``: what a camera's driver hands over before any encoding."""

    format: Literal[
        "nv12", "nv21", "i420", "yuyv", "uyvy", "bayer_rggb", "bayer_grbg", "bayer_gbrg", "bayer_bggr"
    ]  # fmt: skip
    width: Count
    """Of the picture, in pixels."""
    height: Count
    stride: Count | None = None
    """Bytes from one row to the next; default: no padding. The chroma rows of i420 have half of it."""
    matrix: Literal["bt601", "bt709"] = "bt709"
    """Of YUV: which standard's matrix the camera encodes with."""
    range: Literal["limited", "full"] = "limited"
    """Of YUV: limited has Y in 16..235."""
    bits: Literal[8, 10, 12, 14, 16] = 8
    """Of a Bayer sample; more than 8 lie in the lower bits of little-endian 16-bit words."""

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        wide = 2 if self.format in ("yuyv", "uyvy") or self.bits > 8 else 1
        return self.stride if self.stride is not None else self.width * wide

    @model_validator(mode="after")
    def _fitting(self) -> RawFrames:
        bayer = self.format.startswith("bayer")
        if self.width % 2 or (self.height % 2 and self.format not in ("yuyv", "uyvy")):
            raise ValueError(f"{self.format} needs an even width and height, found {self.width}×{self.height}")
        if self.bits != 8 and not bayer:
            raise ValueError(f"bits belongs to a Bayer format; {self.format} has 8")
        least = self.model_copy(update={"stride": None}).row_bytes
        if self.row_bytes < least or (self.row_bytes % 2 and (self.format == "i420" or self.bits > 8)):
            raise ValueError(
                f"stride is {self.stride}; {self.width} pixels of {self.format} need at least {least}, even"
            )
        for name in ("matrix", "range"):
            if bayer and name in self.model_fields_set:
                raise ValueError(f"{name} belongs to YUV; {self.format} has none")
        return self


class FrameStreams(Section):
    """``[frames]``: how frames are taken out of videos and bags."""

    every: Count = 1
    """Every n-th frame of a video or a bag, the first one included."""
    topic: str | None = None
    """The topic of a bag; default: its only topic of images."""


class Preprocess(Section):
    """From a decoded image to the model's input; the same for calibration, evaluation and the vehicle.

    ``value = (pixel * scale - mean) / std`` on 0..255 pixels, per channel in the order of ``color``.
    """

    fit: Literal["center-crop", "letterbox", "stretch"] = "center-crop"
    size: tuple[Count, Count] | None = None
    """(height, width); default: the model input's own."""
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 0.875
    """center-crop: the short side is resized to size / crop_fraction before the crop."""
    pad_value: Annotated[float, Field(ge=0, le=255)] = 114.0
    pad_align: Literal["center", "top-left"] = "center"
    interpolation: Literal["bilinear", "bicubic", "nearest", "box", "lanczos", "opencv-bilinear"] = "bilinear"
    """Pillow's filters, which widen where an image shrinks, or OpenCV's INTER_LINEAR, as YOLO networks train with."""
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    scale: Positive = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Positive, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    input: str | None = None
    """Which input takes the image, when the model has several."""
    inputs: dict[str, Input] = Field(default_factory=dict)
    """The model's other inputs, written as ``[inputs.NAME]``."""
    state: dict[str, Memory] = Field(default_factory=dict)
    """The model's memory, written as ``[state]``."""
    raw: RawFrames | None = None
    """The layout of raw dumps, written in ``[frames]``."""

    def fed(self) -> frozenset[str]:
        """The inputs that do not take the image."""
        return frozenset([*self.inputs, *(item.origin for item in self.state.values())])

    @model_serializer(mode="wrap")
    def _without_nothing(self, rest: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What caches and bundles are bound to stays as it is where there are no raw dumps."""
        told: dict[str, Any] = rest(self)
        return told if self.raw is not None else {name: value for name, value in told.items() if name != "raw"}

    @model_validator(mode="after")
    def _channels(self) -> Preprocess:
        channels = 1 if self.color == "gray" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} has {len(values)} values; color = {self.color!r} needs 1 or {channels}")
            if len(set(values)) == 1:  # equal settings are equal, however they are written
                object.__setattr__(self, name, values[:1])
        return self
