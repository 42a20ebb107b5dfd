"""Hand-over: Triton's files by Triton's own protobuf, DeepStream's by NVIDIA's formula, C++ against Python."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from edgeship.bundle import Contents, opened, write
from edgeship.config import Evaluation, Preprocess
from edgeship.config_file import load
from edgeship.data.preprocess import Geometry, apply, place
from edgeship.decode.decoders import classification_scores, decode_predictions
from edgeship.errors import BundleError, DataError, UserInputError
from edgeship.files import sha256_file
from edgeship.handover import cpp_library, deepstream, hand_over, ros2, triton
from edgeship.handover.source import Source
from edgeship.prepare.running import Running
from edgeship.results import TensorInfo
from edgeship.trial.run import run_trial
from handover_support import handed_over, loaded, protobuf
from vehicle_support import decision, ground, make_trial

EXAMPLES = Path(__file__).parents[3] / "examples"
SIZE = 64
DETECTION = Evaluation(task="detection", decoder="yolox", score_threshold=0.05, nms_iou=0.5)
STUB = """
#pragma once
#include <vector>
struct NvDsInferDims { unsigned numDims; unsigned d[8]; unsigned numElements; };
struct NvDsInferLayerInfo { int dataType; NvDsInferDims inferDims; int bindingIndex; const char* layerName;
                            void* buffer; int isInput; };
struct NvDsInferNetworkInfo { unsigned width; unsigned height; unsigned channels; };
struct NvDsInferParseDetectionParams { unsigned numClassesConfigured; std::vector<float> perClassPreclusterThreshold;
                                       std::vector<float> perClassPostclusterThreshold; };
