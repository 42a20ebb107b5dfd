"""Videos, bags and files of raw dumps as folders of frames: real ones, and those that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from edgeship.config import FrameStreams, RawFrames
from edgeship.data.frames import image_files
from edgeship.data.preprocess import decode
from edgeship.data.streams import unpacked
from edgeship.errors import DataError

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
TOPIC = "/camera/image/compressed"
STORE = get_typestore(Stores.ROS2_HUMBLE)


def encode_video(path: Path, frames: int = 6) -> Path:
    """A video of flat frames, red, green and blue in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            pixels = np.full((48, 64, 3), COLOURS[number % 3], np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), colour).save(stream, "JPEG")
    return stream.getvalue()


def write_bag(
    folder: Path, frames: Sequence[bytes], plugin: StoragePlugin = StoragePlugin.MCAP, form: str = "jpeg"
) -> Path:
    """A ROS 2 bag with a topic of compressed images, and one of words."""
    compressed, word = STORE.types["sensor_msgs/msg/CompressedImage"], STORE.types["std_msgs/msg/String"]
    header, stamp = STORE.types["std_msgs/msg/Header"], STORE.types["builtin_interfaces/msg/Time"]
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        camera = writer.add_connection(TOPIC, compressed.__msgtype__, typestore=STORE)
        words = writer.add_connection("/words", word.__msgtype__, typestore=STORE)
        for second, content in enumerate(frames):
            head = header(stamp=stamp(sec=second, nanosec=0), frame_id="camera")
            message = compressed(header=head, format=form, data=np.frombuffer(content, np.uint8))
            writer.write(camera, second * 10**9, STORE.serialize_cdr(message, compressed.__msgtype__))
            writer.write(words, second * 10**9, STORE.serialize_cdr(word(data="a"), word.__msgtype__))
    return folder


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in image_files(folder)]


