"""What is checked before anything long begins: every problem of the config, its files and this machine, at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeship import engines, metrics, tracking
from edgeship.config import Config, Gate, Preprocess, Target
from edgeship.data import datasets
from edgeship.data.beside import Which, beside, check_cameras, require_declared, single
from edgeship.data.dataset import Dataset
from edgeship.data.feeds import fixed_batch
from edgeship.data.frames import image_files
from edgeship.data.memory import require_pairs
from edgeship.data.preprocess import input_size
from edgeship.data.reference import is_reference
from edgeship.data.rows import names_of
from edgeship.decide import several
from edgeship.decide.limits import unknown_class_metric, unknown_names
from edgeship.engines.onnx_file import read_inputs
from edgeship.errors import ConfigError, DataError, DeviceError, EdgeshipError, ModelError
from edgeship.metrics import Task
from edgeship.pipeline.candidates import sized
from edgeship.pipeline.machines import machine_of
from edgeship.pipeline.past import check_history
from edgeship.pipeline.release_checks import check_release
from edgeship.pipeline.stages import Run, Step
from edgeship.prepare.graph import read_onnx
from edgeship.prepare.model import require_reference
from edgeship.results import TensorInfo
from edgeship.text import did_you_mean
from edgeship.trial.energy import measures_energy, meter_for


def check_data(config: Config, out: Path | None = None) -> None:
    """Look at everything that the config names, before anything long begins; ``out`` is the run's folder.

    Raises:
        EdgeshipError: The only problem found.
        ConfigError: Every problem, where there are several.
    """
    _raise(problems(config, out), config)


def _raise(found: list[EdgeshipError], config: Config) -> None:
    if len(found) == 1:
        raise found[0]
    if found:
        raise ConfigError([line for error in found for line in _sentences(error)], where=str(config.file))


def problems(config: Config, out: Path | None = None) -> list[EdgeshipError]:
    """What would stop a run: paths, labels, names in the rules, shapes, profiles, the release to compare with."""
    found: list[EdgeshipError] = []
    steps = (
        _check_model,
        _check_calibration,
        _check_evaluation,
        _check_inputs,
        _check_outputs,
        _check_files,
        _check_qat,
    )
    for check in steps:
        with _noted(found):
            check(config)
    if not found:  # a wrong path or label would be told twice
        with _noted(found):
            check_history(config)
        with _noted(found):
            tracking.check(config.track)
        with _noted(found):
            check_release(config, out)
    return found


@contextmanager
def _noted(found: list[EdgeshipError], failed: list[str] | None = None, name: str = "") -> Iterator[None]:
    """Keep an error for later, and the name of what failed."""
    try:
        yield
    except EdgeshipError as error:
        found.append(error)
        if failed is not None:
            failed.append(name)


def _sentences(error: EdgeshipError) -> tuple[str, ...]:
    if isinstance(error, ConfigError):
        return error.problems
    parts = (error.found, error.expected and f"expected {error.expected}", error.do and f"do: {error.do}")
    return ("; ".join(part for part in parts if part),)


def _check_model(config: Config) -> None:
    source = Path(config.model.source)
    if source.suffix in (".onnx", ".pt2"):
        if not source.is_file():
            raise ModelError(f"model.source: no file at {source}", do="fix model.source")
        if source.suffix == ".onnx":
            read_onnx(source)
    else:
        require_reference(config.model.source)
        _require_module(config, "model.source", config.model.source)
    weights = config.model.weights
    if weights is not None and not weights.is_file():
        raise ModelError(f"model.weights: no file at {weights}", do="fix model.weights")


def _require_module(config: Config, key: str, reference: str) -> None:
    """Refuse a ``module:callable`` whose module is neither beside the config nor installed."""
    top = reference.partition(":")[0].partition(".")[0]
    if not any((config.root / name).exists() for name in (f"{top}.py", top)) and not _installed(top):
        raise ModelError(
            f"{key}: there is no module {top!r}",
            expected=f"{top}.py beside {config.file.name}, or an installed package",
            do=f"fix {key}, or put its folder on PYTHONPATH",
        )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _check_calibration(config: Config) -> None:
    settings = config.calibration
    if settings.images is not None and not is_reference(settings.images):
        image_files(settings.images)
    if settings.npz is not None and not settings.npz.is_file():
        raise DataError(f"no calibration frames at {settings.npz}", do="fix calibration.npz, or set calibration.images")
    if settings.cache is not None and not settings.cache.is_file():
        raise DataError(f"no calibration cache at {settings.cache}", do="fix calibration.cache")


def _check_evaluation(config: Config) -> None:
    task = metrics.get(config.evaluation.task)
    if config.evaluation.images is None:
        return
    if config.preprocess is None:
        raise ConfigError(["preprocess: missing; evaluation images need it"])
    check_gate(config, task, datasets.open_dataset(config.evaluation))


def check_gate(config: Config, task: Task, dataset: Dataset) -> None:
    """Refuse rules about metrics and classes that the evaluation will not give, as far as its labels tell.

    Names that are only numbers may be extended by the model's outputs: those are checked when the gate judges.

    Raises:
        ConfigError: Every such name, with the nearest one that is there.
    """
    if config.evaluation.tasks:
        wrong = several.unnamed(config.gate, config.evaluation.tasks)
        for name, settings in config.evaluation.tasks.items():
            own, part = several.gate_of(config.gate, name), dataset.parts[name]
            wrong += [f"{name}: {problem}" for problem in _unknown(own, metrics.get(settings.task), part)]
    else:
        wrong = _unknown(config.gate, task, dataset)
    if wrong:
        raise ConfigError(wrong, where=str(config.file))


def _unknown(rules: Gate, task: Task, dataset: Dataset) -> list[str]:
    """What the rules name that this task's evaluation will not give."""
    classes = None if dataset.numbered or not dataset.classes else dataset.classes
    wrong = unknown_class_metric(rules, task)
    return [*wrong, *unknown_names(rules, task.metric_names(classes), classes)]


