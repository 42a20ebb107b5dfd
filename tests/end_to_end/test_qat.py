"""``edgeship qat`` and the candidate that ``ship`` makes of it, on a small network and real pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from projects import Edgeship, Project
from safetensors.numpy import load_file

import processes
from edgeship.decide.runs import open_run


@pytest.mark.slow
def test_what_two_processes_trained_is_a_candidate_of_ship(project: Project, edgeship: Edgeship) -> None:
    text = project.config.read_text()
    poor = text.replace('method = "minmax"', 'method = "percentile"\npercentile = 98')  # cuts the largest values
    project.config.write_text(poor + "[qat]\nsteps = 24\nbatch = 4\nlr = 3e-4\n")
    with (project.folder / "model.py").open("a") as code:
        code.write("\nprint('a model prints')\n")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", 2)
    ended = processes.python(*launcher, "-m", "edgeship", "qat", project.config, "--json")
    assert ended.returncode == 0, ended.stderr
    assert "a model prints" in ended.stderr
    told = json.loads(ended.stdout)  # the first of the two processes alone prints
    assert told["processes"] == 2
    assert told["improved"] and told["held_out_after"] < told["held_out_before"]
    assert told["not_rounded"] == [] and told["deployed_snr_db"] > 35.0
    trained = load_file(Path(told["folder"]) / "weights.safetensors")
    before = load_file(project.folder / "weights.safetensors")
    assert trained.keys() == before.keys()
    assert any((trained[name] != before[name]).any() for name in before if name.endswith("weight"))

    done = edgeship("ship", project.config)
    assert done.code == 0, done.err
    result = project.result()
    assert next(item for item in result["stages"] if item["name"] == "qat")["cached"]
    trials = {item["candidate"]: item for item in result["trials"]}
    assert trials["int8-qat"]["outcome"] == "pass"
    assert trials["int8-qat"]["audit"]["achieved"] == trials["int8"]["audit"]["achieved"]
    assert trials["int8-qat"]["engine_mib"] == pytest.approx(trials["int8"]["engine_mib"], rel=0.02)
    page = (project.out / "report.html").read_text()
    assert "Trained beside calibrated INT8" in page
    assert open_run(project.out).trained is not None
