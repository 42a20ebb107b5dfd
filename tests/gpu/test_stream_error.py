"""An error in the middle of a stream ends the run with one sentence. In a process of its own: the context is lost."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import ctypes, sys
import torch
from edgeship.engines import cuda
from edgeship.errors import DeviceError
cuda.use("cuda:0")
stream = cuda.Stream()
try:
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
        values = torch.zeros(8, device="cuda")
        values[torch.tensor([10**6], device="cuda")] += 1   # a device-side assertion
except torch.AcceleratorError:
    pass                                                    # torch noticed first; the stream must tell us too
try:
    stream.synchronize()
except DeviceError as error:
    print(error)
    sys.exit(7)
"""


def test_a_failed_kernel_is_a_device_error_at_the_next_wait() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 7, done.stderr[-2000:]
    assert "waiting for the device: CUDA failed" in done.stdout
    assert "start the command again" in done.stdout
