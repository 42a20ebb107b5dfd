"""The last lines of ``ship``: at every width of a terminal, names and verdicts can be read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

import report_samples as samples
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import terminal_summary
from edgeship.decide.report.terminal import broken


def shown(run: FinishedRun, width: int = 140) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    for line in terminal_summary(run):
        console.print(line)
    return stream.getvalue().replace("\u00a0", " ")


def test_the_terminal_names_verdicts_candidates_and_places(run: FinishedRun) -> None:
    text = shown(run)
    assert "SHIP on workstation  int8 is chosen." in text
    assert "NO-SHIP on orin <nano>" in text
    assert str(run.folder / "report.html") in text and str(run.folder / "bundle-workstation") in text
    row = next(line for line in text.splitlines() if line.strip().startswith("int8 "))
    assert all(part in row for part in ("2.22", "3.49", "68.70 %", "+1.50 pp", "+2.10 pp", "97.0 %", "undecided"))
    assert "p50 wall" in text
    assert "fp16: build: the builder stopped at" in text


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120, 160, 200])
def test_the_table_fits_and_names_and_outcomes_are_whole(run: FinishedRun, width: int) -> None:
    lines = shown(run, width).splitlines()
    assert max(map(len, lines)) <= width
    first = next(index for index, line in enumerate(lines) if line.startswith("candidate "))
    table = lines[first : lines.index("", first)]
    names = "".join(line.split("  ")[0].strip() for line in table[1:])
    for name in ("int8-keep-2-of-the-most-sensitive-nodes", "int8-keep-3-of-the-most-sensitive-nodes", "fp32", "fp16"):
        assert name in names
    for words in ("✗ fails", "? undecided", "✓ passes", "✗ failed", "p50 wall"):
        assert any(words in line for line in table)
    assert ("engine" in table[0]) is (width >= 120)


def test_a_name_breaks_at_its_hyphens() -> None:
    assert broken("int8-keep-10-of-the-most", 12) == "int8-keep-\n10-of-the-\nmost"
    assert broken("a" * 25, 10) == "\n".join(("a" * 10, "a" * 10, "a" * 5))
    assert broken("fp32", 26) == "fp32"


def test_rich_markup_and_escape_sequences_in_names_are_not_obeyed(tmp_path: Path) -> None:
    trial = samples.trial(tmp_path, "[bold red]x[/]\x1b[31m", 1.0, 0.0)
    decision = samples.bare(tmp_path / "bare").result.decisions[0]
    decision = decision.model_copy(update={"sentence": "[link=http://example.invalid]y[/link] \x1b]0;title\x07"})
    run = samples.finished(
        tmp_path,
        title="t",
        decisions=(decision,),
        trials=(samples.summarized(tmp_path, trial, "trial"),),
        reference=samples.nothing_measured(tmp_path),
    )
    text = shown(run)
    assert "[bold red]x[/][31m" in text and "[link=http://example.invalid]y[/link]" in text
    assert "\x1b" not in text and "\x07" not in text


def test_nothing_tried_says_what_to_do_next(tmp_path: Path) -> None:
    first, *places = shown(samples.bare(tmp_path)).splitlines()
    assert first == "INCONCLUSIVE  Nothing was tried."
    assert [line.split()[0] for line in places] == ["doubt", "next", "report", "result"]
    assert "the reference: It failed in build: nothing works" in shown(samples.bare(tmp_path))
