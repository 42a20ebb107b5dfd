"""Videos, bags and files of several raw dumps → folders of frames, which everything that takes images then reads.

A frame is called ``<stream>/<frame>``: the stream's path without its suffix, then the number of the frame in a video
or a raw file, counted from 0, or the time in nanoseconds at which a bag received it and its number. Frames of a bag
stay encoded as they are; those of a video are decoded by FFmpeg, turned as they are to be shown, and kept as PNG.
"""

from __future__ import annotations

import functools
import importlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from edgeship.config import FrameStreams, RawFrames
from edgeship.data.preprocess import SUFFIXES
from edgeship.data.raw import SUFFIXES as RAW
from edgeship.data.raw import frame_bytes
from edgeship.data.reference import is_reference
from edgeship.errors import DataError, EdgeshipError, MissingExtra
from edgeship.files import finished_folder, sha256_json, walk, write_bytes
from edgeship.progress import Progress, silent
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIDEOS = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".h264", ".h265", ".hevc", ".mjpeg"}
)
BAGS = frozenset({".mcap", ".db3", ".bag"})
COMPRESSED = "sensor_msgs/msg/CompressedImage"
PLAIN = "sensor_msgs/msg/Image"
CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1}
"""Encodings of plain images that are read."""
MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp"}
SHORT = 0.9
"""A video that gives less than this share of what its header promises was cut off."""
DECOMPRESSORS = (OSError, ValueError, EOFError, RuntimeError, AssertionError)
"""What the decompressors of bags raise on damaged chunks, and rosbags on lengths that do not fit."""
FORMAT = 2
"""Of the folder; a new number unpacks again."""


def unpacked(
    place: Path, take: FrameStreams, layout: RawFrames | None, scratch: Path, progress: Progress = silent
) -> Path:
    """A folder of images: ``place`` itself, or one below ``scratch`` with the frames of the streams that lie there.

    Args:
        place: A folder, a video, a bag (a file, or a ROS 2 folder with its ``metadata.yaml``), a file of raw dumps, or
            anything else, which is given back.
        take: Which frames are taken.
        layout: Of raw dumps.
        scratch: Where frames are kept. What lies there of the same streams, taken in the same way, is used again.
        progress: Told how far it is.

    Raises:
        DataError: A stream cannot be read, holds no frame or not the topic, or images or raw dumps lie beside videos
            and bags.
        MissingExtra: PyAV for a video, or rosbags for a bag, is not installed.
    """
    if is_reference(place) or not place.exists():
        return place
    streams = _streams(place, layout)
    if not streams:
        return place
    told = [[name, str(path.resolve()), *_state(path)] for name, path in streams.items()]
    key = sha256_json([FORMAT, told, take.model_dump(), layout.model_dump() if layout is not None else None])
    folder = scratch / f"{place.stem}-{key[:16]}"
    if folder.is_dir():
        return folder
    with finished_folder(folder) as temporary:
        for name, path in streams.items():
            count = 0
            for count, (frame, content) in enumerate(_frames(path, take, layout), 1):
                _keep(temporary / name / frame, content)
                progress(count, None, f"frames of {path.name}")
            if count == 0:
                raise DataError(f"{path} holds no frame", do="name a recording of the camera")
    return folder


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="edgeship-frames-")


def scratch() -> Path:
    """A folder for frames that lasts as long as the process, for commands without a work folder."""
    return Path(_scratch().name)


def is_stream(path: Path) -> bool:
    """Whether a path is a video or a bag."""
    return (path.suffix.lower() in VIDEOS | BAGS and not path.is_dir()) or _is_bag(path)


def _is_bag(path: Path) -> bool:
    return path.is_dir() and (path / "metadata.yaml").is_file() and any(map(_is_storage, path.iterdir()))


def _is_storage(path: Path) -> bool:
    return path.suffix.lower() in (".mcap", ".db3")


