"""The stages that make and check the graph: what each depends on, and the call that does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Config, Model, Target, takes_tensorrt_graphs
from edgeship.data import beside
from edgeship.data.beside import single
from edgeship.data.feeds import batch_of
from edgeship.data.frames import FrameChoice, frames
from edgeship.errors import DataError
from edgeship.files import storage_errors
from edgeship.pipeline.candidates import require_one_file, require_possible
from edgeship.pipeline.frames import (
    KNOWN_FRAMES,
    KnownFrames,
    allow_corrupt,
    beside_hash,
    data_hash,
    frame_source,
    remembering,
    which_set,
)
from edgeship.pipeline.stages import Run, Stage, Step, dump, versions
from edgeship.pipeline.user_code import source_hashes
from edgeship.prepare.export import export
from edgeship.prepare.graph import external_files, read_onnx
from edgeship.prepare.inputs import Known
from edgeship.prepare.model import bounds_of
from edgeship.prepare.parity import Request, parity
from edgeship.prepare.parity import require as require_equal
from edgeship.prepare.preflight import preflight
from edgeship.prepare.preflight import require as require_buildable
from edgeship.prepare.slim import Options, slim
from edgeship.results import Artifact, Exported, Parity, Preflight, Slimmed


def export_key(run: Run) -> Any:
    """The model settings, input sizes, source files and what they import, weights, the exporter's version."""
    settings, size, known = run.config.model, run.config.preprocess, known_inputs(run.config)
    files: dict[str, Any] = {}
    source = Path(settings.source)
    if source.suffix in (".onnx", ".pt2"):
        files["source"] = run.hasher.file(source) if source.is_file() else ""
        if source.suffix == ".onnx" and source.is_file():
            files |= {name: run.hasher.file(source.parent / name) for name in external_files(read_onnx(source))}
    else:
        files |= source_hashes(run, settings.source)
    if settings.weights is not None and settings.weights.is_file():
        files["weights"] = run.hasher.file(settings.weights)
    return {
        "model": settings.model_dump(mode="json", exclude={"weights", "name", "version"}),
        "files": files,
        "size": [size.size, size.layout, size.input] if size is not None else None,
        "known": [known.shapes, known.bounds],
        "versions": versions("torch", "onnx", "onnxscript", "onnxruntime"),
    }


def export_work(run: Run, folder: Path) -> Exported:
    """PyTorch → ONNX."""
    config = run.config
    return export(model_of(config), config.root, folder / "model.onnx", config.preprocess, known_inputs(config))


def known_inputs(config: Config) -> Known:
    """What the config tells of the model's inputs: sizes of dynamic axes, and ranges of values."""
    shapes = {name: given.opt for target in config.all_targets().values() for name, given in target.shapes.items()}
    return Known(shapes=shapes, bounds=beside.bounds_of(config.preprocess) | bounds_of(config.model.inputs))


def model_of(config: Config) -> Model:
    """The ``[model]`` table with the ranges of inputs that ``[inputs]`` declares, where it gives none itself."""
    known = beside.bounds_of(config.preprocess)
    inputs = {
        name: spec.model_copy(update={"low": known[name][0], "high": known[name][1]})
        if name in known and spec.low is None and spec.high is None
        else spec
        for name, spec in config.model.inputs.items()
    }
    return config.model.model_copy(update={"inputs": inputs})


def slim_key(run: Run) -> Any:
    """The exported graph and the simplifier's version."""
    known = known_inputs(run.config)
    return {
        "model": run.result(EXPORT).model.sha256,
        "known": [known.shapes, known.bounds, run.config.model.free_batch],
        "versions": versions("onnxslim", "onnx"),
    }


def slim_work(run: Run, folder: Path) -> Slimmed:
    """Simplify and check."""
    return slim(
        run.path(EXPORT, "model.onnx"),
        folder / "model.onnx",
        Options(known_inputs(run.config), run.config.model.free_batch),
    )


def check_precisions(run: Run) -> None:
    """Refuse candidates that the model cannot have: a quantized one is not quantized twice. Raises ConfigError."""
    require_possible(run.config, run.result(SLIM).operators, run.config.model.source)
    weights = run.path(SLIM, "model.onnx.data")
    require_one_file(run.config, weights.stat().st_size if weights.is_file() else 0)


def preflight_key(run: Run) -> Any:
    """The simplified graph without its weights' values, the targets' engines and plugins, the installed parsers."""
    targets = _tensorrt_targets(run.config)
    return {
        "structure": run.result(SLIM).structure,
        "engines": [[target.engine, target.host is None, bool(target.plugins)] for target in targets],
        "plugins": [run.hasher.file(path) for path in _plugins_here(targets) if path.is_file()],
        "versions": versions("tensorrt", "tensorrt-rtx", "tensorrt_cu12", "tensorrt_cu13"),
    }


