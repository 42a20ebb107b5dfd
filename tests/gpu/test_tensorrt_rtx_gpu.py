"""TensorRT-RTX where a GPU is: an engine that runs, or the refusal of a card or a file that it does not support."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpu_models import convolutions, images

from edgeship import engines
from edgeship.config import Batch, Target
from edgeship.engines import BuildRequest, OpenOptions
from edgeship.errors import ArtifactError, DeviceError, EngineMismatch

RTX = engines.get("tensorrt-rtx")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT-RTX is not installed here"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The request and the build of an engine for this GPU."""
    place = tmp_path_factory.mktemp("rtx")
    model = convolutions(place / "model.onnx")
    target = Target(engine="tensorrt-rtx", device="cuda:0", batch=Batch(min=1, opt=2, max=4))
    request = BuildRequest(model, place / "x.engine", "fp32", target)
    return request, RTX.build(request)


def test_it_runs_or_says_why_not(built) -> None:
    request, done = built
    if RTX.misfits(done.identity, "cuda:0"):
        assert not done.runnable
        with pytest.raises(EngineMismatch) as caught:
            RTX.open(request.output, OpenOptions(device="cuda:0"))
        assert "the library says" in str(caught.value)
        return
    with RTX.open(request.output, OpenOptions(device="cuda:0", cuda_graph=True)) as runner:
        found = runner.infer(images(3))["logits"]
    with engines.get("onnxruntime").open(request.onnx, OpenOptions()) as reference:
        wanted = reference.infer(images(3))["logits"]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_device_that_is_not_there(built) -> None:
    with pytest.raises(DeviceError, match="there is no device 'cuda:99' here"):
        RTX.open(built[0].output, OpenOptions(device="cuda:99"))


def test_truncated_and_foreign_files_are_refused(built, tmp_path: Path) -> None:
    data = built[0].output.read_bytes()
    plan = tmp_path / "x.engine"
    for content, words in (
        (data[: len(data) // 2], "truncated"),
        (data + b"more", "followed by foreign bytes"),
        (b"metadata" + data, "foreign bytes in front of a TensorRT-RTX plan"),
        (b"neither of the two", "is not a TensorRT plan"),
    ):
        plan.write_bytes(content)
        with pytest.raises(ArtifactError, match=words):
            RTX.open(plan, OpenOptions(device="cuda:0"))


CODE = """
import sys
from pathlib import Path
from edgeship import engines
from edgeship.errors import EngineError
try:
    engines.get("tensorrt-rtx").open(Path(sys.argv[1]), engines.OpenOptions(device="cuda:0"))
except EngineError as error:
    print(error)
    sys.exit(7)
"""


def test_a_damaged_file_is_refused(built, tmp_path: Path) -> None:
    """In a process of its own: the library reads the bytes that were changed."""
    data = bytearray(built[0].output.read_bytes())
    half = len(data) // 2
    data[half : half + 4096] = bytes(value ^ 0xFF for value in data[half : half + 4096])
    plan = tmp_path / "x.engine"
    plan.write_bytes(bytes(data))
    done = subprocess.run([sys.executable, "-c", CODE, str(plan)], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr[-2000:]
    assert "the library says" in done.stdout
