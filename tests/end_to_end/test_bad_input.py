"""Bad input through the command line: one clear message, a fitting exit code, nothing half-written."""

from __future__ import annotations

import os
import pickle
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from projects import ROOT, Edgeship, Project
from safetensors.numpy import save_file

from edgeship.config_file import load
from processes import edgeship_line, start
from vehicle_support import network, photographs


def refused(project: Project, edgeship: Edgeship, code: int = 2) -> str:
    """Ship, expect a refusal, and no half-written stage."""
    done = edgeship("ship", project.config)
    assert done.code == code, done.err
    assert done.err.count("error: ") == 1
    assert not (project.out / "result.json").exists()
    assert not list(project.out.glob("**/.tmp-*"))
    return done.err


def test_misspelled_keys_all_at_once(project: Project, edgeship: Edgeship) -> None:
    project.change("[benchmark]", "[benchmrak]")
    project.change("shape =", "shap =")
    text = refused(project, edgeship)
    assert "did you mean 'benchmark'?" in text
    assert "did you mean 'shape'?" in text


def test_no_config(tmp_path: Path, edgeship: Edgeship) -> None:
    done = edgeship("ship", tmp_path / "edgeship.toml")
    assert done.code == 2
    assert "edgeship init" in done.err


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nonexistent_package", "does not import"),
        ("def build(): return {'a': 1}", "expected: a torch.nn.Module"),
        ("def make(): pass", "no callable 'build'"),
    ],
)
@pytest.mark.slow
def test_a_source_that_is_no_model(project: Project, edgeship: Edgeship, code: str, words: str) -> None:
    (project.folder / "model.py").write_text(code + "\n")
    assert words in refused(project, edgeship)


@pytest.mark.slow
def test_weights_that_are_cut_off(project: Project, edgeship: Edgeship) -> None:
    weights = project.folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "not a whole safetensors file" in refused(project, edgeship)


@pytest.mark.slow
def test_an_input_shape_that_the_model_rejects(project: Project, edgeship: Edgeship) -> None:
    project.change('["batch", 1, 28, 28]', '["batch", 3, 28, 28]')
    assert "has shape ['batch', 3, 28, 28]: 3 channels" in refused(project, edgeship)
    project.change('color = "gray"', 'color = "rgb"')
    assert "the model rejects its inputs (images [2, 3, 28, 28] float32)" in refused(project, edgeship)


def test_an_empty_evaluation_folder(project: Project, edgeship: Edgeship) -> None:
    shutil.rmtree(project.folder / "val")
    (project.folder / "val").mkdir()
    assert str(project.folder / "val") in refused(project, edgeship)


def test_an_absent_calibration_folder(project: Project, edgeship: Edgeship) -> None:
    shutil.rmtree(project.folder / "calib")
    assert "calib does not exist" in refused(project, edgeship)


def test_a_folder_that_is_no_class(project: Project, edgeship: Edgeship) -> None:
    (project.folder / "val" / "Bag").rename(project.folder / "val" / "Bagg")
    text = refused(project, edgeship)
    assert "Bagg" in text
    assert "did you mean" in text


@pytest.mark.slow
def test_one_corrupt_image_among_many_is_named_and_counted(project: Project, edgeship: Edgeship) -> None:
    image = sorted((project.folder / "calib").glob("*.png"))[3]
    image.write_bytes(image.read_bytes()[:60])
    text = refused(project, edgeship)
    assert "calibration.images: 1 of 32 images cannot be read" in text
    assert image.name in text
    project.change("count  = 32", "count  = 32\nallow_corrupt = 1")
    assert edgeship("ship", project.config).code == 0


