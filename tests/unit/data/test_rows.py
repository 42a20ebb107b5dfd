"""``module:callable``: rows are read when they are wanted and are not kept."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgeship.config import Evaluation, Preprocess
from edgeship.data.dataset import Dataset
from edgeship.data.datasets import open_dataset
from edgeship.data.frames import FrameChoice, frames
from edgeship.data.loader import Loader, LoadOptions
from edgeship.data.preprocess import Geometry
from edgeship.errors import DataError
from edgeship.results import TensorInfo
from processes import python

INPUT = TensorInfo(name="x", shape=("batch", 1, 4, 4), dtype="float32")
GRAY = Preprocess(fit="stretch", color="gray")
CODE = """
import numpy as np

calls, seen = [], []


def picture(number):
    seen.append(number)
    return np.full((4, 4), number, np.uint8)


class Sequence:
    def __len__(self):
        return 10

    def __getitem__(self, number):
        calls.append(number)
        return lambda: picture(number), "ab"[number % 2], f"row {number}"


def stream():
    for number in range(10):
        calls.append(number)
        yield picture(number), "ab"[number % 2], f"row {number}"


def masks():
    for number in range(3):
        yield np.zeros((4, 6), np.uint8), np.full((4, 6), number, np.uint8)


def images():
    for number in range(10):
        yield picture(number)


ONCE = stream()


def spent():
    return ONCE


def number():
    return 3


"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module above, fresh."""
    (tmp_path / "own_rows.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_rows", raising=False)
    import own_rows

    return own_rows


def opened(name: str, task: str = "classification", **settings: object) -> Dataset:
    return open_dataset(Evaluation(task=task, images=Path(f"own_rows:{name}"), **settings))


@pytest.mark.parametrize("name", ["Sequence", "stream"])
def test_rows_become_items_and_are_made_anew(own, name: str) -> None:
    found = opened(name)
    assert found.classes == ("a", "b")
    assert own.calls == list(range(10))
    loader = Loader(found.items, GRAY, (4, 4), LoadOptions(batch=4, workers=2))
    for _ in range(2):
        batches = list(loader)
        assert [label for batch in batches for label in batch.targets] == [0, 1] * 5
        assert [name for batch in batches for name in batch.ids] == [f"row {number}" for number in range(10)]
        assert np.concatenate([batch.array[:, 0, 0, 0] for batch in batches]).tolist() == list(range(10))


def test_a_sequence_is_asked_only_for_what_is_wanted(own) -> None:
    found = opened("Sequence", limit=3)
    assert not own.seen
    own.calls.clear()
    assert len(next(iter(Loader(found.items, GRAY, (4, 4), LoadOptions()))).ids) == 3
    assert own.calls == sorted(own.seen) == [1, 5, 8]


def test_a_generator_is_read_no_further_than_its_last_wanted_row(own) -> None:
    found = opened("stream", limit=2)
    own.calls.clear()
    assert [item.id for item in found.items] == ["row 2", "row 7"]
    assert own.calls == list(range(8))


def test_masks_belong_to_their_rows(own) -> None:
    targets = [item.target(Geometry(4, 6, 4, 4)) for item in opened("masks", "segmentation").items]
    assert [int(mask[0, 0]) for mask in targets] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "own_rows:number returned int"),
        ("spent", "gave 0 of 10 rows that it had given before"),
    ],
)
def test_what_gives_no_rows(own, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(opened(name).items)


def test_frames_are_streamed_too(own) -> None:
    found = frames(Path("own_rows:images"), GRAY, [INPUT], FrameChoice(count=4, batch=3))
    assert found.ids == tuple(f"own_rows:images[{number}]" for number in (1, 3, 6, 8))
    assert np.concatenate([feeds["x"][:, 0, 0, 0] for _, feeds in found]).tolist() == [1, 3, 6, 8]
    assert len(set(found.hashes)) == 4
    other = frames(Path("own_rows:Sequence"), GRAY, [INPUT], FrameChoice(count=4))
    assert other.hashes == found.hashes


LARGE = """
import sys
from pathlib import Path
import numpy as np
from edgeship.config import Evaluation, Preprocess
from edgeship.data.datasets import open_dataset
from edgeship.data.frames import FrameChoice, frames
from edgeship.data.loader import Loader, LoadOptions
from edgeship.results import TensorInfo

COUNT = 160

def scene(number):
    return np.full((1080, 1920, 3), number, np.uint8)

def scenes():
    for number in range(COUNT):
        yield scene(number), np.full((1080, 1920), 1, np.uint8)

class Scenes:
    def __len__(self):
        return COUNT
    def __getitem__(self, number):
        return scene(number), np.full((1080, 1920), 1, np.uint8)

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

if __name__ == "__main__":
    before = peak()
    fit = Preprocess(fit="stretch", interpolation="nearest")
    for name in ("scenes", "Scenes"):
        source = Path("large_rows:" + name)
        found = open_dataset(Evaluation(task="segmentation", images=source, classes=("a", "b")))
        loader = Loader(found.items, fit, (32, 32), LoadOptions(batch=4, workers=2))
        assert sum(len(batch.ids) for batch in loader) == COUNT
        info = TensorInfo(name="x", shape=("batch", 3, 32, 32), dtype="float32")
        assert sum(len(ids) for ids, _ in frames(source, fit, [info], FrameChoice(batch=4, workers=2))) == COUNT
    print(peak() - before)
"""


@pytest.mark.slow
def test_full_hd_arrays_never_stand_in_memory_together(tmp_path: Path) -> None:
    (tmp_path / "large_rows.py").write_text(LARGE)
    done = python("large_rows.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # 160 scenes of 6 MiB with their masks are 1.2 GiB; a few batches of them are 250 MiB at most.
    assert float(done.stdout) < 250
