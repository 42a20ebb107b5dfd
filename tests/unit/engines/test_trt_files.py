"""What can be said of engine files and feeds without a GPU: inspection, the library's own verdict, checks of feeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_onnx import convolutions

from edgeship import engines
from edgeship.config import Batch, Target
from edgeship.engines import BuildRequest
from edgeship.engines.inspect import describe, sidecar
from edgeship.engines.trt import flavour as trt
from edgeship.engines.trt.open import diagnoses, same_version, validity
from edgeship.engines.trt.runner import agree, check_feed
from edgeship.errors import ArtifactError
from edgeship.results import TensorInfo, write

RTX = engines.get("tensorrt-rtx")
IMAGES = TensorInfo(name="images", shape=("batch", 3, 8, 8), dtype="float32")
LOW, HIGH = (1, 3, 8, 8), (16, 3, 8, 8)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    model = convolutions(tmp_path / "model.onnx")
    target = Target(engine="tensorrt-rtx", batch=Batch(min=1, opt=2, max=4), compute_capability=("8.6",))
    request = BuildRequest(model, tmp_path / "x.engine", "fp32", target)
    write(RTX.build(request), sidecar(request.output))
    return request.output


def test_an_onnx_file_is_described_without_the_onnx_package(tmp_path: Path) -> None:
    found = describe(convolutions(tmp_path / "model.onnx"))
    assert found.kind == "onnx"
    assert [(tensor.name, tensor.shape, tensor.dtype) for tensor in found.inputs] == [
        ("images", ("batch", 3, 32, 32), "float32")
    ]
    assert found.outputs[0].shape == ("batch", 10)
    assert "Conv 4" in found.facts["operators"]


def test_an_engine_is_described_from_the_record_beside_it(engine: Path) -> None:
    found = describe(engine)
    assert found.kind == "engine"
    assert found.what.startswith("TensorRT-RTX ")
    assert found.profiles["images"][2] == (4, 3, 32, 32)
    assert found.facts["built for"] == "ahead of time for 8.6"


def test_a_record_of_another_file_is_not_believed(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(bytes(data))
    assert describe(engine).profiles == {}


def test_files_that_are_neither(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"neither of the two")
    with pytest.raises(ArtifactError, match="is not a TensorRT plan"):
        describe(path)
    with pytest.raises(ArtifactError, match="does not exist"):
        describe(tmp_path / "absent")


def test_the_librarys_own_verdict_on_a_damaged_plan(engine: Path) -> None:
    flavour = trt.load("tensorrt-rtx")
    log = trt.Log()
    keep = trt.logger(flavour.trt, log)
    runtime = flavour.trt.Runtime(keep)
    assert validity(flavour, runtime, b"damaged" * 100) == ["the file is not a whole engine"]


def test_every_diagnosis_has_a_sentence() -> None:
    flavour = trt.load("tensorrt-rtx")
    members = flavour.trt.EngineInvalidityDiagnostics.__members__
    every = 0
    for member in members.values():
        every |= int(member)
    found = diagnoses(flavour, every)
    assert len(found) == len(members)
    assert not set(found) & set(members)


def test_versions_agree_as_far_as_both_tell() -> None:
    assert same_version("10.3.0", "10.3.0.26")
    assert not same_version("10.3.0", "10.16.1.11")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (None, "is missing"),
        ([1.0], "is a list, not a numpy array"),
        (np.zeros((1, 3, 8, 8), np.float64), "is float64, not float32"),
        (np.zeros((32, 3, 8, 8), np.float32), "batch 32 is over the profile's maximum 16"),
        (np.zeros((1, 3, 9, 8), np.float32), "has shape (1, 3, 9, 8)"),
        (np.zeros((0, 3, 8, 8), np.float32), "has shape (0, 3, 8, 8)"),
        (np.zeros((3, 8, 8), np.float32), "has shape (3, 8, 8)"),
    ],
)
def test_feeds_that_do_not_fit(array: object, says: str) -> None:
    (problem,) = check_feed(IMAGES, array, LOW, HIGH)
    assert says in problem


def test_a_feed_that_fits() -> None:
    assert check_feed(IMAGES, np.zeros((4, 3, 8, 8), np.float32), LOW, HIGH) == []


def test_a_graph_must_give_the_plain_result() -> None:
    plain = np.linspace(-1, 1, 100, dtype=np.float32)
    assert agree(plain, plain + 1e-4)
    assert not agree(plain, np.zeros_like(plain))
    assert not agree(plain, plain[:50])
    assert agree(np.arange(100), np.arange(100))
    assert not agree(np.arange(100), np.arange(100) + 1)
