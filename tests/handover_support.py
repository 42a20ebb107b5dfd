"""Hand a bundle over to every runtime, and read what was written by the runtime's own rules."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from types import ModuleType
from typing import get_args

from google.protobuf import text_format

from edgeship.bundle import verify
from edgeship.bundle.manifest import Manifest
from edgeship.errors import DataError
from edgeship.handover import Kind, hand_over


def loaded(path: Path) -> ModuleType:
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def protobuf() -> ModuleType:
    """Triton's own message types, without the gRPC client around them."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.submodule_search_locations
    return loaded(Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py")


def _triton(folder: Path, manifest: Manifest) -> None:
    """Every configuration, by Triton's protobuf: names, files that are there, the batch."""
    kind = protobuf().ModelConfig
    configs = {path.parent.name: path for path in folder.glob("*/config.pbtxt")}
    parsed = {name: text_format.Parse(path.read_text(), kind()) for name, path in configs.items()}
    assert all(config.name == name for name, config in parsed.items())
    engine = next(config for config in parsed.values() if config.default_model_filename)
    place = configs[engine.name].parent
    assert (place / "1" / engine.default_model_filename).stat().st_size == manifest.files[manifest.engine].size_bytes
    assert [item.name for item in engine.input] == [info.name for info in manifest.inputs]
    assert [item.name for item in engine.output] == [info.name for info in manifest.outputs]
    for warm in engine.model_warmup:
        assert all((place / "warmup" / item.input_data_file).is_file() for item in warm.inputs.values())
    assert (place / "labels.txt").read_text().splitlines() == list(manifest.classes)
    for step in (step for config in parsed.values() for step in config.ensemble_scheduling.step):
        assert step.model_name in parsed


def _deepstream(folder: Path, manifest: Manifest) -> None:
    """Its configuration: numbers that are numbers, files that are there, as many labels as classes."""
    config = ConfigParser(strict=True, interpolation=None)
    config.read_string((folder / "config_infer_primary.txt").read_text())
    keys = config["property"]
    steps = manifest.preprocess
    assert steps is not None
    channels = 1 if steps.color == "gray" else 3
    assert float(keys["net-scale-factor"]) > 0
    assert len([float(value) for value in keys["offsets"].split(";")]) == channels
    assert channels in [int(value) for value in keys["infer-dims"].split(";")]
    assert int(keys["num-detected-classes"]) == len(manifest.classes)
    assert (folder / keys.get("onnx-file", keys.get("model-engine-file", ""))).is_file()
    separator = ";" if keys["network-type"] == "1" else "\n"
    assert (folder / keys["labelfile-path"]).read_text().strip("\n").split(separator) == list(manifest.classes)


def _cpp(folder: Path, manifest: Manifest) -> None:
    """The settings and the decoding are C++ that a compiler takes without a warning."""
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-Iinclude", "-xc++"]
    given = '#include "edgeship/settings.hpp"\n'
    done = subprocess.run(
        ["g++", *flags, "-"], cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert (folder / f"engine{Path(manifest.engine).suffix}").is_file()


READ: dict[str, Callable[[Path, Manifest], None]] = {
    "triton": _triton,
    "deepstream": _deepstream,
    "cpp": _cpp,
    "ros2": _cpp,
}


def handed_over(bundle: Path, folder: Path) -> dict[str, str]:
    """By runtime: why it is refused, or nothing where its files were written and read. ``folder`` is made."""
    manifest, told = verify(bundle), {}
    for kind in get_args(Kind):
        try:
            hand_over(bundle, kind, folder / kind)
        except DataError as error:
            told[kind] = error.found
            continue
        READ[kind](folder / kind, manifest)
        told[kind] = ""
    return told
