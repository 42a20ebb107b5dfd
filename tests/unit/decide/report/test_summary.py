"""The Markdown summary."""

from __future__ import annotations

from pathlib import Path

import report_samples as samples
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import markdown_summary, write_summary


def test_markdown_tables_keep_their_columns(run: FinishedRun) -> None:
    lines = markdown_summary(run).splitlines()
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


def test_markdown_from_outside_is_not_markup(run: FinishedRun) -> None:
    text = markdown_summary(run)
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "](javascript" not in text.replace("\\](javascript", "")
    assert "## SHIP on workstation" in text and "## NO-SHIP on orin \\<nano\\>" in text


def test_the_summary_is_written(tmp_path: Path) -> None:
    write_summary(samples.bare(tmp_path), tmp_path / "summary.md")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("# edgeship: empty\n\n## INCONCLUSIVE")