def _streams(place: Path, layout: RawFrames | None) -> dict[str, Path]:
    """Streams at a place by the name of their frames' folder; none where it holds images."""
    if is_stream(place):
        return {place.stem: place}
    if place.is_file():
        return {place.stem: place} if place.suffix.lower() in RAW else {}
    if not place.is_dir():
        return {}
    files = list(walk(place))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    found = dict.fromkeys(
        path.parent if _is_storage(path) and _is_bag(path.parent) else path for path in files if is_stream(path)
    )
    dumps = [path for path in files if path.suffix.lower() in RAW]
    for kind, others in (("images", images), ("raw dumps", dumps)):
        if others and found:
            raise DataError(
                f"{place} holds {len(others)} {kind}, such as {others[0].name}, beside {len(found)} videos or bags, "
                f"such as {next(iter(found)).name}",
                expected="one kind, so that every frame is converted alike",
                do="move one of them elsewhere",
            )
    if layout is not None and not images:
        several = any(path.stat().st_size > frame_bytes(layout) for path in dumps)
        found |= dict.fromkeys(dumps) if several else {}
    named: dict[str, Path] = {}
    for path in found:
        name = path.relative_to(place).with_suffix("").as_posix()
        if name in named:
            raise DataError(f"{named[name]} and {path} would give frames of one name", do="rename one of them")
        named[name] = path
    return named


def _state(path: Path) -> list[int]:
    """Size and time of change of a stream's files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns)]


def _frames(path: Path, take: FrameStreams, layout: RawFrames | None) -> Iterator[tuple[str, Any]]:
    """File name and content of each frame that is taken: encoded bytes, or uint8 RGB or grey pixels."""
    suffix = path.suffix.lower()
    if suffix in RAW:
        return _raw(path, take.every, layout)
    return _bag(path, take) if suffix in BAGS or path.is_dir() else _video(path, take.every)


def _keep(path: Path, content: bytes | NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_bytes(path, content)
    else:
        Image.fromarray(content).save(path, "PNG", compress_level=1)


def _raw(path: Path, every: int, layout: RawFrames | None) -> Iterator[tuple[str, bytes]]:
    if layout is None:
        raise DataError(
            f"{path} holds raw dumps, and nothing says how their bytes lie",
            expected="the layout of the camera in [frames]",
            do='add [frames] with format = "nv12" (or another), width and height',
        )
    size, whole = frame_bytes(layout), path.stat().st_size
    if whole % size:
        raise DataError(
            f"{path} holds {whole:,} bytes: {whole // size} frames and {whole % size:,} bytes more",
            expected=f"whole frames of {size:,} bytes ({layout.format}, {layout.width}×{layout.height}, "
            f"{layout.row_bytes} bytes a row)",
            do="correct format, width, height or stride in [frames]",
        )
    with path.open("rb") as file:
        for number in range(0, whole // size, every):
            file.seek(number * size, os.SEEK_SET)
            yield f"{number:06d}{path.suffix.lower()}", file.read(size)


def _video(path: Path, every: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    try:
        import av
    except ImportError:
        raise MissingExtra(f"reading the video {path.name}", "av", "video") from None
    number, opened = 0, False
    try:
        with av.open(str(path)) as container:
            opened = True
            if not container.streams.video:
                raise DataError(f"{path} holds no video", expected="a stream of pictures")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            end = 0.0
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise DataError(f"{path}: frame {number} is damaged", do="cut it off, or copy the file again")
                if number % every == 0:
                    yield f"{number:06d}.png", _upright(frame, path)
                end = max(end, frame.time or 0.0)
                number += 1
            promised = stream.frames
            seconds = (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0
    except (av.FFmpegError, OSError) as error:
        if not opened:
            raise DataError(
                f"{path} is not a video that FFmpeg reads: {error.strerror}", do="copy the file again, or leave it out"
            ) from None
        raise DataError(
            f"{path}: frame {number} cannot be decoded: {error.strerror}", do="cut it off, or copy the file again"
        ) from None
    if number < SHORT * promised or (not promised and end + 1 < SHORT * seconds):
        told = f"{number} of {promised} frames" if promised else f"{end:.1f} of {seconds:.1f} s"
        raise DataError(f"{path} was cut off: it gives {told}", do="copy the file again")


def _upright(frame: Any, path: Path) -> NDArray[np.uint8]:
    """A frame as it is to be shown: recorders note by how much they were turned (counter-clockwise, in degrees)."""
    turned = int(getattr(frame, "rotation", 0))
    if turned % 90:
        raise DataError(f"{path} is to be shown turned by {turned}°", expected="a multiple of 90°")
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, turned // 90))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open bag; what its library cannot read is a DataError."""
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.rosbag1 import ReaderError as Error1
        from rosbags.rosbag2 import ReaderError as Error2
        from rosbags.typesys import Stores, get_typestore

        damaged = importlib.import_module("rosbags.rosbag2.storage_mcap").zstd.ZstdError
    except ImportError:
        raise MissingExtra(f"reading the bag {path.name}", "rosbags", "bags") from None
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.LATEST)) as reader:
            yield reader
    except EdgeshipError:
        raise
    except (AnyReaderError, Error1, Error2, damaged, *DECOMPRESSORS) as error:
        raise DataError(
            f"the bag {path} cannot be read: {' '.join(str(error).split())[:200]}",
            expected="a whole ROS 1 or ROS 2 bag (.bag, .db3, .mcap)",
            do="record it again, or repair it: ros2 bag reindex, or mcap recover",
        ) from None