def test_every_nth_frame_of_a_video_lies_in_a_folder_of_its_name(tmp_path: Path) -> None:
    video = encode_video(tmp_path / "in" / "monday" / "drive.mp4", frames=7)
    found = unpacked(tmp_path / "in", FrameStreams(every=2), None, tmp_path / "out")
    assert names(found) == [f"monday/drive/{number:06d}.png" for number in (0, 2, 4, 6)]
    for number, path in zip((0, 2, 4, 6), image_files(found), strict=True):
        assert np.abs(decode(path).astype(int) - COLOURS[number % 3]).max() < 12
    alone = unpacked(video, FrameStreams(every=2), None, tmp_path / "out")
    assert names(alone) == [f"drive/{number:06d}.png" for number in (0, 2, 4, 6)]
    made = (alone / "drive" / "000000.png").stat().st_mtime_ns
    assert unpacked(video, FrameStreams(every=2), None, tmp_path / "out") == alone
    assert (alone / "drive" / "000000.png").stat().st_mtime_ns == made


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_frames_of_a_bag_stay_as_they_are_encoded(tmp_path: Path, plugin: StoragePlugin) -> None:
    frames = [jpeg(colour) for colour in COLOURS]
    bag = write_bag(tmp_path / "bags" / "drive", frames, plugin)
    storage = next(path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
    for place, stem in ((bag, "drive"), (bag.parent, "drive"), (storage, storage.stem)):
        found = unpacked(place, FrameStreams(topic=TOPIC), None, tmp_path / "out")
        assert [path.read_bytes() for path in image_files(found)] == frames
        assert names(found)[0] == f"{stem}/{0:019d}-000000.jpg"
        assert [int(Path(name).stem[:19]) for name in names(found)] == [0, 10**9, 2 * 10**9]
    assert len(names(unpacked(bag, FrameStreams(every=2), None, tmp_path / "out"))) == 2


def test_a_raw_file_of_several_frames_is_split(tmp_path: Path) -> None:
    layout = RawFrames(format="nv12", width=4, height=2)
    content = np.arange(36, dtype=np.uint8)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.yuv").write_bytes(content.tobytes())
    found = unpacked(tmp_path / "in", FrameStreams(every=2), layout, tmp_path / "out")
    assert names(found) == ["a/000000.yuv", "a/000002.yuv"]
    assert image_files(found)[1].read_bytes() == content[24:].tobytes()
    (tmp_path / "in" / "a.yuv").write_bytes(content.tobytes()[:12])
    assert unpacked(tmp_path / "in", FrameStreams(), layout, tmp_path / "out") == tmp_path / "in"
    (tmp_path / "in" / "b.yuv").write_bytes(content.tobytes()[:30])
    with pytest.raises(DataError, match=r"b.yuv holds 30 bytes: 2 frames and 6 bytes more"):
        unpacked(tmp_path / "in", FrameStreams(), layout, tmp_path / "out")
    with pytest.raises(DataError, match="nothing says how their bytes lie"):
        unpacked(tmp_path / "in" / "b.yuv", FrameStreams(), None, tmp_path / "out")


def test_places_of_images_are_given_back(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for place in (tmp_path, tmp_path / "absent", Path("module:frames")):
        assert unpacked(place, FrameStreams(), None, tmp_path / "out") == place
    encode_video(tmp_path / "drive.mp4", 1)
    with pytest.raises(DataError, match=r"holds 1 images, such as a.png, beside 1 videos or bags, such as drive.mp4"):
        unpacked(tmp_path, FrameStreams(), None, tmp_path / "out")


def test_raw_dumps_beside_videos_are_refused_whether_or_not_their_layout_is_known(tmp_path: Path) -> None:
    encode_video(tmp_path / "drive.mp4", 1)
    (tmp_path / "a.nv12").write_bytes(bytes(12))
    for layout in (None, RawFrames(format="nv12", width=4, height=2)):
        with pytest.raises(DataError, match=r"holds 1 raw dumps, such as a.nv12, beside 1 videos or bags"):
            unpacked(tmp_path, FrameStreams(), layout, tmp_path / "out")


def test_a_damaged_video_is_told_with_its_frame(tmp_path: Path) -> None:
    whole = encode_video(tmp_path / "whole.mp4", 30).read_bytes()
    broken = bytearray(whole)
    start = whole.index(b"mdat") + 300
    broken[start : start + 900] = bytes(900)
    (tmp_path / "broken.mp4").write_bytes(broken)
    with pytest.raises(DataError, match=r"broken.mp4: frame \d+ (cannot be decoded|is damaged)"):
        unpacked(tmp_path / "broken.mp4", FrameStreams(), None, tmp_path / "out")
    (tmp_path / "text.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"text.mp4 is not a video that FFmpeg reads: Invalid data"):
        unpacked(tmp_path / "text.mp4", FrameStreams(), None, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    matroska = encode_video(tmp_path / "whole.mkv", 60).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(matroska[: len(matroska) // 3])
    with pytest.raises(DataError, match=r"cut.mkv was cut off"):
        unpacked(tmp_path / "cut.mkv", FrameStreams(), None, tmp_path / "out")


def test_a_bag_without_the_topic_names_those_that_it_has(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", [jpeg(COLOURS[0])])
    with pytest.raises(DataError, match=r"drive has no topic '/camera/image/compresed'.*did you mean") as caught:
        unpacked(bag, FrameStreams(topic="/camera/image/compresed"), None, tmp_path / "out")
    assert TOPIC in str(caught.value.expected)
    with pytest.raises(DataError, match="/words carries std_msgs/msg/String"):
        unpacked(bag, FrameStreams(topic="/words"), None, tmp_path / "out")


def test_a_bag_without_images_says_what_it_holds(tmp_path: Path) -> None:
    word = STORE.types["std_msgs/msg/String"]
    with Writer(tmp_path / "talk", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        words = writer.add_connection("/words", word.__msgtype__, typestore=STORE)
        writer.write(words, 0, STORE.serialize_cdr(word(data="a"), word.__msgtype__))
    with pytest.raises(DataError, match="talk has no topic of images; it holds /words"):
        unpacked(tmp_path / "talk", FrameStreams(), None, tmp_path / "out")


def test_a_frame_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "odd", [b"12345678"], form="32FC1; compressedDepth png")
    with pytest.raises(DataError, match="message 0 at 0 ns: the frame is encoded as '32FC1; compressedDepth png'"):
        unpacked(bag, FrameStreams(), None, tmp_path / "out")
    kept = unpacked(write_bag(tmp_path / "bad", [b"12345678"]), FrameStreams(), None, tmp_path / "out")
    assert names(kept) == [f"bad/{0:019d}-000000.jpg"]  # told as a corrupt image, which allow_corrupt counts
    storage = next(bag.glob("*.mcap"))
    (tmp_path / "half.mcap").write_bytes(storage.read_bytes()[: storage.stat().st_size // 2])
    with pytest.raises(DataError, match=r"the bag .*half.mcap cannot be read"):
        unpacked(tmp_path / "half.mcap", FrameStreams(), None, tmp_path / "out")
