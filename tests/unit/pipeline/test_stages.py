"""Stages: once for one key, whole or absent, the failed one named with those before it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeship.config import Config
from edgeship.errors import DataError
from edgeship.pipeline.stages import Run, Stage, execute, execute_one
from edgeship.results import Artifact, Result


class Number(Result):
    """A stage's result."""

    value: int


def make(calls: list[str], limit: int = 3) -> tuple[Stage[Number], Stage[Number]]:
    """A stage that writes a file, and one that builds on it."""

    def first(run: Run, folder: Path) -> Number:
        calls.append("first")
        (folder / "numbers.txt").write_text("1 2")
        return Number(value=2)

    def second(run: Run, folder: Path) -> Number:
        calls.append("second")
        total = sum(map(int, run.path(one, "numbers.txt").read_text().split()))
        if total >= limit + 1:
            raise DataError("too much")
        return Number(value=total)

    one = Stage("first", Number, lambda run: run.config.model.source, first)
    return (
        one,
        Stage("second", Number, lambda run: [run.result(one).value, limit], second),
    )


def run_in(folder: Path, source: str = "a:b") -> Run:
    return Run(Config.model_validate({"model": {"source": source}}), folder)


def test_a_stage_runs_once_for_one_key(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        run = run_in(tmp_path)
        execute(run, make(calls))
        assert run.result(make(calls)[1]).value == 3
    assert calls == ["first", "second"]
    assert [item.cached for item in run.stages] == [True, True]


def test_what_goes_in_decides_what_runs_again(tmp_path: Path) -> None:
    calls: list[str] = []
    execute(run_in(tmp_path), make(calls))
    execute(run_in(tmp_path), make(calls, limit=9))
    assert calls == ["first", "second", "second"]
    execute(run_in(tmp_path, "c:d"), make(calls))
    assert calls[3:] == ["first"], "the second stage depends on the first one's value alone"


def test_a_failed_stage_leaves_nothing_and_names_what_succeeded(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    with pytest.raises(DataError) as caught:
        execute(run, make([], limit=1))
    assert caught.value.stage == "second"
    assert caught.value.finished == ("first",)
    assert [folder.name.split("-")[0] for folder in (tmp_path / "stages").iterdir()] == ["first"]


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    run = run_in(tmp_path)
    execute(run, make(calls))
    (run.folders["first"] / "result.json").write_text('{"value": "x')
    execute(run_in(tmp_path), make(calls))
    assert calls == ["first", "second", "first"]


class Kept(Result):
    """A stage's result that names a file."""

    numbers: Artifact


def keeping(calls: list[str], pause: float = 0.0) -> Stage[Kept]:
    def work(run: Run, folder: Path) -> Kept:
        calls.append("kept")
        time.sleep(pause)
        (folder / "numbers.txt").write_text("1 2")
        return Kept(numbers=Artifact.of(folder / "numbers.txt", folder))

    return Stage("kept", Kept, lambda run: run.config.model.source, work)


@pytest.mark.parametrize("damage", ["1", "1 3", None])
def test_a_damaged_file_of_a_result_is_made_again(tmp_path: Path, damage: str | None) -> None:
    calls: list[str] = []
    run = run_in(tmp_path)
    execute_one(run, keeping(calls))
    path = run.path(keeping(calls), "numbers.txt")
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    execute_one(run_in(tmp_path), keeping(calls))
    assert calls == ["kept", "kept"]
    assert path.read_text() == "1 2"


class Page(Result):
    """A result within a result."""

    picture: Artifact | None


class Pages(Result):
    """A result that names files within results within it."""

    pages: tuple[Page, ...]


def test_a_damaged_file_within_a_nested_result_is_made_again(tmp_path: Path) -> None:
    def draw(run: Run, folder: Path) -> Pages:
        (folder / "a.png").write_bytes(b"picture")
        return Pages(pages=(Page(picture=None), Page(picture=Artifact.of(folder / "a.png", folder))))

    stage = Stage("pages", Pages, lambda run: None, draw)
    first = run_in(tmp_path)
    execute_one(first, stage)
    assert first.stages[0].folder == first.folders["pages"].relative_to(tmp_path).as_posix()
    (first.folders["pages"] / "a.png").write_bytes(b"another")
    again = run_in(tmp_path)
    execute_one(again, stage)
    assert [item.cached for item in again.stages] == [False]
    assert (again.folders["pages"] / "a.png").read_bytes() == b"picture"


def test_targets_side_by_side_make_a_shared_graph_once(tmp_path: Path) -> None:
    calls: list[str] = []
    run = run_in(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: execute_one(run, keeping(calls, 0.2)), range(4)))
    assert calls == ["kept"]
    assert [item.name for item in run.stages] == ["kept"]
    assert all(item == found[0] for item in found)