def test_a_truncated_onnx(project: Project, edgeship: Edgeship) -> None:
    (project.folder / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    project.change('source  = "model:build"\nweights = "weights.safetensors"', 'source = "net.onnx"')
    assert "not an ONNX" in refused(project, edgeship)


def test_external_data_moved_away(project: Project, edgeship: Edgeship) -> None:
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    tensor.raw_data = b"\0" * 16
    del tensor.float_data[:]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", onnx.TensorProto.FLOAT, [4])],
        [info("y", onnx.TensorProto.FLOAT, [4])],
        [tensor],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    path = project.folder / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    (project.folder / "net.data").unlink()
    project.change('source  = "model:build"\nweights = "weights.safetensors"', 'source = "net.onnx"')
    text = refused(project, edgeship)
    assert "net.data" in text
    assert "move them back" in text


def in_mount(project: Project, options: str) -> subprocess.CompletedProcess[str]:
    """Ship into a small file system of its own, mounted in a namespace that ends with the command."""
    project.out.mkdir()
    script = (
        f"mount -t tmpfs -o {options} tmpfs {project.out} && exec {sys.executable} -m edgeship ship {project.config}"
    )
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_read_only_work_folder(project: Project) -> None:
    done = in_mount(project, "ro")
    assert done.returncode == 4
    assert "cannot be written: Read-only file system" in done.stderr
    assert "--out" in done.stderr


@pytest.mark.slow
def test_no_space_left(project: Project, edgeship: Edgeship) -> None:
    done = in_mount(project, "size=200k")
    assert done.returncode == 4
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert edgeship("ship", project.config).code == 0


def test_a_place_that_is_no_file(edgeship: Edgeship) -> None:
    done = edgeship("init", "--out", "/dev/null", "--force")
    assert done.code == 4
    assert "not a regular file" in done.err


def test_a_critical_class_that_does_not_exist(project: Project, edgeship: Edgeship) -> None:
    project.change("confidence = 0", "confidence = 0\ncritical = { Trowser = 0.1 }")
    text = refused(project, edgeship)
    assert "did you mean 'Trouser'" in text


def test_wrong_usage_exits_with_two(edgeship: Edgeship) -> None:
    assert edgeship("shp").code == 2
    assert edgeship("export").code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("Frozen", 4, "the export froze the axis 'batch'"),
        ("Untranslatable", 4, "airy_ai"),
        ("Branching", 4, "torch.export cannot trace the model"),
        ("NotFinite", 2, "NaN or infinite"),
    ],
)
def test_a_model_that_does_not_export(tmp_path: Path, edgeship: Edgeship, name: str, code: int, words: str) -> None:
    shutil.copyfile(ROOT / "tests" / "unit" / "prepare" / "networks.py", tmp_path / "networks.py")
    done = edgeship("export", f"networks:{name}", "-i", "images=batch,3,16,16", "-o", "net.onnx")
    assert done.code == code, done.err
    assert words in done.err
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.slow
def test_a_pickle_that_wants_to_execute(project: Project, edgeship: Edgeship) -> None:
    mark = project.folder / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (mark,))

    (project.folder / "weights.pt").write_bytes(pickle.dumps({"features.0.0.weight": Bomb()}, protocol=2))
    project.change("weights.safetensors", "weights.pt")
    text = refused(project, edgeship)
    assert "could run code" in text
    assert not mark.exists()


def test_images_that_are_not_there(tmp_path: Path, edgeship: Edgeship) -> None:
    done = edgeship("run", tmp_path / "bundle", tmp_path / "none.png")
    assert done.code == 2
    assert f"no image at {tmp_path / 'none.png'}" in done.err
    assert "check the path" in done.err


@pytest.mark.slow
def test_a_work_folder_that_is_a_file(project: Project, edgeship: Edgeship) -> None:
    (project.folder / "file").write_text("x")
    for place in (project.folder / "file", project.folder / "file" / "deeper"):
        done = edgeship("ship", project.config, "--out", place)
        assert done.code == 4, done.err
        assert f"{place} cannot be written" in done.err


