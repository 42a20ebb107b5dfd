"""Stages: once for one key, whole or absent, the failed one named with those before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship.config import Config
from edgeship.errors import DataError
from edgeship.pipeline.cache import Run, Stage, execute
from edgeship.results import Result


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
        total = sum(map(int, run.path("first", "numbers.txt").read_text().split()))
        if total >= limit + 1:
            raise DataError("too much")
        return Number(value=total)

    return (
        Stage("first", Number, lambda run: run.config.model.source, first),
        Stage("second", Number, lambda run: [run.result("first", Number).value, limit], second),
    )


def run_in(folder: Path, source: str = "a:b") -> Run:
    return Run(Config.model_validate({"model": {"source": source}}), folder)


def test_a_stage_runs_once_for_one_key(tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        run = run_in(tmp_path)
        execute(run, make(calls))
        assert run.result("second", Number).value == 3
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