def declared_inputs(config: Config) -> tuple[TensorInfo, ...]:
    """The model's inputs as its ONNX file or the config has them; empty where neither tells."""
    source = Path(config.model.source)
    if source.suffix == ".onnx" and source.is_file():
        return read_inputs(source)[0]
    return tuple(
        TensorInfo(name=name, shape=spec.shape, dtype=spec.dtype) for name, spec in config.model.inputs.items()
    )


def declared_outputs(config: Config) -> tuple[TensorInfo, ...]:
    """The outputs of an ONNX source; empty where the model is still to be exported."""
    source = Path(config.model.source)
    return read_inputs(source)[1] if source.suffix == ".onnx" and source.is_file() else ()


def _check_inputs(config: Config) -> None:
    inputs = declared_inputs(config)
    if not inputs:
        return
    if config.preprocess is not None:
        _check_feeding(config, config.preprocess, inputs)
    declared = config.preprocess.inputs if config.preprocess is not None else {}
    fixed = [info for info in inputs if info.shape and isinstance(info.shape[0], int)]
    fixed = [info for info in fixed if info.name not in declared or declared[info.name].origin == "images"]
    wrong = []
    for name, target in config.all_targets().items():
        where = "target" if not config.targets else f"targets.{name}"
        wrong += [f"{where}.{problem}" for problem in _profile_problems(target, inputs, fixed)]
    if wrong:
        raise ConfigError(wrong, where=str(config.file))
    for target in config.all_targets().values():
        sized(target, inputs, config.preprocess)


def _check_outputs(config: Config) -> None:
    """Outputs that a task names are the model's, where its file tells them."""
    tasks = {f".{name}": item for name, item in config.evaluation.tasks.items()} or {"": config.evaluation}
    named = [
        (f"evaluation{name}.{key}", given)
        for name, item in tasks.items()
        for key, names in (("output", (item.output,)), ("outputs", item.outputs))
        for given in names
        if given is not None
    ]
    known = [info.name for info in declared_outputs(config)] if named else []
    wrong = [
        f"{key}: the model has no output {did_you_mean(given, known)}"
        for key, given in named
        if known and given not in known
    ]
    if wrong:
        raise ConfigError(wrong, where=str(config.file))


def _check_feeding(config: Config, steps: Preprocess, inputs: tuple[TensorInfo, ...]) -> None:
    """Every input takes the image or is declared, and what is declared is there for every image."""
    sets: tuple[tuple[Which, Path | None], ...] = (
        ("calibration", config.calibration.images),
        ("evaluation", config.evaluation.images),
    )
    if all(place is None for _, place in sets):
        return
    input_size(require_declared(inputs, steps), steps)
    for which, place in sets if steps.inputs else ():
        if place is not None:
            check_cameras(steps, which, place)
            beside(inputs, steps, which, _ids(config, which, place))
    outputs = declared_outputs(config)
    if outputs:
        require_pairs(inputs, outputs, steps)
    fixed = fixed_batch(inputs)
    if steps.state and fixed is not None and fixed > 1:
        raise DataError(
            f"[state] is the memory of one sequence, and the model takes {fixed} images at once",
            do="export the model with a batch of 1",
        )
    one = single(inputs, steps)
    for name, target in config.all_targets().items() if one else ():
        if target.batch.max > 1:
            where = "target" if not config.targets else f"targets.{name}"
            shape = next(list(info.shape) for info in inputs if info.name == one)
            memory = steps.state and "is memory, which one sequence at a time fills; set batch"
            raise ConfigError(
                [
                    f"{where}.batch: max is {target.batch.max}, and input {one!r} {shape} "
                    + (memory or "differs from image to image and has no batch axis; export it with one, or set batch")
                    + " = { min = 1, opt = 1, max = 1 }"
                ],
                where=str(config.file),
            )


