"""edgeship from Python: the commands as functions, with results that show themselves."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

import edgeship
from edgeship.errors import ConfigError
from processes import python
from tiny_project import project


class Tags(HTMLParser):
    """The tags of a page, balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> edgeship.api.ShippedRun:
    return edgeship.ship(project(tmp_path_factory.mktemp("api")), quiet=True)


def test_importing_edgeship_loads_nothing_heavy() -> None:
    code = "import sys, edgeship; print(sorted({'numpy', 'pydantic', 'rich', 'torch', 'onnx'} & set(sys.modules)))"
    assert python("-c", code, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_run_shows_itself(run: edgeship.api.ShippedRun) -> None:
    assert run.verdict == "SHIP"
    shown = run._repr_html_()
    assert {"b", "table", "iframe"} <= Tags(shown).seen
    assert "int8" in shown


@pytest.mark.slow
def test_the_trials_as_a_table(run: edgeship.api.ShippedRun) -> None:
    pytest.importorskip("pandas")
    table = run.to_pandas()
    assert list(table["candidate"]) == ["fp32", "int8"]
    assert table["top1"].tolist() == [1.0, 1.0]
    assert table["chosen"].sum() == 1


@pytest.mark.slow
def test_an_earlier_run_is_opened(run: edgeship.api.ShippedRun) -> None:
    for place in (run.folder, str(run.folder / "result.json")):
        assert edgeship.open_run(place).result == run.result


@pytest.mark.slow
def test_changes_and_a_verdict_that_is_no_error(
    run: edgeship.api.ShippedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = edgeship.ship(run.folder.parent, changes=["gate.latency_p99_ms=0.000001"])
    assert strict.verdict == "NO-SHIP"
    assert "reused" in capsys.readouterr().err


def test_check_shows_itself(tmp_path: Path) -> None:
    found = edgeship.check(project(tmp_path, each=4), quiet=True)
    assert any("few labelled examples" in warning for warning in found.warnings)
    assert {"table", "img", "p"} <= Tags(found._repr_html_()).seen


def test_what_is_wrong_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'latency_p99_ms'"):
        edgeship.check(project(tmp_path), changes=["gate.latency_p99_m=1"])
