"""A file says how its session runs on the CPU, and whoever opens it gets that session."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship.engines import OpenOptions
from edgeship.engines.onnx_file import with_metadata
from edgeship.engines.ort.session import make_session
from edgeship.engines.ort.settings import KEY, OWN, Settings, mark, settings_of
from edgeship.errors import ModelError
from edgeship.files import sha256_file
from vehicle_support import ground

MARKED = Settings(threads=1, spinning=False, arena=False, flush_denormals=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network in a file of its own."""
    return ground(tmp_path_factory.mktemp("settings")).model


@pytest.fixture
def marked(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "marked.onnx"
    path.write_bytes(model.read_bytes())
    mark(path, MARKED)
    return path


def seen(path: Path, options: OpenOptions) -> tuple[int, str, bool, str]:
    """What the open session itself says that it was made with; empty where nothing was said."""
    made = make_session(path, options).session.get_session_options()

    def entry(name: str) -> str:
        try:
            return str(made.get_session_config_entry(name))
        except RuntimeError:
            return ""

    spinning, denormals = entry("session.intra_op.allow_spinning"), entry("session.set_denormal_as_zero")
    return made.intra_op_num_threads, spinning, made.enable_cpu_mem_arena, denormals


def test_a_marked_file_opens_as_it_is_marked(model: Path, marked: Path) -> None:
    assert settings_of(str(marked)) == settings_of(marked.read_bytes()) == MARKED
    assert settings_of(str(model)) == OWN
    assert seen(model, OpenOptions()) == (0, "", True, "")
    assert seen(marked, OpenOptions()) == (1, "0", False, "1")
    vehicle = OpenOptions(sha256=sha256_file(marked), arithmetic="exact")
    assert seen(marked, vehicle) == (1, "0", False, "1"), "as the runtime opens it"


def test_what_is_asked_for_stands_over_the_mark(model: Path, marked: Path) -> None:
    assert seen(marked, OpenOptions(threads=2))[0] == 2
    assert seen(model, OpenOptions(judging=True)) == (0, "0", True, ""), "waiting threads leave the cores to others"
    assert seen(marked, OpenOptions(session=OWN)) == (0, "", True, "")


@pytest.mark.parametrize("text", ["threads=9999 spinning=1 arena=1 flush_denormals=0", "threads=1", "x" * 200])
def test_a_mark_of_another_form_is_refused(model: Path, text: str) -> None:
    with pytest.raises(ModelError, match=KEY):
        settings_of(with_metadata(model.read_bytes(), KEY, text))