def _bag(path: Path, take: FrameStreams) -> Iterator[tuple[str, bytes | NDArray[np.uint8]]]:
    with _opened(path) as reader:
        topic = _topic(path, take.topic, {item.topic: item.msgtype for item in reader.connections})
        wanted = [item for item in reader.connections if item.topic == topic]
        for number, (connection, time, content) in enumerate(reader.messages(connections=wanted)):
            if number % take.every:
                continue
            where = f"{path}, {topic}, message {number} at {time} ns"
            name = f"{time:019d}-{number:06d}"  # frames may share a time; names sort as the frames came
            message = reader.deserialize(content, connection.msgtype)
            if connection.msgtype == COMPRESSED:
                data = message.data.tobytes()
                yield f"{name}{_suffix(data, message.format, where)}", data
            else:
                yield f"{name}.png", _pixels(message, where)


def _topic(path: Path, wanted: str | None, topics: dict[str, str]) -> str:
    """The topic whose frames are taken. Raises DataError."""
    pictures = [name for name, kind in topics.items() if kind in (COMPRESSED, PLAIN)]
    shown = ", ".join(pictures) or f"none; it holds {', '.join(topics) or 'nothing'}"
    if wanted is None and len(pictures) == 1:
        return pictures[0]
    if wanted is None and not pictures:
        raise DataError(
            f"{path} has no topic of images; it holds {', '.join(topics) or 'nothing'}",
            expected=f"{COMPRESSED} or {PLAIN}",
            do="name a recording of the camera",
        )
    if wanted is None:
        raise DataError(
            f"{path} has {len(pictures)} topics of images: {shown}",
            expected="one, or the one to take",
            do='name it: [frames] topic = "/camera/image/compressed"',
        )
    if wanted not in topics:
        raise DataError(f"{path} has no topic {did_you_mean(wanted, list(topics))}", expected=f"one of images: {shown}")
    if wanted not in pictures:
        raise DataError(f"{path}: {wanted} carries {topics[wanted]}", expected=f"a topic of images: {shown}")
    return wanted


def _suffix(data: bytes, form: str, where: str) -> str:
    """Of the file for an encoded frame. A damaged one keeps that of its format: it is told as a corrupt image."""
    for magic, suffix in MAGIC.items():
        if data.startswith(magic) and "depth" not in form.lower():
            return suffix
    known = {"jpeg": ".jpg", "jpg": ".jpg", "png": ".png"}
    found = [suffix for word, suffix in known.items() if word in form.lower() and "depth" not in form.lower()]
    if not found:
        raise DataError(f"{where}: the frame is encoded as {form!r}", expected="jpeg, png or webp")
    return found[0]


def _pixels(message: Any, where: str) -> NDArray[np.uint8]:
    channels = CHANNELS.get(message.encoding)
    if channels is None:
        raise DataError(f"{where}: the encoding is {message.encoding!r}", expected=", ".join(CHANNELS))
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.asarray(message.data, np.uint8)
    if data.size != height * step or step < width * channels or not data.size:
        raise DataError(f"{where}: {data.size:,} bytes for {width}×{height} {message.encoding} at {step} a row")
    pixels = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    pixels = pixels[:, :, ::-1] if message.encoding == "bgr8" else pixels
    return np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels)
