"""What is installed here, what fits together and what does not. Asks, never raises, loads no torch."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from edgeship import __version__, engines
from edgeship.config import EngineName
from edgeship.engines import Probe, cuda, processor
from edgeship.engines.trt import trtexec
from edgeship.errors import EdgeshipError, TargetError
from edgeship.results import Result
from edgeship.toolchains import words as nearest_toolchain

PACKAGES = (
    "torch", "onnx", "onnxscript", "onnxslim", "onnxruntime", "onnxruntime-gpu", "openvino", "nvidia-modelopt",
    "onnxruntime-ep-nv-tensorrt-rtx", "tensorrt", "tensorrt-rtx", "tensorrt-lean", "tensorrt-dispatch", "cuda-bindings",
    "nvidia-ml-py", "numpy", "pillow",
)  # fmt: skip
L4T = Path("/etc/nv_tegra_release")
BOARD = Path("/proc/device-tree/model")


class EngineState(Result):
    """One engine of edgeship's, as its own probe found it."""

    name: str
    available: bool
    version: str
    reason: str


class Checkup(Result):
    """Everything doctor found."""

    facts: dict[str, str]
    engines: tuple[EngineState, ...]
    misfits: tuple[str, ...]
    """Pairs that do not fit together, with what to do."""


def examine() -> Checkup:
    """Look at this machine."""
    packages = {name: version for name in PACKAGES if (version := package_version(name))}
    probes = tuple(_probe(name) for name in engines.known())
    here = cuda.cuda()
    tool, tool_version = _trtexec()
    facts = {
        "edgeship": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": f"{cuda.platform_name()}, {platform.release()}",
        **packages,
        "processor": f"{processor.name()}, {processor.cores()} cores",
        "instruction sets": " ".join(processor.instruction_sets()) or "unknown",
        "INT8 on the CPU": processor.int8_words(),
        "CUDA driver": here.driver or "none",
        "CUDA runtime": here.runtime or "none",
        **{f"cuda:{gpu.index}": _gpu(gpu) for gpu in here.gpus},
        **({} if here.gpus else {"GPU": f"none: {here.reason}"}),
        "trtexec": f"{tool_version} ({tool})" if tool else "none",
        **jetson(),
    }
    known = facts | packages | {probe.engine: probe.version for probe in probes if probe.version}
    known |= {"python": platform.python_version(), "machine": platform.machine()}
    facts["toolchain"] = nearest_toolchain(known)
    states = tuple(
        EngineState(name=p.engine, available=p.available, version=p.version, reason=p.reason) for p in probes
    )
    return Checkup(facts=facts, engines=states, misfits=tuple(misfits(packages, probes, here, tool_version)))


def package_version(name: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _probe(name: EngineName) -> Probe:
    try:
        return engines.get(name).probe()
    except (EdgeshipError, ImportError) as error:
        return Probe(name, False, reason=str(error))


def _gpu(gpu: cuda.Gpu) -> str:
    return f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mib} MiB"


def _trtexec() -> tuple[str, str]:
    """The path and version of trtexec; empty where there is none."""
    try:
        path = trtexec.find()
    except TargetError:
        return "", ""
    try:
        return str(path), trtexec.ask(path).version
    except TargetError as error:
        return str(path), f"does not answer: {error.found}"


def jetson(l4t: Path = L4T, board: Path = BOARD) -> dict[str, str]:
    """L4T, JetPack, the board and its power mode; empty on anything that is not a Jetson."""
    if not l4t.is_file():
        return {}
    found = {"L4T": l4t_version(l4t.read_text(encoding="utf-8", errors="replace"))}
    if board.is_file():
        found["board"] = board.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    jetpack = _output(["dpkg-query", "--showformat=${Version}", "--show", "nvidia-jetpack"])
    if jetpack:
        found["JetPack"] = jetpack
    mode = power_mode(_output(["nvpmodel", "-q"]))
    if mode:
        found["power mode"] = mode
    return found


def l4t_version(text: str) -> str:
    """``# R36 (release), REVISION: 4.3, …`` → ``36.4.3``."""
    found = re.search(r"# R(\d+).*?REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else text.strip()[:80]


def power_mode(text: str) -> str:
    """The mode's name in the output of ``nvpmodel -q``: ``MAXN``."""
    found = re.search(r"NV Power Mode: *(\S+)", text)
    return found[1] if found else ""


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def misfits(
    packages: dict[str, str], probes: tuple[Probe, ...], here: cuda.Cuda, trtexec_version: str = ""
) -> list[str]:
    """Pairs that do not fit together, each with what to do."""
    found = []
    versions = {probe.engine: probe.version for probe in probes if probe.version}
    if "onnxruntime" in packages and "onnxruntime-gpu" in packages:
        found.append(
            "onnxruntime and onnxruntime-gpu are both installed and share one folder: whichever came last hides the "
            "other; pip uninstall both, then install one"
        )
    found += _driver(packages, here)
    found += _tensorrt(versions.get("tensorrt", ""), here, trtexec_version)
    rtx = next((probe for probe in probes if probe.engine == "tensorrt-rtx" and probe.version), None)
    for gpu in here.gpus if rtx is not None else ():
        known = rtx.facts.get("builds_for", []) if rtx is not None else []
        if gpu.compute_capability not in known:
            found.append(
                f"TensorRT-RTX {rtx.version if rtx else ''} does not support {gpu.name} (compute capability "
                f"{gpu.compute_capability}; it supports {', '.join(known)}): it builds here and runs elsewhere"
            )
    return found


def _driver(packages: dict[str, str], here: cuda.Cuda) -> list[str]:
    if not here.driver:
        return []
    found = []
    if here.runtime and _major(here.runtime) > _major(here.driver):
        found.append(
            f"the driver runs CUDA {here.driver}, and cuda-bindings brings runtime {here.runtime}: update the driver, "
            f"or pip install 'cuda-bindings=={_major(here.driver)}.*'"
        )
    torch_cuda = re.search(r"\+cu(\d+)(\d)$", packages.get("torch", ""))
    if torch_cuda and int(torch_cuda[1]) > _major(here.driver):
        found.append(f"torch {packages['torch']} needs a driver for CUDA {torch_cuda[1]}; this one runs {here.driver}")
    if "+cpu" in packages.get("torch", "") and here.gpus:
        found.append(f"torch {packages['torch']} is a CPU build beside a GPU: parity and AutoCast run on the CPU")
    return found


def _tensorrt(version: str, here: cuda.Cuda, trtexec_version: str) -> list[str]:
    found = []
    if version and not here.gpus:
        found.append(f"TensorRT {version} is installed and builds only on a GPU: {here.reason}")
    if version and re.match(r"\d+\.\d+", trtexec_version):
        ours, theirs = version.split(".")[:2], trtexec_version.split(".")[:2]
        if ours != theirs:
            found.append(
                f"trtexec is of TensorRT {trtexec_version}, Python imports {version}: an engine of one does not load "
                "in the other; put the folder of the same version first in PATH"
            )
    if re.match(r"11\.[0-3](\.|$)", version) and L4T.is_file():
        found.append(f"TensorRT {version} has no DLA (11.0 to 11.3): dla_core is refused there")
    return found


def _major(version: str) -> int:
    return int(version.split(".", maxsplit=1)[0])
