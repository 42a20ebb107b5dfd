"""Finished runs: judged again, compared, and told to CI systems; through the files and the command line."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from edgeship.cli import app
from edgeship.config import Gate
from edgeship.decide import junit
from edgeship.decide.gate import judge
from edgeship.decide.loaded_trial import load
from edgeship.decide.runs import compare, judge_again
from edgeship.errors import ArtifactError, EdgeshipError, UserInputError
from edgeship.files import sha256_bytes, write_text
from edgeship.results.seal import seal
from made_trials import GATE, failed, measured, records, restate, save
from made_trials import finished_run as run


@pytest.fixture
def finished(tmp_path):
    return run(tmp_path / "run", measured("fp32", precision="fp32", ms=4.0), measured(arrays=records(2)))


def call(*arguments):
    return CliRunner().invoke(app, [str(item) for item in arguments])


def test_judging_again_gives_the_same_verdict(finished):
    (decision,) = judge_again(finished, Gate(**GATE))
    assert (decision.verdict, decision.chosen) == ("SHIP", "int8")


@pytest.mark.parametrize(("limit", "code"), [(5.0, 0), (0.5, 1)])
def test_gate_by_other_rules(finished, tmp_path, limit, code):
    rules = tmp_path / "edgeship.toml"
    rules.write_text(
        f'[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["fp32"]\n[gate]\nlatency_p50_ms = {limit}\n'
    )
    found = call("gate", finished / "result.json", "--rules", rules, "--json", "--junit", tmp_path / "junit.xml")
    assert found.exit_code == code
    value = json.loads(found.stdout)
    assert value["verdict"] == ("SHIP" if code == 0 else "NO-SHIP")
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"


def test_gate_without_rules_uses_the_runs_own(finished):
    found = call("gate", finished)
    assert found.exit_code == 0
    assert found.stdout.startswith("SHIP: int8 passes every rule")


def test_another_schema_version_is_refused(finished):
    text = json.loads((finished / "result.json").read_text())
    restate(finished, json.dumps({**text, "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema version 99"):
        judge_again(finished, Gate(**GATE))


def test_a_trial_that_was_changed_is_refused(finished):
    np.savez(finished / "int8" / "records.npz", **records(0))
    with pytest.raises(ArtifactError, match="has changed since it was recorded"):
        load(finished / "int8")
    (finished / "int8" / "records.npz").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load(finished / "int8")


@pytest.mark.parametrize(("name", "what"), [("result.json", "verdict"), ("int8/trial.json", "p50")])
@pytest.mark.parametrize("command", ["gate", "compare", "report", "layers"])
def test_an_edited_run_is_neither_judged_nor_compared(finished, command, name, what):
    path = finished / name
    path.write_text(path.read_text().replace(f'"{what}"', f'"{what}" ', 1))
    done = call(command, *[finished] * (2 if command == "compare" else 1))
    assert isinstance(done.exception, ArtifactError)
    assert f"is not as the run left it: {path.name} has changed" in str(done.exception)


@pytest.mark.parametrize("name", ["ids", "task", "label", "top"])
def test_records_that_lack_an_array_are_refused_by_its_name(finished, name):
    whole = {key: array for key, array in records(0).items() if key != name}
    for folder in (finished / "reference", finished / "int8"):
        np.savez(folder / "records.npz", **whole)
        trial = json.loads((folder / "trial.json").read_text())
        written = (folder / "records.npz").read_bytes()
        trial["evaluation"]["records"] |= {"sha256": sha256_bytes(written), "size_bytes": len(written)}
        write_text(folder / "trial.json", json.dumps(trial))
        seal(folder, "trial", 1.0)
    with pytest.raises(EdgeshipError, match=rf"records\.npz has no array '{name}'|cannot be paired"):
        judge_again(finished, Gate(**GATE))


def test_a_trial_folder_outside_the_run_is_refused(finished):
    text = (finished / "result.json").read_text().replace('"folder":"int8"', '"folder":"../../elsewhere"')
    restate(finished, text)
    with pytest.raises(ArtifactError, match="inside the run"):
        judge_again(finished, Gate(**GATE))


def test_two_runs_side_by_side(finished, tmp_path):
    gate = {**GATE, "latency_p50_ms": 6.0}
    other = run(tmp_path / "b", measured(arrays=records(80), ms=1.5), gate=gate)
    found = compare(finished, other)
    assert found.verdicts == ("SHIP", "NO-SHIP")
    assert found.paired
    assert found.only_a == ("fp32",)
    changes = {change.name: change for change in found.candidates[0].changes}
    assert changes["latency p50"].direction == "better"
    assert changes["top1"].direction == "worse"
    low, high = changes["top1"].interval
    assert low < -0.195 < high < 0
    assert "gate.latency_p50_ms: 5.0 → 6.0" in found.settings
    shown = call("compare", finished, other)
    assert shown.exit_code == 0
    assert "SHIP → NO-SHIP" in shown.stdout


def test_single_classes_are_compared_the_largest_change_first(finished, tmp_path):
    other = run(tmp_path / "b", measured(arrays=records({"car": 6, "pedestrian": 82})))
    classes = compare(finished, other).candidates[0].classes
    assert [change.name for change in classes] == ["recall/pedestrian", "recall/car", "recall/cyclist"]
    pedestrian = classes[0]
    assert pedestrian.after - pedestrian.before == pytest.approx(-0.2)
    low, high = pedestrian.interval
    assert low < -0.2 < high < 0 and pedestrian.direction == "worse"
    assert classes[2].direction == "unsure", "two more found of 400 may be luck"
    shown = call("compare", finished, other).stdout.splitlines()
    lines = [line.split()[0] for line in shown if line.startswith("recall/")]
    assert lines == ["recall/pedestrian", "recall/car", "recall/cyclist"]
    told = json.loads(call("compare", finished, other, "--json").stdout)["candidates"][0]["classes"]
    assert [item["name"] for item in told] == [change.name for change in classes]


def test_a_class_without_examples_in_one_run_stands_last(finished, tmp_path):
    arrays = records(2, classes=("car", "pedestrian"))
    other = run(tmp_path / "b", measured(arrays=records(2)))
    place = tmp_path / "b" / "int8"
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    save(measured(arrays=arrays), place)
    classes = compare(finished, other).candidates[0].classes
    assert (classes[-1].name, classes[-1].after, classes[-1].direction) == ("recall/cyclist", None, "unsure")


def test_runs_on_other_images_have_no_intervals(finished, tmp_path):
    other = run(tmp_path / "b", measured(arrays=records(2)))
    arrays = records(2, each=100)
    place = tmp_path / "b" / "int8"
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    save(measured(arrays=arrays), place)
    found = compare(finished, other)
    assert not found.paired
    assert {change.interval for change in found.candidates[0].changes} == {None}


def test_runs_without_a_common_candidate_cannot_be_compared(finished, tmp_path):
    other = run(tmp_path / "b", measured("int8-keep4"))
    with pytest.raises(UserInputError, match="no candidate in common"):
        compare(finished, other)


def test_junit_has_one_case_for_each_rule():
    reference = measured("reference", precision="fp32")
    items = [measured("fp32", precision="fp32", ms=4.0), measured(arrays=records(200)), failed("fp16", "bad \x00 byte")]
    decision = judge(Gate(**GATE), items, reference)
    root = ElementTree.fromstring(junit.render([decision]))
    cases = root.findall(".//testcase")
    assert len(cases) == 1 + sum(len(judged.rules) for judged in decision.judged)
    assert root.findall(".//failure") == []
    assert len(root.findall(".//skipped")) == 2


def test_junit_shows_the_rules_that_made_a_no_ship(finished, tmp_path):
    rules = tmp_path / "edgeship.toml"
    rules.write_text('[model]\nsource = "m.onnx"\n[candidates]\nprecisions = ["fp32"]\n[gate]\nlatency_p50_ms = 0.1\n')
    found = call("gate", finished, "--rules", rules, "--json", "--junit", tmp_path / "junit.xml")
    assert found.exit_code == 1
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    broken = {
        case.get("classname"): case.get("name") for case in root.iter("testcase") if case.find("failure") is not None
    }
    assert broken == {
        "edgeship.default": "verdict",
        "edgeship.default.fp32": "latency_p50_ms",
        "edgeship.default.int8": "latency_p50_ms",
    }
    assert root.findall(".//skipped") == []
    failures = [int(suite.get("failures")) for suite in root.findall("testsuite")]
    assert failures == [1, 1, 1]
