"""NVIDIA's published bindings, made importable on a machine without TensorRT.

The wheels of ``tensorrt-cu13-bindings`` hold the real Python module; only the three C++ libraries are missing.
Stand-ins that export the entry points (each returns null) let the module load: every class, enum member, method and
signature is then the vendor's own. Nothing can be built or run with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSIONS = {"10.16.1.11": 10, "11.4.0.106": 11}
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "contract"
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")


def prepare(version: str) -> Path:
    """The folder of one generation, filled once from the package registry."""
    place = CACHE / version
    ready = place / "ready"
    if ready.is_file():
        return place
    place.mkdir(parents=True, exist_ok=True)
    requirement = f"tensorrt-cu13-bindings=={version}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "--target", str(place), requirement], check=True, capture_output=True)
    _stand_ins(place / "lib", VERSIONS[version])
    package = place / "tensorrt"
    package.mkdir(exist_ok=True)
    lines = ("from tensorrt_bindings import *", "from tensorrt_bindings import __version__", "")
    (package / "__init__.py").write_text("\n".join(lines), encoding="utf-8")
    ready.write_text(version, encoding="utf-8")
    return place


def _stand_ins(place: Path, major: int) -> None:
    place.mkdir(exist_ok=True)
    source = place / "entry_points.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS), encoding="utf-8")
    for library in LIBRARIES:
        name = f"{library}.so.{major}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(place / name), str(source)]
        subprocess.run(command, check=True, capture_output=True)


def ask(version: str, script: str, question: Any = None) -> Any:
    """Run ``script`` (a module beside this file) against one generation; JSON in, JSON out.

    ``rtx`` is the real TensorRT-RTX of this environment.
    """
    environment = dict(os.environ)
    environment["PYTHONWARNINGS"] = "ignore"
    path = [str(Path(__file__).parent), str(ROOT / "src")]
    if version != "rtx":
        place = prepare(version)
        path.insert(0, str(place))
        environment["LD_LIBRARY_PATH"] = str(place / "lib")
    environment["PYTHONPATH"] = os.pathsep.join(path)
    environment["CONTRACT_MODULE"] = "tensorrt_rtx" if version == "rtx" else "tensorrt"
    command = [sys.executable, str(Path(__file__).parent / script)]
    done = subprocess.run(
        command, input=json.dumps(question), capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    if done.returncode != 0:
        raise AssertionError(f"{script} on {version} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)
