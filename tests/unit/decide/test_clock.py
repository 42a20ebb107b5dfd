"""One choice of clock, wherever latency is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeship.config import Gate
from edgeship.config_file import load
from edgeship.decide.gate import judge
from edgeship.errors import ConfigError
from edgeship.results import common_clock
from made_trials import latency, measured

WALL = latency(np.full(500, 3.0))
BOTH = WALL.model_copy(update={"device_ms": WALL.wall_ms.model_copy(update={"p50": 1.0})})


@pytest.mark.parametrize(
    ("found", "setting", "clock", "p50"),
    [
        (BOTH, "auto", "device", 1.0),
        (BOTH, "wall", "wall", 3.0),
        (BOTH, "device", "device", 1.0),
        (WALL, "auto", "wall", 3.0),
        (WALL, "wall", "wall", 3.0),
    ],
)
def test_a_latency_is_read_by_the_clock_that_is_asked_for(found, setting, clock, p50):
    timed = found.timed(setting)
    assert (timed.clock, timed.quantiles.p50) == (clock, p50)


def test_device_time_that_was_not_measured_is_not_replaced():
    assert WALL.timed("device") is None


def test_engines_are_compared_by_a_clock_that_all_of_them_have():
    assert common_clock([BOTH, BOTH]) == "device"
    assert common_clock([BOTH, None, WALL]) == "wall"
    assert common_clock([BOTH], "wall") == "wall"
    assert common_clock([WALL], "device") == "device"


def test_the_gate_reads_one_clock_for_all_candidates():
    mixed = [measured("fp32", precision="fp32", latency=BOTH), measured("int8", ms=3.0)]
    decision = judge(Gate(latency_p50_ms=5.0), mixed, measured("reference", precision="fp32"))
    assert all("wall time" in rule.reason for item in decision.judged for rule in item.rules if "p50" in rule.name)


def test_device_time_of_a_cpu_is_refused_with_the_config(tmp_path: Path):
    config = tmp_path / "edgeship.toml"
    config.write_text(
        '[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["fp32"]\n'
        '[gate]\nlatency_p50_ms = 5\nclock = "device"\n'
    )
    with pytest.raises(ConfigError, match='has none; use "wall" or "auto"'):
        load(config)