def _ids(config: Config, which: Which, place: Path) -> tuple[str, ...]:
    """The images of a set, as far as they are known without running the user's code twice."""
    if is_reference(place) or place.suffix == ".npz":
        return ()
    if which == "evaluation":
        return names_of(datasets.open_dataset(config.evaluation).items)
    return tuple(path.relative_to(place).as_posix() for path in image_files(place))


def _profile_problems(target: Target, inputs: tuple[TensorInfo, ...], fixed: list[TensorInfo]) -> list[str]:
    """What a target's profiles ask of axes that the model does not have; ``fixed``: inputs of a fixed batch."""
    names = {info.name: info for info in inputs}
    found = [
        f"shapes.{name}: the model has no such input; it has {', '.join(names)}"
        for name in target.shapes
        if name not in names
    ]
    for name, given in target.shapes.items():
        if name in names and {len(given.min), len(given.opt), len(given.max)} != {len(names[name].shape)}:
            found.append(f"shapes.{name}: the input has {len(names[name].shape)} axes: {list(names[name].shape)}")
    for info in fixed:
        if target.batch.max > int(info.shape[0]):
            found.append(
                f"batch: max is {target.batch.max}, and input {info.name!r} has a fixed batch of {info.shape[0]}; "
                "export the model with a dynamic batch, or set that batch"
            )
    return found


def _check_qat(config: Config) -> None:
    """Refuse frames, loaders and steps that are not there before anything is exported."""
    settings = config.qat
    if settings is None:
        return
    if settings.images is not None and not is_reference(settings.images):
        if settings.images.suffix != ".npz":
            image_files(settings.images)
        elif not settings.images.is_file():
            raise DataError(f"no frames to train on at {settings.images}", do="fix qat.images")
    step = settings.step if settings.step != "distill" else None
    named = {"qat.step": step, "qat.data": settings.data, "qat.validation": settings.validation}
    for key, reference in named.items():
        if reference is not None:
            _require_module(config, key, reference)


def _check_files(config: Config) -> None:
    wrong = []
    for name, target in config.all_targets().items():
        where = "target" if not config.targets else f"targets.{name}"
        if target.host is None:
            wrong += [f"{where}.plugins: no file at {path}" for path in target.plugins if not path.is_file()]
    if wrong:
        raise ConfigError(wrong, where=str(config.file))


def open_targets(run: Run) -> None:
    """Ask every target what it is, so that a host or device that is not there is told before anything long begins.

    A target here is asked for its meter too, where a rule judges energy.

    Raises:
        EdgeshipError: The only problem found: a host that cannot be reached, a device that is not there.
        ConfigError: Every problem, where there are several. Both name the targets that they concern.
    """
    found: list[EdgeshipError] = []
    failed: list[str] = []
    for name, target in run.config.all_targets().items():
        where = "target" if not run.config.targets else f"targets.{name}"
        with _noted(found, failed, name):
            told = machine_of(run, target)
            why = told.get("reason", told.get("identity"))
            if isinstance(why, str) and target.via == "api":  # trtexec needs no TensorRT for Python
                raise DeviceError(
                    f"{where}: {target.engine} on {target.device!r} cannot run: {why}",
                    do=f"fix {where}.engine or {where}.device; edgeship doctor",
                )
            if target.host is None and measures_energy(run.config.gate):
                meter_for(target.device).close()
    try:
        _raise(found, run.config)
    except EdgeshipError as error:
        error.targets = tuple(failed)
        raise


def machine_warnings(config: Config) -> list[str]:
    """Which engines of local targets do not work on this machine."""
    found = []
    for name, target in config.all_targets().items():
        if target.host is None:
            probe = engines.get(target.engine).probe()
            if not probe.available:
                found.append(f"target {name}: {target.engine} cannot run here: {probe.reason}")
    return found


CHECK = Step("check", lambda run: check_data(run.config, run.folder))
TARGETS = Step("targets", open_targets)
