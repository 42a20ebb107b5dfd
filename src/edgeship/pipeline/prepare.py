"""What each stage of ``prepare`` depends on and does: thin adapters between the config and the acts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.config import Config, Target
from edgeship.data.feeds import batch_of
from edgeship.data.frames import FrameChoice, Frames, frames, image_files
from edgeship.data.reference import is_reference
from edgeship.errors import ConfigError, DataError
from edgeship.files import storage_errors
from edgeship.pipeline.stages import Run, versions
from edgeship.pipeline.user_code import code_hashes, source_hashes
from edgeship.results import Artifact, Calibrated, Exported, Parity, Preflight, Result, Slimmed

if TYPE_CHECKING:
    from edgeship.data.datasets import Dataset
    from edgeship.metrics import Task

KNOWN_FRAMES = 8
"""Real frames that every trial gets: feeds of the benchmark and the known input of the bundle."""


class KnownFrames(Result):
    """A few real frames, preprocessed, as feeds."""

    arrays: Artifact | None
    ids: tuple[str, ...] = ()


def check_data(config: Config) -> None:
    """Open every dataset of the config, and look up the names in its gate, before anything long begins.

    Raises:
        DataError: Absent, empty, unreadable or mislabelled.
        ConfigError: INT8 without frames; a rule about a metric or a class that is not there.
        UserInputError: No such task.
    """
    from edgeship import metrics
    from edgeship.data import datasets

    task = metrics.get(config.evaluation.task)
    settings = config.calibration
    source = settings.images
    if source is not None and not is_reference(source):
        image_files(source)
    if settings.npz is not None and not settings.npz.is_file():
        raise DataError(
            f"no calibration frames at {settings.npz}", do="mend calibration.npz, or set calibration.images"
        )
    if config.evaluation.images is not None:
        if config.preprocess is None:
            raise ConfigError(["preprocess: missing; evaluation images need it"])
        check_gate(config, task, datasets.open_dataset(config.evaluation))


def check_gate(config: Config, task: Task, dataset: Dataset) -> None:
    """Refuse rules about metrics and classes that the evaluation will not give, as far as its labels tell.

    Names that are only numbers may be extended by the model's outputs: those are checked when the gate judges.

    Raises:
        ConfigError: Every such name, with the nearest one that is there.
    """
    from edgeship.decide import gate

    classes = None if dataset.numbered or not dataset.classes else dataset.classes
    problems = gate.unknown_class_metric(config.gate, task)
    problems += gate.unknown_names(config.gate, task.metric_names(classes), classes)
    if problems:
        raise ConfigError(problems, where=str(config.file))


def export_key(run: Run) -> Any:
    """The model settings, the user's source files and what they import, the weights and the exporter's version."""
    settings = run.config.model
    files: dict[str, Any] = {}
    source = Path(settings.source)
    if source.suffix in (".onnx", ".pt2"):
        files["source"] = run.hasher.file(source) if source.is_file() else ""
        if source.suffix == ".onnx" and source.is_file():
            from edgeship.prepare.graph import external_files, read_onnx

            files |= {name: run.hasher.file(source.parent / name) for name in external_files(read_onnx(source))}
    else:
        files |= source_hashes(run, settings.source)
    if settings.weights is not None and settings.weights.is_file():
        files["weights"] = run.hasher.file(settings.weights)
    return {
        "model": settings.model_dump(mode="json", exclude={"weights"}),
        "files": files,
        "versions": versions("torch", "onnx", "onnxscript"),
    }


def export_work(run: Run, folder: Path) -> Exported:
    """PyTorch → ONNX."""
    from edgeship.prepare.export import export

    return export(run.config.model, run.config.root, folder)


def slim_key(run: Run) -> Any:
    """The exported graph and the simplifier's version."""
    return {"model": run.result("export", Exported).model.sha256, "versions": versions("onnxslim", "onnx")}


def slim_work(run: Run, folder: Path) -> Slimmed:
    """Simplify and check."""
    from edgeship.prepare.slim import slim

    return slim(run.path("export", "model.onnx"), folder / "model.onnx")


def preflight_key(run: Run) -> Any:
    """The simplified graph, the targets' engines and plugins, and the parsers that are installed."""
    targets = _tensorrt_targets(run.config)
    return {
        "model": run.result("slim", Slimmed).model.sha256,
        "engines": [[target.engine, target.host is None, bool(target.plugins)] for target in targets],
        "plugins": [run.hasher.file(path) for path in _plugins_here(targets) if path.is_file()],
        "versions": versions("tensorrt", "tensorrt-rtx", "tensorrt_cu12", "tensorrt_cu13"),
    }


def preflight_work(run: Run, folder: Path) -> Preflight:
    """Ask TensorRT's parser about every node; stop only where a target needs TensorRT.

    Plugins of a target on another machine do not load here, so what the parser rejects does not stop for its sake.
    """
    from edgeship.prepare.preflight import preflight, require

    targets = _tensorrt_targets(run.config)
    prefer = targets[0].engine if targets else None
    result = preflight(run.path("slim", "model.onnx"), prefer=prefer, plugins=_plugins_here(targets))
    if any(target.host is None or not target.plugins for target in targets):
        require(result)
    return result


def _tensorrt_targets(config: Config) -> list[Target]:
    return [target for target in config.all_targets().values() if target.engine != "onnxruntime"]


