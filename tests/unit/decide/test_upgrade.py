"""Whether what one run chose may replace what another one did."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from edgeship.cli import app
from edgeship.decide.upgrade import RULE, upgrade
from edgeship.errors import UserInputError
from edgeship.results import Conditions, MachineLoad
from made_trials import finished_run, latency, measured, records


def steady(ms: float) -> np.ndarray:
    return np.full(1000, ms)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("a") / "run", measured(arrays=records(2), samples=steady(2.0)))


@pytest.mark.parametrize(
    ("wrong", "ms", "verdict", "rule"),
    [
        (2, 2.0, "SHIP", None),
        (2, 1.0, "SHIP", None),
        ({"car": 60}, 2.0, "NO-SHIP", "baseline.top1"),
        (2, 2.2, "NO-SHIP", RULE),
        (2, 2.08, "INCONCLUSIVE", RULE),
    ],
)
def test_the_limits_hold_against_the_earlier_choice(released, tmp_path, wrong, ms, verdict, rule):
    other = finished_run(tmp_path / "b", measured(arrays=records(wrong), samples=steady(ms)))
    found = upgrade(released, other)
    assert found.verdict == verdict, found.targets[0].sentence
    broken = [item.name for item in found.targets[0].rules if item.outcome != "pass"]
    assert (rule in broken) if rule is not None else broken == []
    assert (found.targets[0].before, found.targets[0].after) == ("int8", "int8")


def test_a_disturbed_measurement_shows_nothing(released, tmp_path):
    busy = latency(steady(1.0), conditions=Conditions(machine=MachineLoad(busy="others used 2 cores")))
    other = finished_run(tmp_path / "b", measured(arrays=records(2), samples=steady(1.0), latency=busy))
    (found,) = upgrade(released, other).targets
    assert found.verdict == "INCONCLUSIVE"
    assert "disturbed: others used 2 cores" in found.sentence


def test_runs_on_other_images_are_undecided_and_say_so(released, tmp_path):
    other = finished_run(tmp_path / "b", measured(arrays=records(2, each=100), samples=steady(2.0)))
    (found,) = upgrade(released, other).targets
    assert found.verdict == "INCONCLUSIVE"
    assert found.sentence.startswith("the two cannot be paired: the earlier run")


def test_a_run_that_chose_nothing_is_no_release(released, tmp_path):
    nothing = finished_run(tmp_path / "b", measured(arrays=records(200), samples=steady(2.0)))
    assert upgrade(nothing, released).verdict == "INCONCLUSIVE"
    assert upgrade(released, nothing).verdict == "NO-SHIP"


def test_targets_without_a_common_name_cannot_be_compared(released, tmp_path):
    other = finished_run(tmp_path / "b", measured(arrays=records(2)))
    told = json.loads((other / "result.json").read_text())
    assert told["decisions"][0]["target_name"] == "default"
    assert upgrade(released, other).targets[0].target == "default"
    with pytest.raises(UserInputError, match="no target in common"):
        from edgeship.results.seal import seal

        decision = told["decisions"][0]
        told["decisions"] = [{**decision, "target_name": name} for name in ("one", "two")]
        (other / "result.json").write_text(json.dumps(told))
        seal(other, "run", 1.0, ("result.json",))
        upgrade(released, other)


@pytest.mark.parametrize(("ms", "options", "code"), [(2.2, [], 1), (2.2, ["--slower", "0.2"], 0), (2.08, [], 3)])
def test_the_command_ends_with_the_verdicts_code(released, tmp_path, ms, options, code):
    other = finished_run(tmp_path / "b", measured(arrays=records(2), samples=steady(ms)))
    done = CliRunner().invoke(app, ["compare", str(released), str(other), "--verdict", "--json", *options])
    assert done.exit_code == code
    word = {0: "SHIP", 1: "NO-SHIP", 3: "INCONCLUSIVE"}[code]
    assert json.loads(done.stdout)["upgrade"]["verdict"] == word
    assert CliRunner().invoke(app, ["compare", str(released), str(other)]).exit_code == 0