def preflight_work(run: Run, folder: Path) -> Preflight:
    """Ask TensorRT's parser about every node; stop only where a target needs TensorRT.

    Plugins of a target on another machine do not load here, so what the parser rejects does not stop for its sake.
    """
    targets = _tensorrt_targets(run.config)
    prefer = targets[0].engine if targets else None
    if prefer == "onnxruntime-rtx":
        prefer = "tensorrt-rtx"  # whose parser is the provider's
    result = preflight(run.path(SLIM, "model.onnx"), prefer=prefer, plugins=_plugins_here(targets))
    if any(target.host is None or not target.plugins for target in targets):
        require_buildable(result)
    return result


def _tensorrt_targets(config: Config) -> list[Target]:
    return [target for target in config.all_targets().values() if takes_tensorrt_graphs(target.engine)]


def _plugins_here(targets: list[Target]) -> tuple[Path, ...]:
    """The plugins of targets on this machine, each once."""
    return tuple(dict.fromkeys(path for target in targets if target.host is None for path in target.plugins))


def frames_key(run: Run) -> Any:
    """Which frames, how they are preprocessed, and the inputs they go to."""
    source = frame_source(run.config)
    return {
        "images": data_hash(run, source) if source is not None else None,
        "beside": beside_hash(run, which_set(run.config)),
        "preprocess": dump(run.config.preprocess),
        "inputs": [item.model_dump() for item in run.result(SLIM).inputs],
        "memory": [run.result(SLIM).model.sha256, run.config.evaluation.group] if _remembers(run.config) else None,
        "count": KNOWN_FRAMES,
        "allow_corrupt": allow_corrupt(run.config),
    }


def _remembers(config: Config) -> bool:
    """Whether the model has memory."""
    return config.preprocess is not None and bool(config.preprocess.state)


def frames_work(run: Run, folder: Path) -> KnownFrames:
    """Preprocess a few real frames."""
    source = frame_source(run.config)
    if source is None:
        return KnownFrames(arrays=None)
    allowed = allow_corrupt(run.config)
    inputs, steps = run.result(SLIM).inputs, run.config.preprocess
    memory = _remembers(run.config)
    count = 1 if steps is not None and single(inputs, steps) and not memory else KNOWN_FRAMES
    more = remembering(run.config, run.path(SLIM, "model.onnx")) if memory else {}
    choice = FrameChoice(count, batch=count, allow_corrupt=allowed, workers=1, which=which_set(run.config), **more)
    chosen = frames(source, steps, inputs, choice)
    ids: list[str] = []
    parts: list[dict[str, Any]] = []
    for names, feeds in chosen:
        ids += names
        parts.append(feeds)
    if memory:  # the last step alone: what the model remembers has no batch axis that others could share
        ids, parts = ids[-1:], parts[-1:]
    if not parts:
        raise DataError(f"none of the {len(chosen)} frames taken from {source} can be read", do="replace the images")
    path = folder / "frames.npz"
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    with storage_errors(path):
        np.savez(path, **arrays)  # type: ignore[arg-type]
    return KnownFrames(arrays=Artifact.of(path, folder), ids=tuple(ids))


def parity_key(run: Run) -> Any:
    """The model, both graphs, the tolerances and the real frames."""
    return {
        "export": export_key(run),
        "graphs": [run.result(EXPORT).model.sha256, run.result(SLIM).model.sha256],
        "parity": dump(run.config.parity),
        "frames": dump(run.result(FRAMES)),
        "versions": versions("torch", "onnxruntime"),
    }


def parity_work(run: Run, folder: Path) -> Parity:
    """PyTorch against ONNX; stops the run when they disagree."""
    known = run.result(FRAMES)
    images = []
    if known.arrays is not None and run.config.parity.images:
        with np.load(run.path(FRAMES, known.arrays.path), allow_pickle=False) as stored:
            feeds = {name: stored[name] for name in stored.files}
        images.append(batch_of(feeds, run.result(SLIM).inputs, min(len(known.ids), run.config.parity.images)))
    request = Request(
        model_of(run.config),
        run.config.root,
        run.path(EXPORT, "model.onnx"),
        run.path(SLIM, "model.onnx"),
        run.config.parity,
        images,
        known_inputs(run.config),
    )
    result = parity(request)
    require_equal(result)
    return result


EXPORT = Stage("export", Exported, export_key, export_work)
SLIM = Stage("slim", Slimmed, slim_key, slim_work)
PRECISIONS = Step("precisions", check_precisions)
PREFLIGHT = Stage("preflight", Preflight, preflight_key, preflight_work)
FRAMES = Stage("frames", KnownFrames, frames_key, frames_work)
PARITY = Stage("parity", Parity, parity_key, parity_work)