@pytest.mark.slow
def test_outputs_where_something_else_stands(tmp_path: Path, edgeship: Edgeship) -> None:
    network(tmp_path / "net.onnx")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for arguments in (
        ("init", "--out", "file/edgeship.toml"),
        ("slim", "net.onnx", "-o", "folder"),
        ("build", "net.onnx", "-e", "onnxruntime", "-o", "file/net.engine"),
        ("bench", "net.onnx", "--seconds", "0.1", "-o", "file"),
    ):
        done = edgeship(*arguments)
        assert done.code == 4, (arguments, done.err)
        assert done.err.count("error: ") == 1
        assert "itself failed" not in done.err, (arguments, done.err)
        assert (tmp_path / "file").read_text() == "x"
        assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "model:build", "--opset", "17"), "opset: input should be greater than or equal to 18"),
        (("parity", "model:build", "--onnx", "net.onnx", "--seeds", "0"), "seeds: input should be greater"),
        (("bench", "net.onnx", "--seconds", "0"), "min_s: input should be greater than 0"),
        (("run", "bundle", "net.onnx", "--budget-ms", "-1"), "--budget-ms"),
    ],
)
def test_options_out_of_range(tmp_path: Path, edgeship: Edgeship, arguments: tuple[str, ...], words: str) -> None:
    network(tmp_path / "net.onnx")
    done = edgeship(*arguments)
    assert done.code == 2, done.err
    assert words in done.err
    assert "pydantic" not in done.err


@pytest.mark.slow
def test_a_source_that_ends_the_process_is_no_ship(project: Project, edgeship: Edgeship) -> None:
    (project.folder / "model.py").write_text("import sys\nsys.exit(0)\n")
    assert "SystemExit" in refused(project, edgeship)


def test_a_target_name_that_leaves_the_work_folder(project: Project, edgeship: Edgeship) -> None:
    project.change("[target]", '[targets."../../../evil"]')
    assert "the target name '../../../evil'" in refused(project, edgeship)


def test_a_failed_run_keeps_no_earlier_verdict(project: Project, edgeship: Edgeship) -> None:
    project.out.mkdir()
    for name in ("result.json", "report.html", "summary.md", "junit.xml"):
        (project.out / name).write_text("SHIP")
    shutil.rmtree(project.folder / "val")
    refused(project, edgeship)
    assert [path.name for path in project.out.iterdir()] == ["lock"]


@pytest.mark.slow
def test_weights_of_another_model(project: Project, edgeship: Edgeship) -> None:
    save_file({"conv.weight": np.zeros((2, 2), np.float32)}, project.folder / "weights.safetensors")
    text = refused(project, edgeship)
    assert "do not fit the model" in text
    assert "not in the model: conv.weight" in text


def test_an_image_folder_that_cannot_be_read(project: Project) -> None:
    place = project.folder / "val" / "Bag"
    place.chmod(0)
    # Root reads everything, unless it gives up the capability.
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, *edgeship_line("ship", project.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    place.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert f"{place} cannot be read" in done.stderr


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_the_starter_loads(tmp_path: Path, edgeship: Edgeship, task: str) -> None:
    done = edgeship("init", "--task", task)
    assert done.code == 0, done.err
    assert load(tmp_path / "edgeship.toml").evaluation.task == task
    assert "<" not in done.out, "the starter has no marked places"
    again = edgeship("init", "--task", task)
    assert again.code == 2
    assert "--force" in again.err


def test_the_doctor_answers(edgeship: Edgeship) -> None:
    done = edgeship("doctor", "--json")
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out


def test_parity_on_frames_that_do_not_fit(tmp_path: Path, edgeship: Edgeship) -> None:
    network(tmp_path / "net.onnx")
    done = edgeship("parity", "net.onnx", "--onnx", "net.onnx", "--images", photographs(tmp_path / "val"))
    assert done.code == 2, done.err
    assert "[preprocess]" in done.err
    done = edgeship(
        "parity", "net.onnx", "--onnx", "net.onnx", "--images", tmp_path / "val", "-p", "fit=stretch", "--json"
    )
    assert done.code == 0, done.err
    assert done.json["real_images"] == 4


def test_what_works_is_shown_on_a_terminal(tmp_path: Path) -> None:
    network(tmp_path / "net.onnx")
    leader, follower = pty.openpty()
    with start("slim", "net.onnx", cwd=tmp_path, stderr=follower, stdout=subprocess.DEVNULL) as process:
        os.close(follower)
        shown = b""
        while b"simplifying" not in shown:
            shown += os.read(leader, 65536)  # fails when the command ends without having shown it
        assert process.wait(60) == 0
    os.close(leader)
