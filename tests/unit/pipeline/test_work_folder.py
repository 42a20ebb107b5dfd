"""Which folder may become a work folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship import pipeline
from edgeship.config_file import load
from edgeship.errors import UserInputError
from edgeship.pipeline.work_folder import require_own
from tiny_project import project


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("place", ["val", "val/red", "calib", "val/new", "."])
def test_a_folder_of_data_or_of_the_project_is_refused_and_left_as_it_is(tmp_path: Path, place: str) -> None:
    config = load(project(tmp_path))
    before = files(tmp_path)
    for run in (pipeline.ship, pipeline.check, pipeline.plan):
        with pytest.raises(UserInputError, match="nothing was written"):
            run(config, tmp_path / place)
    assert files(tmp_path) == before


def test_the_strange_files_are_named(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"holiday-{number}.jpg").touch()
    with pytest.raises(UserInputError) as refused:
        require_own(tmp_path)
    assert "holiday-0.jpg, holiday-1.jpg, holiday-2.jpg and 2 more" in refused.value.found


@pytest.mark.parametrize("left", [(), ("lock",), ("lock", "hashes.json", ".tmp-x"), ("lock", "stages/", "notes.txt")])
def test_a_new_folder_and_one_of_an_earlier_run_are_taken(tmp_path: Path, left: tuple[str, ...]) -> None:
    for name in left:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    require_own(tmp_path)
    require_own(tmp_path / "absent")