struct NvDsInferObjectDetectionInfo { unsigned classId; float left, top, width, height, detectionConfidence; };
"""
"""The declarations of nvdsinfer_custom_impl.h that a parser uses, as NVIDIA documents them: enough to compile."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handover")
    run_trial(make_trial(folder / "trial", ground(folder / "ground")))
    write(Contents(folder / "trial", decision(), reference=folder / "trial"), folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def source(root: Path) -> Source:
    with opened(root / "bundle") as verified:
        return Source(verified.manifest, verified.folder)


@pytest.fixture(scope="module")
def photographs(root: Path) -> list[Image.Image]:
    """Two hundred pictures of every shape, cut from noise with structure."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).resize((480, 320))
    found = []
    for _ in range(200):
        width, height = random.integers(8, 200, 2)
        left, top = random.integers(0, 480 - width), random.integers(0, 320 - height)
        found.append(coarse.crop((int(left), int(top), int(left + width), int(top + height))))
    return found


def changed(source: Source, **changes: Any) -> Source:
    return replace(source, manifest=source.manifest.model_copy(update=changes))


def detector(source: Source, **steps: Any) -> Source:
    """The bundle as one of a detector: 84 anchors of a 64 × 64 input, three classes."""
    settings = {"fit": "letterbox", "size": (SIZE, SIZE), "pad_align": "top-left", "color": "bgr"} | steps
    channels = 1 if settings["color"] == "gray" else 3
    shape = (1, SIZE, SIZE, channels) if settings.get("layout") == "nhwc" else (1, channels, SIZE, SIZE)
    return changed(
        source,
        preprocess=Preprocess(**settings),
        inputs=(TensorInfo(name="images", shape=shape, dtype="float32"),),
        outputs=(TensorInfo(name="output", shape=(1, 84, 8), dtype="float32"),),
        profiles={},
        evaluation=DETECTION,
    )


# --- Triton ---------------------------------------------------------------------------------------------------


def test_triton_parses_every_configuration(root: Path, tmp_path: Path) -> None:
    files, notes = hand_over(root / "bundle", "triton", tmp_path / "repository")
    kind = protobuf().ModelConfig
    configs = {
        path.parent.name: text_format.Parse(path.read_text(), kind())
        for path in (tmp_path / "repository").glob("*/config.pbtxt")
    }
    name = next(key for key in configs if not key.endswith(("_preprocess", "_from_image")))
    engine = configs[name]
    assert engine.name == name
    assert (engine.platform, engine.max_batch_size) == ("onnxruntime_onnx", 4)
    assert [(item.name, item.data_type, list(item.dims)) for item in engine.input] == [("images", 11, [3, 16, 16])]
    assert (tmp_path / "repository" / name / "1" / engine.default_model_filename).read_bytes() == (
        root / "bundle" / "engine.onnx"
    ).read_bytes()
    assert next(iter(engine.dynamic_batching.preferred_batch_size)) in range(1, 5)
    warm = engine.model_warmup[0].inputs["images"]
    raw = (tmp_path / "repository" / name / "warmup" / warm.input_data_file).read_bytes()
    assert len(raw) == 4 * int(np.prod(list(warm.dims)))
    steps = configs[f"{name}_from_image"].ensemble_scheduling.step
    assert [step.model_name for step in steps] == [f"{name}_preprocess", name]
    assert any("onnxruntime" in note for note in notes)
    assert f"{name}/labels.txt" in files


def test_tritons_preprocessing_is_edgeships_to_the_bit(root: Path, source: Source, tmp_path: Path) -> None:
    hand_over(root / "bundle", "triton", tmp_path / "repository")
    model = loaded(next((tmp_path / "repository").glob("*_preprocess/1/model.py")))
    for path in sorted((root / "ground" / "val").rglob("*.png")):
        wanted, _ = apply(Image.open(path), source.steps, source.size)
        np.testing.assert_array_equal(model.prepare(path.read_bytes()), wanted)


EVIL = '../../x"; std::system("id"); //\n@ROWS@ @DECODE@ ??/ ü 🚗'
"""A name that leaves a folder, ends a literal and a line, and holds placeholders of ours."""


def renamed(source: Source, folder: Path, *, output: str, **names: Any) -> Source:
    """The bundle with its input called ``EVIL``, in a folder of its own."""
    shutil.copytree(source.folder, folder)
    with np.load(source.folder / "known.npz") as known:
        np.savez(folder / "known.npz", **{f"in:{EVIL}": known["in:images"], "out:logits": known["out:logits"]})
    inputs = tuple(info.model_copy(update={"name": EVIL}) for info in source.manifest.inputs)
    outputs = tuple(info.model_copy(update={"name": output}) for info in source.manifest.outputs)
    return replace(changed(source, inputs=inputs, outputs=outputs, **names), folder=folder)


def test_names_stay_names(source: Source, tmp_path: Path) -> None:
    """No name of a bundle is a path, a line of a configuration or code: what was said is read back."""
    given = renamed(source, tmp_path / "bundle", output=EVIL)
    files, _ = triton.files(given)
    assert not [name for name in files if ".." in name or name.startswith("/") or "id" in name.split("/")]
    engine = text_format.Parse(files["model/config.pbtxt"].decode(), protobuf().ModelConfig())
    assert [item.name for item in (*engine.input, *engine.output)] == [EVIL, EVIL]
    assert f"model/warmup/{engine.model_warmup[0].inputs[EVIL].input_data_file}" in files
    for name in (EVIL, "scope\\output"):
        outputs = (given.manifest.outputs[0].model_copy(update={"name": name}),)
        with pytest.raises(DataError, match="output-blob-names separates names"):
            deepstream.files(changed(detector(source, pad_value=0), outputs=outputs))


@pytest.mark.parametrize("name", ["in:images", "in:other"])
def test_a_known_input_that_the_engine_does_not_take_is_not_read(source: Source, tmp_path: Path, name: str) -> None:
    """Neither one that unfolds from a small file to a gigabyte, nor that of another network."""
    shutil.copytree(source.folder, tmp_path / "bundle")
    shape = (1, 1, 1024, 1 << 17) if name == "in:images" else (1, 3, 16, 16)
    np.savez_compressed(tmp_path / "bundle" / "known.npz", **{name: np.zeros(shape, np.uint8)})
    for write_files in (triton.files, deepstream.files):
        given = changed(
            detector(source, pad_value=0, size=(16, 16), std=(1.0, 2.0, 3.0)), inputs=source.manifest.inputs
        )
        with pytest.raises(BundleError, match=r"known\.npz is damaged"):
            write_files(replace(given, folder=tmp_path / "bundle"))


@pytest.mark.parametrize("name", ["a\nb", "stop\x1b[31m", "\u2028"])
def test_a_class_name_that_would_shift_the_others_is_refused(source: Source, name: str) -> None:
    for write_files in (triton.files, deepstream.files):
        with pytest.raises(DataError, match=r"labels\.txt has one name after another"):
            write_files(changed(detector(source, pad_value=0), classes=(name, "b", "c")))


def test_deepstreams_classifier_separates_its_labels_otherwise(source: Source) -> None:
    steps = Preprocess(fit="stretch", size=(16, 16))
    for classes, fits in ((("red;green", "b", "c"), False), (("red green", "b", "c"), True)):
        given = changed(source, preprocess=steps, classes=classes)
        if fits:
            assert deepstream.files(given)[0]["labels.txt"] == b"red green;b;c\n"
        else:
            with pytest.raises(DataError, match="'red;green'"):
                deepstream.files(given)


def test_what_stands_between_an_ensembles_steps_is_no_output(source: Source) -> None:
    outputs = (source.manifest.outputs[0].model_copy(update={"name": "prepared"}),)
    made, _ = triton.files(changed(source, outputs=outputs))
    text = next(data for name, data in made.items() if name.endswith("_from_image/config.pbtxt")).decode()
    first, second = text_format.Parse(text, protobuf().ModelConfig()).ensemble_scheduling.step
    assert list(first.output_map.values()) == list(second.input_map.values()) == ["prepared_"]
    assert list(second.output_map.values()) == ["prepared"]


def test_what_triton_cannot_be_told_is_refused(source: Source) -> None:
    loose = TensorInfo(name="images", shape=("batch", 3, "height", "width"), dtype="float32")
    with pytest.raises(DataError, match="dynamic axes height, width, and no profile bounds them"):
        triton.files(changed(source, inputs=(loose,), profiles={}, preprocess=None))
    identity = source.manifest.identity.model_copy(update={"engine": "openvino"})
    with pytest.raises(DataError, match="no backend that opens this engine as it was judged"):
        triton.files(changed(source, identity=identity))


def test_a_bundle_without_preprocessing_is_served_as_raw_tensors_alone(source: Source) -> None:
    made, _ = triton.files(changed(source, preprocess=None))
    assert not any("_preprocess" in name for name in made)
    for write_files in (cpp_library.files, deepstream.files):
        with pytest.raises(DataError, match="holds no preprocessing"):
            write_files(changed(source, preprocess=None))


# --- DeepStream -----------------------------------------------------------------------------------------------


def properties(made: dict[str, bytes]) -> ConfigParser:
    found = ConfigParser()
    found.read_string(made["config_infer_primary.txt"].decode())
    return found


@pytest.mark.parametrize(
    "steps",
    [
        {"mean": (123.7, 116.3, 103.5), "std": (58.0,), "pad_value": 0},
        {"scale": 1 / 255, "pad_value": 0, "color": "rgb", "pad_align": "center"},
        {"scale": 0.5, "mean": (10.0,), "std": (2.0,), "fit": "stretch", "layout": "nchw"},
    ],
)
def test_nvidias_formula_gives_our_values(
    source: Source, photographs: list[Image.Image], steps: dict[str, Any]
) -> None:
    """y = net-scale-factor · (x − mean), on the pixels that our resize gives: what differs is DeepStream's resize."""
    made = detector(source, **steps)
    settings = made.steps
    keys = properties(deepstream.files(made)[0])["property"]
    factor = float(keys["net-scale-factor"])
    means = np.array([float(value) for value in keys["offsets"].split(";")])
    for image in photographs[:20]:
        pixels, _ = place(image, settings, (SIZE, SIZE))
        ordered = pixels[:, :, ::-1] if keys["model-color-format"] == "1" else pixels
        theirs = (factor * (ordered.astype(np.float64) - means)).transpose(2, 0, 1)
        ours, _ = apply(image, settings, (SIZE, SIZE))
        np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert keys["maintain-aspect-ratio"] == str(int(settings.fit == "letterbox"))
    assert keys["symmetric-padding"] == str(int(settings.fit == "letterbox" and settings.pad_align == "center"))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"fit": "center-crop"}, "Gst-nvinfer crops nothing"),
        ({"pad_value": 114}, "DeepStream pads with black"),
    ],
)
def test_preprocessing_that_deepstream_cannot_express_is_refused(
    source: Source, steps: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        deepstream.files(detector(source, **steps))
    assert caught.value.do


def test_a_std_for_each_channel_is_folded_into_the_first_convolution(
    root: Path, source: Source, tmp_path: Path
) -> None:
    """NVIDIA's formula and the graph handed over, against our preprocessing and the bundle's, on real pictures."""
    steps = Preprocess(fit="stretch", mean=(123.7, 116.3, 103.5), std=(58.4, 40.0, 90.0))
    made, notes = deepstream.files(changed(source, preprocess=steps))
    keys = properties(made)["property"]
    factor, means = float(keys["net-scale-factor"]), np.array([float(value) for value in keys["offsets"].split(";")])
    unpack(made, tmp_path)
    theirs, ours = (Running(path) for path in (tmp_path / keys["onnx-file"], source.folder / source.manifest.model))
    off = 0.0
    for path in sorted((root / "ground" / "val").rglob("*.png")):
        pixels, _ = place(Image.open(path), steps, source.size)
        given = (factor * (pixels.astype(np.float64) - means)).transpose(2, 0, 1)[None].astype(np.float32)
        wanted = ours.run(None, {"images": apply(Image.open(path), steps, source.size)[0][None]})[0]
        off = max(off, np.abs(theirs.run(None, {"images": given})[0] - wanted).max())
        assert np.ptp(wanted) > 0.1
    assert off < 1e-4, "the original preprocessing and network"
    assert any("std [58.4, 40.0, 90.0] is folded into conv of model.onnx" in note for note in notes)
    assert any("nobody has judged" in note for note in notes)


def test_a_std_for_each_channel_of_a_built_engine_is_refused(source: Source) -> None:
    identity = source.manifest.identity.model_copy(update={"engine": "tensorrt"})
    steps = Preprocess(fit="stretch", std=(58.0, 57.0, 57.0))
    with pytest.raises(DataError, match="the weights of a built engine cannot be changed") as caught:
        deepstream.files(changed(source, identity=identity, preprocess=steps))
    assert caught.value.do is not None and "model.onnx then holds the division" in caught.value.do
    with pytest.raises(DataError, match="holds no known frames"):
        deepstream.files(changed(source, known_answer=None, preprocess=steps))


def test_an_engine_that_nobody_judged_is_said_or_refused(source: Source) -> None:
    made, notes = deepstream.files(detector(source, pad_value=0))
    assert "model.onnx" in made and any("nobody has judged" in note for note in notes)
    candidate = source.manifest.candidate.model_copy(update={"precision": "int8-fp32"})
    with pytest.raises(DataError, match="DeepStream runs TensorRT"):
        deepstream.files(changed(detector(source, pad_value=0), candidate=candidate))


def test_two_heads_for_one_parser_are_refused(source: Source) -> None:
    one = detector(source, pad_value=0)
    two = changed(one, outputs=(*one.manifest.outputs, TensorInfo(name="other", shape=(1, 84, 8), dtype="float32")))
    with pytest.raises(DataError, match="2 outputs could carry the prediction"):
        deepstream.files(two)


def test_the_parser_compiles_without_a_warning(source: Source, tmp_path: Path) -> None:
    """Whatever output and classes are called: their names are literals that C++ reads back as they are."""
    names = ('x"), std::system("id") //@ROWS@', 'stop "ü 🚗\\ ??/ @DECODE@ //')
    given = detector(source, pad_value=0)
    outputs = tuple(info.model_copy(update={"name": names[0]}) for info in given.manifest.outputs)
    made, _ = deepstream.files(changed(given, outputs=outputs, classes=(names[1], "b", "c")))
    for file, name in zip(("parser.cpp", "include/edgeship/settings.hpp"), names, strict=True):
        literals = [ast.literal_eval(found) for found in re.findall(r'"[^"\n]*"', made[file].decode("ascii"))]
        assert name in [text.encode("latin-1").decode() for text in literals]
    unpack(made, tmp_path)
    (tmp_path / "include" / "nvdsinfer_custom_impl.h").write_text(STUB)
    compiled("-shared", "-fPIC", "parser.cpp", "-o", "libparser.so", folder=tmp_path)


# --- C++ ------------------------------------------------------------------------------------------------------


def unpack(made: dict[str, bytes], folder: Path) -> None:
    for name, content in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def compiled(*arguments: str, folder: Path) -> None:
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Iinclude"]
    done = subprocess.run(
        ["g++", *flags, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr


def program(source: Source, folder: Path) -> Path:
    unpack(cpp_library.files(source)[0], folder)
    compiled("frame.cpp", "-o", "frame", folder=folder)
    return folder / "frame"


def answer(command: list[object], given: bytes) -> bytes:
    done = subprocess.run([str(part) for part in command], input=given, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [
        {"fit": "letterbox", "pad_align": "center", "color": "bgr", "mean": (10.0, 20.0, 30.0), "std": (3.0, 5.0, 7.0)},
        {"fit": "center-crop", "color": "rgb", "interpolation": "bicubic", "scale": 1 / 255, "layout": "nhwc"},
        {"fit": "stretch", "color": "gray", "interpolation": "lanczos", "mean": (110.0,), "std": (60.0,)},
        {"fit": "stretch", "color": "rgb", "interpolation": "box"},
        {"fit": "letterbox", "color": "rgb", "interpolation": "nearest"},
        {"fit": "center-crop", "color": "bgr", "interpolation": "opencv-bilinear"},
    ],
)
def test_the_input_is_pythons_to_a_grey_level(
    source: Source, photographs: list[Image.Image], tmp_path: Path, steps: dict[str, Any]
) -> None:
    made = detector(source, **steps)
    frame = program(made, tmp_path)
    for number, image in enumerate(photographs):
        given = image.convert("L") if number % 7 == 0 else image
        channels = 1 if given.mode == "L" else 3
        found = answer([frame, "input", *given.size, channels], given.tobytes())
        wanted, _ = apply(given, made.steps, (SIZE, SIZE))
        level = made.steps.scale / np.array(made.steps.std).min()
        off = np.abs(np.frombuffer(found, np.float32) - wanted.ravel()) / level
        most = {"nearest": 0, "opencv-bilinear": 0, "bicubic": 2, "lanczos": 2}.get(made.steps.interpolation, 1)
        assert off.max() < most + 0.001, "Pillow resizes some images along the height first"


def heads(random: np.random.Generator) -> dict[str, np.ndarray]:
    """One output of each head with many overlapping boxes: 84 anchors, three classes."""
    raw = random.normal(0, 0.3, (84, 8)).astype(np.float32)
    raw[:, 4:] = random.uniform(0, 1, (84, 4))
    centred = np.concatenate(
        [random.uniform(5, 60, (2, 84)), random.uniform(4, 30, (2, 84)), random.uniform(0, 1, (3, 84))]
    )
    corners = random.uniform(0, 40, (20, 6))
    corners[:, 2:4] += corners[:, :2]
    corners[:, 4], corners[:, 5] = random.uniform(0, 1, 20), random.integers(0, 3, 20)
    return {"yolox": raw, "ultralytics": centred.astype(np.float32), "nms": corners.astype(np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["yolox", "ultralytics", "nms"])
def test_boxes_are_pythons(source: Source, tmp_path: Path, decoder: str) -> None:
    settings = DETECTION.model_copy(update={"decoder": decoder})
    shape = {"yolox": (1, 84, 8), "ultralytics": (1, 7, 84), "nms": (1, 20, 6)}[decoder]
    output = TensorInfo(name="output", shape=shape, dtype="float32")
    made = changed(detector(source), evaluation=settings, outputs=(output,))
    frame = program(made, tmp_path)
    random = np.random.default_rng(1)
    for _ in range(20):
        values = heads(random)[decoder]
        rows = values.shape[1] if decoder == "ultralytics" else values.shape[0]
        found = np.array(
            [line.split() for line in answer([frame, "boxes", 200, 100, rows], values.tobytes()).splitlines()], float
        )
        geometry = Geometry(100, 200, SIZE, SIZE, 64 / 200, 32 / 100)
        wanted: Any = decode_predictions(
            "detection", decoder, {"output": values[None]}, [geometry], settings, made.manifest.classes
        )[0]
        assert len(found) == len(wanted.boxes) > 3
        np.testing.assert_allclose(found[:, :4], wanted.boxes, atol=1e-3)
        np.testing.assert_allclose(found[:, 4], wanted.scores, atol=1e-5)
        np.testing.assert_array_equal(found[:, 5], wanted.labels)


def test_scores_are_pythons_and_cmake_builds_them(source: Source, tmp_path: Path) -> None:
    unpack(cpp_library.files(source)[0], tmp_path)
    if shutil.which("cmake"):
        for command in (["cmake", "-B", "build"], ["cmake", "--build", "build"]):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stderr
        frame = tmp_path / "build" / "frame"
    else:
        frame = program(source, tmp_path)
    for values in (np.array([[1.0, -2.0, 3.5]], np.float32), np.array([[0.25, 0.25, 0.5]], np.float32)):
        found = np.array(answer([frame, "scores"], values.tobytes()).split(), np.float32)
        np.testing.assert_allclose(found, classification_scores({"logits": values})[0], atol=1e-6)


def test_a_decoder_that_the_library_lacks_is_refused(source: Source) -> None:
    with pytest.raises(DataError, match="the C\\+\\+ library decodes yolox, ultralytics, nms"):
        cpp_library.files(changed(detector(source), evaluation=DETECTION.model_copy(update={"decoder": "detr"})))


# --- ROS 2, and all of them ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.parent.name for path in EXAMPLES.glob("*/edgeship.toml")))
def test_every_examples_settings_are_handed_over(root: Path, tmp_path: Path, example: str) -> None:
    """The settings of each example on a small network of its input; their own networks in test_examples_*.py."""
    config = load(EXAMPLES / example / "edgeship.toml")
    assert config.preprocess is not None
    steps = config.preprocess.model_copy(update={"size": (16, 16)})
    channels = 1 if steps.color == "gray" else 3
    shutil.copytree(root / "bundle", tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["preprocess"] = steps.model_dump(mode="json")
    manifest["evaluation"] |= {"task": config.evaluation.task, "decoder": config.evaluation.decoder}
    manifest["inputs"][0]["shape"] = ["batch", channels, 16, 16]
    known = tmp_path / "bundle" / "known.npz"
    np.savez(known, **{"in:images": np.zeros((1, channels, 16, 16), np.float32), "out:logits": np.zeros((1, 3))})
    manifest["files"]["known.npz"] |= {"sha256": sha256_file(known), "size_bytes": known.stat().st_size}
    manifest["profiles"] = {"images": [[rows, channels, 16, 16] for rows in (1, 2, 4)]}
    path.write_text(json.dumps(manifest))
    told = handed_over(tmp_path / "bundle", tmp_path)
    assert (told["triton"], told["cpp"]) == ("", "")
    crop, padded = steps.fit == "center-crop", steps.fit == "letterbox" and steps.pad_value != 0
    assert ("crops nothing" in told["deepstream"], "pads with black" in told["deepstream"]) == (crop, padded)
    assert ("no network type for the task" in told["deepstream"]) == bool(config.evaluation.tasks)
    assert bool(told["deepstream"]) == (crop or padded or bool(config.evaluation.tasks))
    assert bool(told["ros2"]) == (config.evaluation.task != "detection")


def test_the_ros_package_is_a_detectors(source: Source) -> None:
    made, notes = ros2.files(detector(source))
    assert {"package.xml", "CMakeLists.txt", "node.cpp", "include/edgeship/settings.hpp"} <= set(made)
    assert "a template" in notes[0]
    with pytest.raises(DataError, match="publishes detections, and the task is classification"):
        ros2.files(source)


def test_a_wrong_kind_a_full_folder_and_a_changed_bundle_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="'tensorflow' is not a runtime"):
        hand_over(root / "bundle", "tensorflow", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserInputError, match="not an empty folder"):
        hand_over(root / "bundle", "cpp", tmp_path)
    shutil.copytree(root / "bundle", tmp_path / "copy")
    (tmp_path / "copy" / "engine.onnx").write_bytes(b"other")
    with pytest.raises(BundleError):
        hand_over(tmp_path / "copy", "triton", tmp_path / "out")
    assert not (tmp_path / "out").exists()
