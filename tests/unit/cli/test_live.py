"""The display of a long run: a live one in a terminal, lines in a log."""

from __future__ import annotations

import io

import pytest
from test_printing import in_terminal, run

from edgeship.cli.live import Display, Step, display, duration
from edgeship.cli.screen import Screen
from edgeship.results import StageRun


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (65, "1 min 05 s"), (7620, "2 h 07 min")]
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_an_estimate_of_the_end() -> None:
    step = Step("calibrate", start=100.0)
    step.at(0, 512, "frames", 100.0)
    assert step.left(100.0) is None
    step.at(128, 512, "frames", 110.0)
    assert step.left(110.0) == pytest.approx(30.0)
    assert step.words(110.0) == "frames 128/512, 10 s, about 30 s left"
    assert step.words(115.0) == "frames 128/512, 15 s, about 25 s left"
    step.at(128, 512, "frames", 141.0)  # told again, and not further
    assert step.words(141.0) == "frames 128/512, 41 s, longer than expected"
    step.at(512, 512, "frames", 120.0)
    assert step.words(120.0) == "frames, 20 s"  # done with what was counted: no dead bar


def test_no_estimate_from_what_was_done_before_a_step_began() -> None:
    step = Step("trial:int8", start=100.0)
    step.at(3, 6, "int8: benchmark", 100.0)
    assert step.words(160.0) == "int8: benchmark 3/6, 1 min 00 s"


SCRIPT = (
    "import time; from edgeship.cli import live; from edgeship.results import StageRun\n"
    "live.QUIET_S = 0.5; live.STARTED_S = 0.1; live.TICK_S = 0.05\n"
    "with live.display({arguments}) as shown:\n"
    "    shown.stage('export', None); shown.stage('export', StageRun(name='export', seconds=0.0, cached=True))\n"
    "    shown.stage('calibrate', None); shown.progress(3, 12, 'frames of [/x] \\x1b[31m'); time.sleep(1.3)\n"
    "    shown.stage('calibrate', StageRun(name='calibrate', seconds=1.3, cached=False))\n"
)


def test_a_log_names_each_stage_and_is_never_silent_for_long() -> None:
    done = run("-c", SCRIPT.format(arguments=""))
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert lines[0].split() == ["export", "reused"]
    assert lines[1].split() == ["calibrate", "started"]
    assert [line.split()[1:6] for line in lines[2:-1]] == [["frames", "of", "[/x]", "[31m", "3/12,"]] * len(lines[2:-1])
    assert len(lines[2:-1]) >= 1
    assert lines[-1].split() == ["calibrate", "1.3", "s"]
    assert "\x1b" not in done.stderr.decode()


def test_a_terminal_has_one_live_line_that_goes() -> None:
    told = in_terminal("-c", SCRIPT.format(arguments=""), COLUMNS="60").decode()
    last = told.rindex("calibrate")  # the line that stays begins where the live one was erased
    assert told[:last].rstrip().endswith("\x1b[2K") or told[:last].rstrip().endswith("\n")
    assert "frames of [/x] [31m 3/12" in told
    assert "\x1b[31m " not in told
    assert told.rstrip().endswith("1.3 s") or "calibrate                    1.3 s" in told


@pytest.mark.parametrize("terminal", [{"TERM": "dumb"}])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal: dict[str, str]) -> None:
    told = in_terminal("-c", SCRIPT.format(arguments=""), **terminal).decode()
    assert "\x1b" not in told
    assert "calibrate                    started" in told


def test_quiet_shows_nothing_and_verbose_each_thing() -> None:
    assert run("-c", SCRIPT.format(arguments="quiet=True")).stderr == b""
    assert b"frames of [/x] [31m 3/12, 0.0 s" in run("-c", SCRIPT.format(arguments="verbose=True")).stderr


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_line_of_the_display_fits(width: int) -> None:
    shown = Display("trial:a-very-long-name-of-a-target-on-the-bench:int8-with-more-nodes-kept")
    shown.progress(3, 12, "measuring the latency of a batch of 8 on a device that is far away and slow")
    for step in shown.steps.values():
        step.start -= 60.0
    stream = io.StringIO()
    Screen(file=stream, width=width, force_terminal=True, color_system=None).print(shown)
    (line,) = stream.getvalue().splitlines()
    assert len(line) <= width
    assert line.strip().startswith("trial:")


def test_a_stage_that_is_known_already_leaves_no_line() -> None:
    """The pipeline begins a stage, finds its result in this run, and says nothing more."""
    shown = Display(quiet=True)
    shown.stage("trial:fp32", None)
    shown.stage("trial:int8", None)
    assert list(shown.steps) == ["trial:int8"]
    shown.stage("trial:int8", StageRun(name="trial:int8", seconds=1.0, cached=False))
    assert not shown.steps


def test_a_step_of_a_command_names_itself() -> None:
    with display("exporting", quiet=True) as shown:
        (step,) = shown.steps.values()
        assert step.name == "exporting"
        assert step.words(step.start) == "working, 0.0 s"
