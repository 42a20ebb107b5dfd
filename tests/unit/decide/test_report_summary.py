"""The Markdown summary and the last lines of the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import report_samples as samples
from edgeship.decide.report import Evidence, markdown_summary, terminal_summary, write_summary


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return samples.rich(tmp_path_factory.mktemp("rich"), candidates=4)


def shown(evidence: Evidence, places: dict[str, Path] | None = None) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=140, color_system=None)
    for line in terminal_summary(evidence, places):
        console.print(line)
    return stream.getvalue().replace("\u00a0", " ")


def test_the_terminal_names_verdicts_candidates_and_places(evidence: Evidence) -> None:
    text = shown(evidence, {"report": Path("out/report.html"), "bundle": Path("out/bundle")})
    assert "SHIP on workstation  int8 is chosen." in text
    assert "NO-SHIP on orin <nano>" in text
    assert "out/report.html" in text and "out/bundle" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("int8 "))
    assert all(part in row for part in ("2.22", "3.49", "68.70 %", "+1.50 pp", "+2.10 pp", "97.0 %", "undecided"))
    assert "fp16: build: the builder stopped at" in text


def test_rich_markup_in_names_is_not_obeyed(tmp_path: Path) -> None:
    trial = samples.trial(tmp_path, "[bold red]x[/]", 1.0, 0.0)
    decision = samples.bare().decisions[0].model_copy(update={"sentence": "[link=http://example.invalid]y[/link]"})
    text = shown(Evidence(title="t", decisions=(decision,), trials=(trial,)))
    assert "[bold red]x[/]" in text and "[link=http://example.invalid]y[/link]" in text


def test_nothing_tried_is_one_line() -> None:
    assert shown(samples.bare()).splitlines() == ["INCONCLUSIVE  Nothing was tried."]


def test_markdown_tables_keep_their_columns(evidence: Evidence) -> None:
    lines = markdown_summary(evidence).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) > 20

    def columns(line: str) -> int:
        return line.replace("\\\\", "").replace("\\|", "").count("|")

    width = 0
    for line in lines:
        if not line.startswith("|"):
            width = 0
            continue
        width = width or columns(line)
        assert columns(line) == width, line


def test_markdown_from_outside_is_not_markup(evidence: Evidence) -> None:
    text = markdown_summary(evidence)
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "](javascript" not in text.replace("\\](javascript", "")
    assert "## SHIP on workstation" in text and "## NO-SHIP on orin \\<nano\\>" in text


def test_the_summary_is_written(tmp_path: Path) -> None:
    write_summary(samples.bare(), tmp_path / "summary.md")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("# edgeship: empty\n\n## INCONCLUSIVE")
