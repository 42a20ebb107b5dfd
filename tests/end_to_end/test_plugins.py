"""Packages that offer engines, tasks, decoders and trackers by name, and runs that are told to trackers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT, Edgeship

from processes import python
from tiny_project import project


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample plug-in, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(ROOT / "examples" / "plugin", folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(folder / "site"), str(folder / "source")], check=True)
    return folder / "site"


@pytest.mark.slow
def test_names_of_a_plugin_work_as_built_in_ones(tmp_path: Path, plugin: Path, edgeship: Edgeship) -> None:
    config = project(tmp_path, each=8)
    text = config.read_text().replace('["fp32", "int8"]', '["fp32"]')
    places = {"PYTHONPATH": os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])}
    config.write_text(
        text.replace("[evaluation]", '[evaluation]\ndecoder = "tenfold"')
        + '[track]\nmlflow = "sqlite:///mlflow.db"\nregister_as = "tiny"\n[track.plugins]\ntextfile = "runs.txt"\n'
    )
    done = edgeship("ship", config, **places)
    assert done.code == 0, done.err
    assert "tracker" not in done.out, "each was told"
    assert (tmp_path / "runs.txt").read_text() == "model SHIP\n"
    asked = (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient()\n"
        "run, = c.search_runs([c.get_experiment_by_name('model').experiment_id])\n"
        "assert run.data.metrics['default/fp32/top1'] == 1.0, run.data.metrics\n"
        "assert run.data.metrics['default/fp32/rule/max_drop.top1/limit'] == 0.5\n"
        "assert run.data.params['gate.latency_p99_ms'] == '5000.0' and run.data.tags['verdict'] == 'SHIP'\n"
        "assert 'report.html' in [item.path for item in c.list_artifacts(run.info.run_id)]\n"
        "print(c.get_model_version_by_alias('tiny', 'shipped').version)\n"
    )
    told = python("-c", asked, cwd=tmp_path)
    assert (told.returncode, told.stdout.strip()) == (0, "1"), told.stderr

    config.write_text(
        text.replace("[evaluation]", '[evaluation]\ntask = "spread"').replace("top1", "spread")
        + '[track]\nmlflow = "http://127.0.0.1:9"\n'
    )
    down = edgeship("ship", config, **places)
    assert down.code == 0, "a tracker that is down fails no run"
    assert "warning: the tracker mlflow at http://127.0.0.1:9 failed" in down.out


@pytest.mark.slow
def test_an_engine_of_a_plugin_ships_a_bundle_that_loads_where_it_is_installed(tmp_path, plugin, edgeship):
    config = project(tmp_path, each=8)
    text = config.read_text().replace('["fp32", "int8"]', '["fp32"]')
    config.write_text(text.replace("[target]", '[target]\nengine = "onnx-reference"'))
    places = {"PYTHONPATH": os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])}
    done = edgeship("ship", config, "--json", **places)
    assert done.code == 0, done.err
    (trial,) = done.json["trials"]
    assert (trial["engine"], trial["metrics"]["top1"]) == ("onnx-reference", 1.0)
    bundle = tmp_path / "edgeship-out" / "bundle"
    image = tmp_path / "val" / "green" / "000.png"
    ran = edgeship("run", bundle, image, "--json", **places)
    assert (ran.code, "green" in ran.out) == (0, True), ran.err
    there = edgeship("verify", bundle)
    assert (there.code, "there is no engine 'onnx-reference'" in there.err) == (2, True), there.err
    config.write_text(text.replace("[target]", '[target]\nengine = "onnx-referense"'))
    wrong = edgeship("ship", config, **places)
    assert (wrong.code, "did you mean 'onnx-reference'?" in wrong.err) == (2, True), wrong.err


@pytest.mark.parametrize(
    ("track", "what"),
    [
        ('plugins = { textfil = "runs.txt" }', "track: there is no tracker 'textfil'"),
        ('mlflow = "file:///tmp/runs"', "is not a store that MLflow 3 takes"),
    ],
)
def test_a_tracker_that_is_not_there_stops_before_anything_runs(tmp_path, edgeship, track, what):
    config = project(tmp_path, each=1)
    config.write_text(config.read_text() + f"[track]\n{track}\n")
    refused = edgeship("ship", config)
    assert (refused.code, what in refused.err) == (2, True), refused.err