def _plugins_here(targets: list[Target]) -> tuple[Path, ...]:
    """The plugins of targets on this machine, each once."""
    return tuple(dict.fromkeys(path for target in targets if target.host is None for path in target.plugins))


def frames_key(run: Run) -> Any:
    """Which frames, how they are preprocessed, and the inputs they go to."""
    source = frame_source(run.config)
    return {
        "images": data_hash(run, source) if source is not None else None,
        "preprocess": _dump(run.config.preprocess),
        "inputs": [item.model_dump() for item in run.result("slim", Slimmed).inputs],
        "count": KNOWN_FRAMES,
        "allow_corrupt": allow_corrupt(run.config),
    }


def frames_work(run: Run, folder: Path) -> KnownFrames:
    """Preprocess a few real frames."""
    source = frame_source(run.config)
    if source is None:
        return KnownFrames(arrays=None)
    allowed = allow_corrupt(run.config)
    choice = FrameChoice(KNOWN_FRAMES, batch=KNOWN_FRAMES, allow_corrupt=allowed, workers=1)
    chosen = choose_frames(run, source, choice)
    ids: list[str] = []
    parts: list[dict[str, Any]] = []
    for names, feeds in chosen:
        ids += names
        parts.append(feeds)
    if not parts:
        raise DataError(f"none of the {len(chosen)} frames taken from {source} can be read", do="replace the images")
    path = folder / "frames.npz"
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    with storage_errors(path):
        np.savez(path, **arrays)  # type: ignore[arg-type]
    return KnownFrames(arrays=Artifact.of(path, folder), ids=tuple(ids))


def frame_source(config: Config) -> Path | None:
    """Where real frames come from: calibration's, else evaluation's."""
    return config.calibration.images or config.calibration.npz or config.evaluation.images


def allow_corrupt(config: Config) -> int:
    """How many images of :func:`frame_source` may be corrupt."""
    own = config.calibration.images is not None or config.calibration.npz is not None
    return config.calibration.allow_corrupt if own else config.evaluation.allow_corrupt


def choose_frames(run: Run, source: Path, choice: FrameChoice) -> Frames:
    """Frames from a source of the config, for the inputs of the simplified graph."""
    return frames(source, run.config.preprocess, run.result("slim", Slimmed).inputs, choice)


def data_hash(run: Run, source: Path) -> Any:
    """One hash for a folder or a file; for ``module:callable`` its text and the code that it may run."""
    return run.hasher.tree(source) if source.exists() else [str(source), code_hashes(run, source)]


def evaluation_hash(run: Run) -> Any:
    """The evaluation images and what lies beside them: labels, class names."""
    settings = run.config.evaluation
    parts = [settings.images, settings.labels, settings.classes if isinstance(settings.classes, Path) else None]
    return [data_hash(run, part) for part in parts if part is not None]


def parity_key(run: Run) -> Any:
    """The model, both graphs, the tolerances and the real frames."""
    return {
        "export": export_key(run),
        "graphs": [run.result("export", Exported).model.sha256, run.result("slim", Slimmed).model.sha256],
        "parity": _dump(run.config.parity),
        "frames": _dump(run.result("frames", KnownFrames)),
        "versions": versions("torch", "onnxruntime"),
    }


def parity_work(run: Run, folder: Path) -> Parity:
    """PyTorch against ONNX; stops the run when they disagree."""
    from edgeship.prepare.parity import Request, parity, require

    known = run.result("frames", KnownFrames)
    images = []
    if known.arrays is not None and run.config.parity.images:
        with np.load(run.path("frames", known.arrays.path), allow_pickle=False) as stored:
            feeds = {name: stored[name][: run.config.parity.images] for name in stored.files}
        images.append(batch_of(feeds, run.result("slim", Slimmed).inputs, len(next(iter(feeds.values())))))
    request = Request(
        run.config.model,
        run.config.root,
        run.path("export", "model.onnx"),
        run.path("slim", "model.onnx"),
        run.config.parity,
        images,
    )
    result = parity(request)
    require(result)
    return result


def calibrate_key(run: Run) -> Any:
    """The graph, the frames, the preprocessing and the method; evaluation images for clipping and overlap."""
    settings = run.config.calibration
    source = settings.images or settings.npz
    evaluation = run.config.evaluation
    return {
        "model": run.result("slim", Slimmed).model.sha256,
        "images": data_hash(run, source) if source is not None else None,
        "evaluation": [evaluation_hash(run), evaluation.task, evaluation.limit],
        "preprocess": _dump(run.config.preprocess),
        "calibration": settings.model_dump(mode="json", exclude={"images", "npz"}),
        "cache": run.hasher.file(settings.cache) if settings.cache is not None and settings.cache.is_file() else None,
        "versions": versions("onnxruntime", "numpy"),
    }


def calibrate_work(run: Run, folder: Path) -> Calibrated:
    """Measure INT8 ranges on real frames, or check the cache that the config names."""
    from edgeship.pipeline.calibration import calibrate_from_config

    return calibrate_from_config(run, folder)


def _dump(value: Any) -> Any:
    return value.model_dump(mode="json") if value is not None else None


def require_calibration(config: Config) -> None:
    """Refuse INT8 without frames.

    Raises:
        ConfigError: No frames and no cache.
    """
    settings = config.calibration
    if settings.images is None and settings.npz is None and settings.cache is None:
        raise ConfigError(["calibration.images: missing; INT8 needs frames from the deployment camera"])
