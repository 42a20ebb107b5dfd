"""``edgeship ship`` as a user types it: verdicts, what is written, what is reused, what survives a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import pytest
from projects import Edgeship, Project, make_project
from runtime_figures import of_bundle
from safetensors.numpy import load_file, save_file

from edgeship.decide.finished_run import FinishedRun, open_run
from edgeship.pipeline.bundles import without_folders
from edgeship.results import RunResult
from processes import start

pytestmark = pytest.mark.slow


def copy(project: Project, folder: Path) -> Project:
    """A copy to change, with its finished stages."""
    shutil.copytree(project.folder, folder)
    return Project(folder)


def test_a_run_writes_everything_that_the_verdict_rests_on(shipped: Project) -> None:
    result = json.loads((shipped.out / "result.json").read_text())
    assert result["verdict"] == "SHIP"
    assert result["chosen"] in ("fp32", "int8")
    assert {item["candidate"] for item in result["trials"]} == {"fp32", "int8"}
    for trial in result["trials"]:
        assert 0 < trial["latency_ms"]["p50"] <= trial["latency_ms"]["p90"] <= trial["latency_ms"]["p99"]
        assert 0.5 < trial["metrics"]["top1"] <= 1
        assert trial["passed"] is True
        assert (shipped.out / trial["folder"] / "records.npz").is_file()
    int8 = next(item for item in result["trials"] if item["candidate"] == "int8")
    assert int8["audit"]["achieved"] > 0.9
    assert {"export", "slim", "preflight", "frames", "parity", "calibrate"} <= {
        item["name"] for item in result["stages"]
    }
    assert result["environment"]["packages"]["onnxruntime"]
    for name in ("report.html", "summary.md", "junit.xml", "bundle/manifest.json"):
        assert (shipped.out / name).stat().st_size > 0
    manifest = json.loads((shipped.out / "bundle" / "manifest.json").read_text())
    written = ("report.html", "result.json", "summary.md", "bom.cdx.json", "provenance.intoto.json")
    assert {f"evidence/{name}" for name in written} <= set(manifest["files"])
    for name, place in (
        ("bom.cdx.json", ("components", 0, "hashes", 0, "content")),
        (written[-1], ("subject", 0, "digest", "sha256")),
    ):
        found = json.loads((shipped.out / "bundle" / "evidence" / name).read_text())
        for step in place:
            found = found[step]
        assert found == manifest["files"][manifest["engine"]]["sha256"]
    assert {"torch", "onnx", "exporter"} <= set(manifest["prepared"])
    calibrated = result["chosen"] == "int8"
    assert (manifest["cache"] is not None) == (manifest["calibration"] is not None) == calibrated
    told = json.loads((shipped.out / "bundle" / "evidence" / "result.json").read_text())
    assert told == without_folders(RunResult.model_validate(result)).model_dump(mode="json")
    assert str(shipped.folder) not in json.dumps(told["config"])


def test_the_vehicle_gives_the_figures_of_the_evaluation(shipped: Project) -> None:
    answered, promised = of_bundle(shipped.config, shipped.out / "bundle")
    assert answered == pytest.approx(promised, abs=1e-6)
    assert "top1" in answered


def test_a_model_that_is_quantized_already_ships_as_given(shipped: Project, tmp_path: Path, edgeship: Edgeship) -> None:
    """Its Q/DQ graph is built with its own scales; fp32 and int8 of it are refused before anything is measured."""
    made = make_project(tmp_path / "project")
    graphs = [path for path in shipped.out.rglob("model.onnx") if path.parent.name.startswith("quantize")]
    shutil.copyfile(graphs[0], made.folder / "given.onnx")
    text = made.config.read_text()
    start, end = text.index("[model]"), text.index("[preprocess]")
    made.config.write_text(text[:start] + '[model]\nsource = "given.onnx"\n\n' + text[end:])
    refused = edgeship("ship", made.config)
    assert refused.code == 2
    assert "quantized already" in refused.err + refused.out
    made.change('precisions = ["fp32", "int8"]', 'precisions = ["as-given"]')
    assert edgeship("ship", made.config).code in (0, 3)
    (trial,) = made.result()["trials"]
    assert trial["candidate"] == "as-given"
    assert trial["audit"]["achieved"] > 0.9
    scales = {
        tensor.name: tensor.SerializeToString()
        for tensor in onnx.load(graphs[0]).graph.initializer
        if tensor.name.endswith("_scale")
    }
    built = onnx.load(made.out / trial["folder"] / "model.onnx")
    kept = {tensor.SerializeToString() for tensor in built.graph.initializer}
    assert scales
    assert set(scales.values()) <= kept


def test_weights_of_seven_bits_are_a_candidate_with_its_own_arithmetic(
    shipped: Project, tmp_path: Path, edgeship: Edgeship
) -> None:
    """The choice is in the trial, in what ships and in its known answer, which ``verify`` runs."""
    made = copy(shipped, tmp_path / "project")
    made.change("reduced_range = false", "reduced_range = true")
    assert edgeship("ship", made.config).code == 0
    result = made.result()
    tried = {item["candidate"]: item for item in result["trials"]}
    assert set(tried) == {"fp32", "int8", "int8-reduced-range"}
    assert tried["int8-reduced-range"]["audit"]["achieved"] > 0.9
    assert tried["int8-reduced-range"]["latency_ms"]["p50"] > 0
    bound = {
        name: json.loads((made.out / item["folder"] / "trial.json").read_text())["build"]["identity"]["arithmetic"]
        for name, item in tried.items()
    }
    assert bound == {"fp32": "exact", "int8": "exact", "int8-reduced-range": "reduced-range"}
    manifest = json.loads((made.out / "bundle" / "manifest.json").read_text())
    assert manifest["identity"]["arithmetic"] == bound[result["chosen"]]
    assert manifest["known_answer"]["arithmetic"] == bound[result["chosen"]]
    assert edgeship("verify", made.out / "bundle").code == 0


def test_no_field_of_the_report_stays_unset(tmp_path: Path, edgeship: Edgeship) -> None:
    """What the report can show is filled by a real run that asks for everything."""
    made = make_project(tmp_path / "project")
    made.change('precisions = ["fp32", "int8"]', 'precisions = ["fp32", "int8"]\nsearch = true')
    made.change("precision = 0.95", 'precision = 0.95\nbaseline = ["eager", "channels-last"]')
    made.change("[model]\n", '[model]\nname = "fashion net"\nversion = "1.4"\n')
    own = made.config.rename(made.folder / "mine.toml")
    assert edgeship("ship", own).code == 0
    run = open_run(made.out)
    empty = (None, "", (), {})
    assert [name for name in RunResult.model_fields if getattr(run.result, name) in empty] == []
    readers = [name for name, value in vars(FinishedRun).items() if isinstance(value, cached_property)]
    assert len(readers) >= 8
    assert [name for name in readers if getattr(run, name) in empty] == [
        "trained", "repaired",  # test_qat.py and test_repair.py have runs with them
    ]  # fmt: skip
    assert all(stage.folder and run.stage_folder(stage.name).is_dir() for stage in run.result.stages)
    assert run.result.config_file == "mine.toml" and run.result.config_text == own.read_text()
    assert run.changes("default") is not None
    assert (run.result.title, run.result.lineage.version) == ("fashion net", "1.4")
    assert set(run.result.lineage.digests) == {"model", "weights", "calibration frames", "evaluation images", "config"}
    assert all(item.trial.audit.order for item in run.trials)
    assert all(item.trial.latency.conditions.machine.load is not None for item in run.trials)
    graphs = {item.candidate: run.graph(item) for item in run.result.trials}
    assert graphs["fp32"] is None and graphs["int8"].noise
    rows = run.baselines("default").rows
    assert [row.name for row in rows] == ["eager", "channels-last"]
    assert all(row.latency.wall_ms.p50 > 0 and row.batch == 4 for row in rows)
    page = (made.out / "report.html").read_text()
    for words in ("PyTorch eager", "The config, mine.toml", "edgeship ship mine.toml", "Search for a mixed-precision",
                  "Inside the engine", "Confusions", "Calibration of confidence", "fashion net", "1.4"):  # fmt: skip
        assert words in page
    done = edgeship("report", made.out, "-o", tmp_path / "again.html", "--markdown", tmp_path / "again.md")
    assert done.code == 0
    assert (tmp_path / "again.html").read_text() == page
    assert (tmp_path / "again.md").read_text() == (made.out / "summary.md").read_text()


def test_a_new_baseline_runs_no_trial_again(shipped: Project, tmp_path: Path, edgeship: Edgeship) -> None:
    project = copy(shipped, tmp_path / "again")
    edgeship("ship", project.config)
    project.change("precision = 0.95", 'precision = 0.95\nbaseline = ["eager"]')
    assert edgeship("ship", project.config).code == 0
    assert {name for name, cached in project.stages().items() if not cached} == {"baseline:default"}


def test_every_calibration_frame_is_seen(shipped: Project) -> None:
    (stage,) = (shipped.out / "stages").glob("calibrate-*/result.json")
    assert json.loads(stage.read_text())["frames"] == 32  # the project's calibration.count


def test_an_unchanged_rerun_reuses_everything(shipped: Project, tmp_path: Path, edgeship: Edgeship) -> None:
    project = copy(shipped, tmp_path / "again")
    first = edgeship("ship", project.config)
    assert first.code == 0
    before = {path: path.stat().st_mtime_ns for path in project.out.rglob("*")}
    done = edgeship("ship", project.config)
    assert done.code == 0
    told, _, last = done.out.partition("nothing that went in or came out has changed since ")
    assert told == first.out.partition("done in ")[0] and last.startswith(project.result()["finished"])
    assert {path: path.stat().st_mtime_ns for path in project.out.rglob("*")} == before
    assert edgeship("ship", project.config, "--json").json == project.result()
    bundle = project.out / "bundle" / "manifest.json"
    image, standing = next(iter((project.folder / "val").rglob("*.png"))), bundle.stat().st_ino
    image.touch()
    done = edgeship("ship", project.config)
    assert done.code == 0 and "nothing that went in" not in done.out, "times that differ lead to an ordinary run"
    assert all(project.stages().values())
    assert bundle.stat().st_ino == standing, "a bundle that is whole and made of the same is not written again"


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)


def test_changed_files_of_finished_stages_are_noticed_and_made_again(
    shipped: Project, tmp_path: Path, edgeship: Edgeship
) -> None:
    """Also those that no result names by its hash, an edited median among them: no dead end, nothing believed."""
    project = copy(shipped, tmp_path / "again")
    assert edgeship("ship", project.config).code == 0
    stages = project.out / "stages"
    tried = {item["candidate"]: project.out / item["folder"] for item in project.result()["trials"]}
    trial = tried["int8"] / "trial.json"
    told = json.loads(trial.read_text())
    told["latency"]["wall_ms"]["p50"] = 0.000001
    trial.write_text(json.dumps(told))
    for command in (("gate", project.out), ("compare", project.out, project.out)):
        refused = edgeship(*command)
        assert (refused.code, "is not as the run left it: trial.json has changed" in refused.err) == (2, True)
    flip(tried["fp32"] / "known.npz")
    flip(next(stages.glob("preflight-*/seal.json")))
    flip(next(stages.glob("calibrate-*/calib.cache.json")))
    done = edgeship("ship", project.config)
    assert done.code == 0, done.err
    result = project.result()
    again = {item["name"]: item["again"] for item in result["stages"] if item["again"]}
    assert set(again) == {"trial:default:fp32", "trial:default:int8", "preflight", "calibrate"}
    assert again["trial:default:int8"] == "trial.json has changed"
    assert again["trial:default:fp32"] == "known.npz has changed"
    assert "made again: known.npz has changed" in done.err
    assert all(item["latency_ms"]["p50"] > 0.001 for item in result["trials"])
    assert edgeship("verify", project.out / "bundle").code == 0


def test_a_changed_threshold_runs_only_decide(shipped: Project, tmp_path: Path, edgeship: Edgeship) -> None:
    project = copy(shipped, tmp_path / "again")
    edgeship("ship", project.config)
    project.change("latency_p99_ms = 1000.0", "latency_p99_ms = 0.0001")
    done = edgeship("ship", project.config)
    assert done.code == 1
    assert "NO-SHIP" in done.out
    rerun = {name for name, cached in project.stages().items() if not cached}
    assert rerun == {"decide:default"}
    assert not (project.out / "bundle").exists()
    trials = [project.out / trial["folder"] for trial in project.result()["trials"]]
    before = [(path / name).stat().st_mtime_ns for path in trials for name in ("build.json", "evaluation.json")]
    project.change("latency_p99_ms = 0.0001", "frame_p99_ms = 1000.0")
    done = edgeship("ship", project.config)
    assert done.code == 0, "a rule that asks for what no trial measured: that alone is measured"
    assert "a rule asks for what was not measured: whole frames; all else is reused" in done.err
    rerun = {name for name, cached in project.stages().items() if not cached}
    assert rerun == {"trial:default:fp32", "trial:default:int8", "decide:default"}
    assert [project.out / trial["folder"] for trial in project.result()["trials"]] == trials
    after = [(path / name).stat().st_mtime_ns for path in trials for name in ("build.json", "evaluation.json")]
    assert after == before


def test_fp16_on_the_cpu_is_refused_and_fails_its_candidate_only(project: Project, edgeship: Edgeship) -> None:
    project.change('["fp32", "int8"]', '["fp32", "fp16"]')
    done = edgeship("ship", project.config, "--json")
    assert done.code == 0
    trials = {item["candidate"]: item for item in done.json["trials"]}
    assert done.json["chosen"] == "fp32"
    assert trials["fp16"]["passed"] is False
    assert (
        "fp32" in " ".join(trials["fp16"]["reasons"]).lower() or "float" in " ".join(trials["fp16"]["reasons"]).lower()
    )


@pytest.mark.parametrize("stage", ["export", "calibrate", "trial:default:int8"])
def test_killed_in_a_stage_the_next_run_ends_in_the_same_verdict(
    project: Project, edgeship: Edgeship, stage: str
) -> None:
    before = {"export": None, "calibrate": "parity", "trial:default:int8": "quantize:onnxruntime:int8"}[stage]
    with start("ship", project.config, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        if before is None:
            time.sleep(3)
        else:
            for line in process.stderr:
                if before in line:
                    break
            time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = edgeship("ship", project.config)
    assert done.code == 0
    assert "SHIP" in done.out
    assert not list(project.out.glob("**/.tmp-*"))


def test_ctrl_c_ends_cleanly(project: Project) -> None:
    with start("ship", project.config) as process:
        deadline = time.monotonic() + 30
        while not (project.out / "stages").is_dir() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not list(project.out.glob("stages/.tmp-*"))


def test_a_second_run_in_the_same_folder_is_refused(project: Project, edgeship: Edgeship) -> None:
    with start("ship", project.config, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (project.out / "lock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        done = edgeship("ship", project.config)
        process.kill()
    assert done.code == 2
    assert "another edgeship run" in done.err


def test_a_config_of_another_name_stands_in_its_report(shipped: Project, tmp_path: Path, edgeship: Edgeship) -> None:
    project = copy(shipped, tmp_path / "again")
    fast = project.config.with_name("fast.toml")
    fast.write_text(project.config.read_text() + "# only in fast.toml\n")
    project.config.write_text("# the other one\n")
    assert edgeship("ship", fast).code == 0
    page = (project.out / "report.html").read_text()
    assert "edgeship ship fast.toml" in page
    assert "# only in fast.toml" in page and "# the other one" not in page


def test_a_reference_that_takes_too_long_is_an_error_and_no_verdict(project: Project, edgeship: Edgeship) -> None:
    project.change("max_s = 2.0", "max_s = 200.0")
    project.change("min_s = 0.1", "min_s = 100.0")
    project.change('["fp32", "int8"]', '["fp32", "int8"]\ntimeout_s = 5')
    done = edgeship("ship", project.config)
    assert done.code == 4
    assert "the reference, fp32 on onnxruntime (cpu), could not be measured" in done.err
    assert "not ended after 5 s, so it was stopped; raise candidates.timeout_s if it needs longer" in done.err
    assert not (project.out / "result.json").exists()


def test_a_misspelt_class_in_the_gate_is_told_before_anything_runs(project: Project, edgeship: Edgeship) -> None:
    project.change("confidence = 0", "confidence = 0\ncritical = { Trowser = 0.1 }")
    done = edgeship("ship", project.config)
    assert done.code == 2
    assert "gate.critical.Trowser: no such class; did you mean 'Trouser'?" in done.err
    assert list((project.out / "stages").iterdir() if (project.out / "stages").is_dir() else []) == []


def test_an_onnx_with_external_data_ships(project: Project, edgeship: Edgeship) -> None:
    done = edgeship(
        "export", "model:build", "-i", "images=batch,1,28,28", "--weights", "weights.safetensors",
        "-o", "whole.onnx", cwd=project.folder,
    )  # fmt: skip
    assert done.code == 0, done.err
    proto = onnx.load(project.folder / "whole.onnx")
    onnx.save(proto, project.folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    project.change('source  = "model:build"\nweights = "weights.safetensors"', 'source = "net.onnx"')
    assert edgeship("ship", project.config).code == 0
    done = edgeship("export", "net.onnx", "-o", "one.onnx", cwd=project.folder)
    assert done.code == 0, done.err
    assert (project.folder / "one.onnx").stat().st_size > (project.folder / "weights.bin").stat().st_size


def next_version(shipped: Project, folder: Path, shift: int) -> Project:
    """A version whose last layer answers ``shift`` classes further, to be no worse than the one that was shipped."""
    made = make_project(folder)
    weights = load_file(made.folder / "weights.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = np.roll(weights[name] * np.float32(1.01), shift, axis=0)
    save_file(weights, made.folder / "weights.safetensors")
    shutil.copytree(shipped.out / "bundle", made.folder / "last.bundle")
    shutil.copytree(shipped.out / "stages", made.out / "stages")
    made.change("max_drop = { top1 = 0.5 }", 'max_drop = { top1 = 0.2 }\nbaseline = "last.bundle"')
    return made


def test_the_next_version_ships_when_it_is_no_worse_than_the_release(
    shipped: Project, tmp_path: Path, edgeship: Edgeship
) -> None:
    """Judged against the bundle before it; its own bundle carries what that needs, so a rebuilt engine is too."""
    second = next_version(shipped, tmp_path / "second", 0)
    done = edgeship("ship", second.config)
    assert done.code == 0, done.err
    reused = {name for name, cached in second.stages().items() if cached}
    assert reused <= {"images", "preflight", "frames"} and "preflight" in reused, (
        "of a new weights file what the graph alone tells is reused; ranges, answers and the verdict are made anew"
    )
    judged = second.result()["decisions"][0]["judged"]
    rules = {item["candidate"]: {rule["name"]: rule for rule in item["rules"]} for item in judged}
    assert all(found["baseline.top1"]["outcome"] == "pass" for found in rules.values())
    assert "No worse than the release: top-1" in (second.out / "report.html").read_text()
    manifest = json.loads((second.out / "bundle" / "manifest.json").read_text())
    assert manifest["gate"]["baseline"] == "evidence/baseline"
    assert (second.out / "bundle" / "evidence" / "baseline" / "records.npz").read_bytes() == (
        shipped.out / "bundle" / "evidence" / "candidate" / "records.npz"
    ).read_bytes()
    again = edgeship("ship", second.config)
    assert again.code == 0 and "nothing that went in or came out has changed" in again.out
    shutil.move(second.folder / "last.bundle", second.folder / "elsewhere")
    again = edgeship("gate", second.out, "--json")
    assert again.code == 0
    assert "baseline.top1" in again.out
    rebuilt = edgeship("rebuild", second.out / "bundle", "--images", second.folder / "val", "--out", tmp_path / "re")
    assert rebuilt.code == 0, rebuilt.err
    assert (tmp_path / "re" / "bundle" / "evidence" / "baseline" / "trial.json").is_file()


def test_a_version_worse_than_the_release_does_not_ship_though_int8_keeps_what_it_has(
    shipped: Project, tmp_path: Path, edgeship: Edgeship
) -> None:
    worse = next_version(shipped, tmp_path / "worse", 1)
    done = edgeship("ship", worse.config)
    assert done.code == 1
    assert "against the release" in done.out
    for judged in worse.result()["decisions"][0]["judged"]:
        rules = {rule["name"]: rule for rule in judged["rules"]}
        assert rules["max_drop.top1"]["outcome"] == "pass"
        assert rules["baseline.top1"]["outcome"] == "fail"
        assert rules["baseline.top1"]["measured"] > 0.5
    assert not (worse.out / "bundle").exists()
