"""What else the machine did: counters from a recorded tree, and words about a busy machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeship.engines import processor
from edgeship.trial.load import Counters, load_between, read_counters

START = Counters(wall_s=0.0, cpu_s=0.0, switches=10, busy_s=100.0, steal_s=1.0, throttled=2, load=0.1)
QUIET = replace(START, wall_s=2.0, cpu_s=3.9, switches=20, busy_s=103.95)


def test_a_quiet_machine_says_nothing() -> None:
    found = load_between(START, QUIET, cores=2)
    assert found.busy == ""
    assert (found.cpu_share, found.others_cores, found.steal_share) == (1.95, 0.025, 0.0)
    assert (found.involuntary_switches, found.throttled, found.load) == (10, 0, 0.1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"busy_s": 105.9}, "other processes used 1.0 of 2 cores"),
        ({"steal_s": 1.4}, "the hypervisor gave 10% of the processor to others"),
        ({"switches": 210}, "it was interrupted 100 times a second"),
        ({"throttled": 7}, "the container's CPU quota stopped it 5 times"),
    ],
)
def test_a_busy_machine_says_what_disturbed(changed: dict[str, float], said: str) -> None:
    assert load_between(START, replace(QUIET, **changed), cores=2).busy == said


def test_what_cannot_be_read_disturbs_nothing() -> None:
    blank = Counters(0.0, 0.0, None, None, None, None, None)
    found = load_between(blank, replace(blank, wall_s=2.0, cpu_s=1.0), cores=4)
    assert (found.cpu_share, found.others_cores, found.involuntary_switches, found.busy) == (0.5, None, None, "")


def test_too_short_a_measurement_tells_nothing() -> None:
    found = load_between(START, replace(QUIET, wall_s=0.1, busy_s=110.0), cores=2)
    assert found.others_cores is None and found.busy == ""


def test_only_the_cores_of_this_process_count(tmp_path: Path) -> None:
    allowed = processor.affinity()[0]
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    lines = ["cpu  9 9 9 9 9 9 9 9", f"cpu{allowed} 100 0 50 1000 5 0 50 30 0 0", "cpu999 7000 0 0 0 0 0 0 0 0 0"]
    (tmp_path / "proc/stat").write_text("\n".join(lines) + "\nintr 5\n")
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\nnr_periods 9\nnr_throttled 4\n")
    found = read_counters(tmp_path)
    assert (found.busy_s, found.steal_s, found.throttled) == (2.0, 0.3, 4)
    assert read_counters(tmp_path / "nowhere").busy_s is None


def test_this_machine_can_be_read() -> None:
    found = read_counters()
    assert found.wall_s > 0 and found.cpu_s > 0 and found.busy_s is not None and found.switches is not None
