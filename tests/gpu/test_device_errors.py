"""What goes wrong on a device ends in one sentence. In processes of their own: the CUDA context is lost, or set up
wrongly on purpose.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeship.engines import cuda
from edgeship.errors import DeviceError

BREAK = """
def break_context(handle):
    import torch
    try:
        with torch.cuda.stream(torch.cuda.ExternalStream(handle)):
            values = torch.zeros(8, device="cuda")
            values[torch.tensor([10**6], device="cuda")] += 1   # a device-side assertion
    except torch.AcceleratorError:
        pass                                                    # torch noticed first; the next call must tell us too
"""

STREAM = """
import sys
from edgeship.engines import cuda
from edgeship.errors import DeviceError
cuda.use("cuda:0")
stream = cuda.Stream()
break_context(stream.handle)
try:
    stream.synchronize()
except DeviceError as error:
    print(error)
    sys.exit(7)
"""

RUNNER = """
import os
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2].split(os.pathsep)
from gpu_models import images
from edgeship import engines
from edgeship.errors import DeviceError
how, graph = sys.argv[3], sys.argv[4] == "graph"
try:
    options = engines.OpenOptions(device="cuda:0", cuda_graph=graph)
    with engines.get("onnxruntime").open(Path(sys.argv[1]), options) as runner:
        call = runner.timer(images(2)) if how == "timer" else lambda: runner.infer(images(2))
        for _ in range(3):
            call()
        print("it ran", flush=True)
        break_context(runner.stream)
        call()
        print("it went on", flush=True)
except DeviceError as error:
    print(error)
    sys.exit(7)
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "CUDA_PATH"} | environment
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=variables)


def test_a_failed_kernel_is_a_device_error_at_the_next_wait() -> None:
    done = run(BREAK + STREAM)
    assert done.returncode == 7, done.stderr[-2000:]
    assert "waiting for the device: CUDA failed" in done.stdout
    assert "start the command again" in done.stdout


@pytest.mark.parametrize("graph", ["graph", "plain"])
@pytest.mark.parametrize("how", ["infer", "timer"])
def test_a_failed_kernel_ends_a_runners_next_call_and_the_runner_still_closes(fp32: Path, how: str, graph: str) -> None:
    done = run(BREAK + RUNNER, str(fp32), os.pathsep.join(sys.path), how, graph)
    assert "it ran" in done.stdout, done.stderr[-2000:]
    assert done.returncode == 7, (done.stdout, done.stderr[-2000:])
    assert "it went on" not in done.stdout
    assert "start the command again" in done.stdout


OPEN = """
import sys
from pathlib import Path
from edgeship import engines
from edgeship.errors import DeviceError
try:
    engines.get("onnxruntime").open(Path(sys.argv[1]), engines.OpenOptions(device="cuda:0"))
except DeviceError as error:
    print(error)
    sys.exit(7)
"""


def test_a_session_that_fell_back_to_the_cpu_is_an_error(fp32: Path) -> None:
    """onnxruntime's own switch makes its CUDA provider unavailable; the session it then makes is one on the CPU."""
    done = run(OPEN, str(fp32), ORT_CUDA_UNAVAILABLE="1")
    assert done.returncode == 7, (done.stdout, done.stderr[-2000:])
    assert "cuda:0 was asked for, and onnxruntime fell back to CPUExecutionProvider" in done.stdout
    assert "expected: a session on CUDAExecutionProvider" in done.stdout


def test_calibration_does_not_fall_back_either(fp32: Path) -> None:
    code = """
import sys
from pathlib import Path
from edgeship.errors import DeviceError
from edgeship.prepare.running import Running
from edgeship.prepare import graph

try:
    Running(graph.load_onnx(Path(sys.argv[1])), device="cuda:0")
except DeviceError as error:
    print(error)
    sys.exit(7)
"""
    done = run(code, str(fp32), ORT_CUDA_UNAVAILABLE="1")
    assert done.returncode == 7, (done.stdout, done.stderr[-2000:])
    assert "cuda:0 was asked for, and onnxruntime fell back to CPUExecutionProvider" in done.stdout


def test_a_driver_older_than_the_runtime_names_both_versions() -> None:
    """The status that such a driver gives, with the versions that the driver and the runtime tell here."""
    status = cuda.runtime().cudaError_t.cudaErrorInsufficientDriver
    known = cuda.versions()
    with pytest.raises(DeviceError) as caught:
        cuda.check((status,), "counting CUDA devices")
    text = str(caught.value)
    assert f"supports CUDA {known.driver}, older than the CUDA runtime {known.runtime} that is installed" in text
    assert "update the NVIDIA driver" in text
