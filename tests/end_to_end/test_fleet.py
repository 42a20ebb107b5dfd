"""A fleet through the command line: verdicts as single runs have them, one page for all, the worst one's exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from projects import Edgeship

from fleet_support import fleet_file, models
from sshd_support import Device
from tiny_project import project, save

FLEET = """
[models]
good = "good"
slow = "slow"
[devices.one]
labels = ["cpu"]
[devices.two]
[matrix]
good = ["cpu", "two"]
slow = ["cpu"]
"""


@pytest.mark.slow
def test_a_full_disk_on_one_worker_is_a_cell_of_its_own(tmp_path: Path) -> None:
    config = project(tmp_path / "m", each=8)
    config.write_text(config.read_text().replace('["fp32", "int8"]', '["fp32"]'))
    file = fleet_file(tmp_path, {"m": ["one", "two"]}, ("one", "two"))
    full = tmp_path / "fleet-out" / ".fleet" / "workers" / "one"
    full.mkdir(parents=True)
    script = f"mount -t tmpfs -o size=24k tmpfs {full} && exec {sys.executable} -m edgeship fleet {file} --json"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 4, done.stderr
    cells = {cell["label"]: cell for cell in json.loads(done.stdout)["cells"]}
    assert {label: cell["verdict"] for label, cell in cells.items()} == {"one": "ERROR", "two": "SHIP"}
    assert "on one: " in cells["one"]["sentence"] and "do: free some space" in cells["one"]["sentence"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_device_with_ssh_alone_is_served_by_a_worker_of_this_machine(
    tmp_path: Path, host: Device, edgeship: Edgeship
) -> None:
    models(tmp_path, "m", trial_s=0.1)
    file, there = fleet_file(tmp_path, {"m": ["cpu"]}, ("orin",)), host.folder / "trials-there"
    reached = f'labels = ["cpu"]\nhost = "device"\npython = "{sys.executable}"\nremote_dir = "{there}"'
    file.write_text(file.read_text().replace('labels = ["cpu"]', reached))
    done = edgeship("fleet", file, "--json")
    assert done.code == 0, done.err
    (cell,) = done.json["cells"]
    assert (cell["verdict"], cell["workers"]) == ("SHIP", ["orin"])
    assert any((there / "blobs").iterdir()), "its trial ran there"


@pytest.mark.slow
def test_two_models_on_two_workers(tmp_path: Path, edgeship: Edgeship) -> None:
    for name in ("good", "slow"):
        config = project(tmp_path / name, each=8)
        config.write_text(config.read_text().replace('["fp32", "int8"]', '["fp32"]'))
    config.write_text(config.read_text().replace("latency_p99_ms = 5000.0", "latency_p99_ms = 0.0001"))
    (tmp_path / "fleet.toml").write_text(FLEET)
    done = edgeship("fleet", tmp_path / "fleet.toml", "--json")
    assert done.code == 1, done.err
    cells = {(cell["model"], cell["label"]): cell for cell in done.json["cells"]}
    assert {place: cell["verdict"] for place, cell in cells.items()} == {
        ("good", "cpu"): "SHIP", ("good", "two"): "SHIP", ("slow", "cpu"): "NO-SHIP",
    }  # fmt: skip
    assert cells["good", "two"]["workers"] == ["two"]
    out = tmp_path / "fleet-out"
    assert edgeship("verify", out / "good" / "bundle-two").code == 0
    page = (out / "fleet.html").read_text()
    assert "Models by targets" in page and "2 of 3 ship" in page
    slowest = done.json["slowest"]["good"]
    assert slowest["name"] in page and not slowest["cached"] and slowest["seconds"] < done.json["seconds"]["good"]
    assert '<a href="good/report.html">good/report.html</a>' in page
    root = ElementTree.parse(out / "junit.xml").getroot()
    assert {suite.get("name") for suite in root if suite.get("name", "").endswith("verdict")} == {
        "good.cpu: verdict", "good.two: verdict", "slow.cpu: verdict",
    }  # fmt: skip
    entries = edgeship("history", "show", "--file", tmp_path / "good" / "edgeship-history.sqlite", "--json").json
    assert entries["entries"][0]["fleet"] == done.json["run"]

    save(tmp_path / "slow" / "model.onnx", leak=True)
    far = '[devices.far]\ntarget = { device = "cuda:99" }\n[matrix]'
    text = FLEET.replace("[matrix]", far).replace('["cpu", "two"]', '["cpu", "far", "two"]')
    (tmp_path / "fleet.toml").write_text(text)
    again = edgeship("fleet", tmp_path / "fleet.toml", "--json")
    assert again.code == 4
    cells = {(cell["model"], cell["label"]): cell for cell in again.json["cells"]}
    good = {label: cell["verdict"] for (model, label), cell in cells.items() if model == "good"}
    assert good == {"cpu": "SHIP", "far": "ERROR", "two": "SHIP"}, "a target that cannot go on is a cell of its own"
    assert "cuda:99" in cells["good", "far"]["sentence"]
    suites = [suite.get("name") for suite in ElementTree.parse(out / "junit.xml").getroot()]
    assert {"good.far", "good.cpu: verdict", "good.two: verdict", "slow.cpu"} <= set(suites)
    slow = cells["slow", "cpu"]
    assert slow["verdict"] == "ERROR"
    assert "depends on the rest of its batch" in slow["sentence"]


def test_faults_are_told_before_anything_starts(tmp_path: Path, edgeship: Edgeship) -> None:
    project(tmp_path / "good", each=1)
    (tmp_path / "fleet.toml").write_text(FLEET)
    done = edgeship("fleet", tmp_path / "fleet.toml")
    assert (done.code, "slow (" in done.err) == (2, True)
    assert not (tmp_path / "fleet-out").exists()
    text = FLEET.replace("[matrix]", '[scheduler]\naddress = "tcp://10.0.0.1:8786"\n[matrix]').replace("slow", "good2")
    (tmp_path / "fleet.toml").write_text(text.replace('good2 = "good2"', 'good2 = "good"'))
    refused = edgeship("fleet", tmp_path / "fleet.toml")
    assert (refused.code, "is not encrypted" in refused.err) == (2, True)
