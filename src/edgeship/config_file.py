"""edgeship.toml → a checked :class:`edgeship.config.Config`. Every problem of a file is reported at once."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edgeship.config import (
    BUILT_IN_ENGINES,
    LOW_CONFIDENCE,
    Config,
    Section,
    Target,
    baselines_for,
    is_tensorrt,
    takes_tensorrt_graphs,
)
from edgeship.config_tables import as_written, gathered
from edgeship.errors import ConfigError, UserInputError
from edgeship.files import read_bytes
from edgeship.plugins import DECODERS, ENGINES, TASKS, offered
from edgeship.text import nearest, other_encoding

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

PLUGINS = {"task": TASKS, "decoder": DECODERS}
"""Setting of ``[evaluation]`` → the group of entry points whose names it takes."""
FILE = "edgeship.toml"
"""The name of a config file."""


def load(path: Path, changes: Sequence[str] = ()) -> Config:
    """Read and check a config file.

    Args:
        path: The file, or a folder that holds an ``edgeship.toml``.
        changes: Settings that replace those of the file, such as ``gate.max_drop.top1=0.01``; a value is TOML, or a
            word.

    Raises:
        UserInputError: The file is absent or not TOML, or a change is not ``key=value``.
        ConfigError: Every unknown key and wrong value, at once.
    """
    if path.is_dir():
        if not (path / FILE).is_file():
            raise UserInputError(f"{path} is a folder without {FILE}", expected="a config file", do="edgeship init")
        path = path / FILE
    try:
        raw = tomllib.loads(_text(path))
    except FileNotFoundError:
        raise UserInputError(f"no config file at {path}", do="edgeship init") from None
    except PermissionError:
        raise UserInputError(f"{path} cannot be read", do="change its permissions") from None
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"{path} is not valid TOML: {error}", do="fix that line and run again") from None
    for change in changes:
        _change(raw, change)
    return check(raw, path)


def _text(path: Path) -> str:
    """A config file's text. Raises UserInputError where it is not UTF-8, and OSError."""
    data = read_bytes(path)
    looks = other_encoding(data)
    if looks:
        raise UserInputError(
            f"{path} is not UTF-8 text: {looks}", expected="TOML in UTF-8", do="save it as UTF-8 and run again"
        )
    return data.decode("utf-8-sig")


def check(raw: dict[str, Any], path: Path) -> Config:
    """The config that the tables of ``path`` say; relative paths are those of its folder. Raises ConfigError."""
    reserved = [f"{key}: unknown key" for key in ("root", "file") if key in raw]
    if reserved:
        raise ConfigError(reserved, where=str(path))
    root = path.resolve().parent
    stray: list[str] = []
    try:
        tables = {**gathered(raw, stray), "root": root, "file": path.resolve()}
        config = Config.model_validate(tables, context={"engines": _engines})
    except ValidationError as error:
        raise ConfigError([*stray, *problems_of(error)], where=str(path)) from None
    if stray:
        raise ConfigError(stray, where=str(path))
    problems = _cross_checks(config, raw)
    if problems:
        raise ConfigError(problems, where=str(path))
    return _absolute(_with_plugins(config), root)


def _engines() -> tuple[str, ...]:
    """The engines that a config may name."""
    return tuple(dict.fromkeys((*BUILT_IN_ENGINES, *offered(ENGINES))))


def _with_plugins(config: Config) -> Config:
    """The config with a task and a decoder that installed packages offer by name as ``module:callable``."""
    found: dict[str, str] = {}
    for field, group in PLUGINS.items():
        name = getattr(config.evaluation, field)
        if name is not None and not _is_reference(name):
            place = offered(group).get(name)
            found |= {field: place} if place is not None else {}
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=found)}) if found else config


def _change(raw: dict[str, Any], change: str) -> None:
    """Put one ``table.key=value`` into the tables of a file."""
    key, separator, text = change.partition("=")
    *tables, name = (part.strip() for part in key.split("."))
    if not separator or not name or not all(tables):
        raise UserInputError(f"--set {change!r} is not key=value", expected="--set gate.max_drop.top1=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    place = raw
    for table in tables:
        inner = place.setdefault(table, {})
        if not isinstance(inner, dict):
            raise UserInputError(f"--set {change!r}: {table} is not a table", expected="--set table.key=value")
        place = inner
    place[name] = value


TABLES = frozenset(("model_type", "dict_type", "model_attributes_type"))
LISTS = frozenset(("tuple_type", "list_type"))
"""Kinds of pydantic's errors whose sentences are Python's."""


def problems_of(error: ValidationError, whole: str = "", tables: type[BaseModel] = Config) -> list[str]:
    """A line for each thing that pydantic refuses, with what was found.

    Args:
        error: What pydantic says.
        whole: What a value by itself is called.
        tables: What the file's tables are.
    """
    found = []
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        where = ".".join(as_written(location)) or whole
        if item["type"] == "extra_forbidden":
            known = _siblings(location[:-1], tables)
            guess = nearest(location[-1], known)
            hint = f"did you mean {guess!r}?" if guess else f"known here: {', '.join(sorted(known))}"
            found.append(f"{where}: unknown key; {hint}")
        elif item["type"] == "missing":
            found.append(f"{where}: missing")
        elif item["type"] in TABLES | LISTS:
            kind = "a list, in [ ]" if item["type"] in LISTS else "a table"
            found.append(f"{where}: should be {kind}, found {item['input']!r}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            value = item["input"]
            shown = "" if isinstance(value, dict) else f", found {value!r}"
            found.append(f"{where}: {message}{shown}{_nearest_choice(item, value)}")
    return list(dict.fromkeys(found))


def _nearest_choice(item: Any, value: object) -> str:
    expected = str(item.get("ctx", {}).get("expected", ""))
    choices = [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]
    match = nearest(str(value), choices)
    return f"; did you mean {match!r}?" if match else ""


def _siblings(location: list[str], tables: type[BaseModel]) -> list[str]:
    """The valid keys of the table at ``location``."""
    model = tables
    for part in location:
        if part not in model.model_fields:
            continue
        inner = _section_type(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items() if name not in ("root", "file")]


def _section_type(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_type(argument)
        if found is not None:
            return found
    return None


def _cross_checks(config: Config, raw: dict[str, Any]) -> list[str]:
    found = []
    if config.targets and "target" in raw:
        found.append("target and targets: use one of the two")
    quantized: list[str] = [p for p in config.candidates.precisions if p not in ("fp32", "fp16", "bf16")]
    quantized += [f"int8-{entry}" for entry in config.candidates.repair]
    sources = [config.calibration.images, config.calibration.npz, config.calibration.cache]
    if config.candidates.repair and config.calibration.cache and not any(sources[:2]):
        found.append("calibration.images: missing, and candidates.repair looks at frames; a cache holds only ranges")
    if (quantized or config.candidates.search) and not any(sources):
        found.append(
            f"calibration.images: missing, and candidates.precisions asks for {', '.join(quantized) or 'a search'}; "
            "INT8 needs frames from the deployment camera (random data is never used)"
        )
    if (config.calibration.images or config.calibration.npz) and config.calibration.images and not config.preprocess:
        found.append("preprocess: missing; images need it (calibration, evaluation and the vehicle share it)")
    gate = config.gate
    budgets = [("p50", gate.latency_p50_ms), ("p90", gate.latency_p90_ms), ("p99", gate.latency_p99_ms)]
    known = [(name, value) for name, value in budgets if value is not None]
    for (low, a), (high, b) in itertools.pairwise(known):
        if a > b:
            found.append(
                f"gate.latency_{low}_ms = {a} and gate.latency_{high}_ms = {b} contradict: {low} is never over {high}"
            )
    if ":" not in config.evaluation.task:
        tables = {"max_drop": gate.max_drop, "critical": gate.critical, "min": gate.min}
        for table, limits in tables.items():
            effect = "asks for what nothing reaches" if table == "min" else "allows to lose everything"
            found += [
                f"gate.{table}.{name} = {limit:g}: limits are fractions of 1, so this {effect}; "
                f"{limit:g} points are {limit / 100:g}"
                for name, limit in limits.items()
                if limit >= 1
            ]
    measured = config.evaluation.images is not None
    rules_on_images = ("max_drop", "critical", "min", "max", "critical_min", "frame_p99_ms", "fps")
    needs = [name for name in rules_on_images if getattr(gate, name)]
    if needs and not measured:
        found.append(f"evaluation.images: missing, and gate.{needs[0]} needs labelled images")
    if (gate.frame_p99_ms or gate.fps) and measured and config.preprocess is None:
        found.append("preprocess: missing, and gate.frame_p99_ms and gate.fps time whole frames, from the image on")
    if gate.confidence < LOW_CONFIDENCE and not gate.accept_low_confidence:
        found.append(
            f"gate.confidence: {gate.confidence:g} lets one SHIP in {1 / max(1 - gate.confidence, 1e-9):.2g} be false; "
            "use 0.95, or say that you mean it with accept_low_confidence = true"
        )
    found += [*_baseline_problems(config), *_release_problems(config), *_qat_problems(config)]
    unheard = sorted(config.track.model_fields_set - {"mlflow", "plugins"})
    if unheard and not config.track.places():
        found.append(f"track.{unheard[0]}: no tracker is named that would be told; set track.mlflow or track.plugins")
    found += _autotune_problems(config)
    for name, target in config.all_targets().items():
        label = "target" if not config.targets else f"targets.{name}"
        found += _target_problems(label, target, config)
    return found


def _target_problems(label: str, target: Target, config: Config) -> list[str]:
    """What a target cannot do of what is asked for."""
    found, gate = _engine_problems(label, target, config), config.gate
    if gate.clock == "device" and not target.device.startswith("cuda"):
        found.append(
            f'gate.clock: "device" reads the device\'s own clock, and {label}.device = {target.device!r} has none; '
            'use "wall" or "auto"'
        )
    if (gate.energy_mj_per_frame or gate.power_w) and target.device.startswith(("gpu", "npu")):
        found.append(f"gate.energy_mj_per_frame, power_w: nothing measures the energy of {label}.device here")
    if target.engine != "tensorrt-rtx" and target.compute_capability:
        found.append(f"{label}.compute_capability: only tensorrt-rtx builds ahead of time for other GPUs")
    return found


def _engine_problems(label: str, target: Target, config: Config) -> list[str]:
    """What of device and precisions the engine of a target does not have."""
    found = []
    engine, device, asked = target.engine, target.device, config.candidates.precisions
    if not is_tensorrt(engine) and "implicit" in asked:
        found.append(f"candidates.precisions: implicit is TensorRT 10's, {label}.engine is {engine}; use int8")
    if engine != "openvino" and "bf16" in asked:
        found.append(f"candidates.precisions: bf16 is OpenVINO's, {label}.engine is {engine}; use fp16")
    if engine == "openvino" and device.startswith("cuda"):
        found.append(f'{label}.device: openvino runs on "cpu", Intel\'s "gpu" and "npu", found {device!r}')
    elif engine == "onnxruntime" and device.startswith(("gpu", "npu")):
        found.append(f'{label}.device: {device!r} is OpenVINO\'s; use engine = "openvino", or "cpu" or "cuda:0"')
    elif takes_tensorrt_graphs(engine) and not device.startswith("cuda"):
        found.append(f'{label}.device: {engine} runs on a GPU, found {device!r}; use "cuda:0"')
    return found


def _autotune_problems(config: Config) -> list[str]:
    """A budget for ModelOpt's autotune that no target can spend."""
    if config.candidates.autotune_s is None:
        return []
    found = []
    if not any(target.engine == "tensorrt" and target.host is None for target in config.all_targets().values()):
        found.append(
            "candidates.autotune_s: ModelOpt measures with TensorRT on this machine, and no target has "
            'engine = "tensorrt" without a host; remove it, or run ship on the device'
        )
    if "int8" not in config.candidates.precisions:
        found.append('candidates.autotune_s: the placement is that of "int8", which candidates.precisions lacks')
    return found


def _baseline_problems(config: Config) -> list[str]:
    """Baselines that no target can run."""
    wanted = config.benchmark.baseline
    if not wanted:
        return []
    if Path(config.model.source).suffix == ".onnx":
        return [f"benchmark.baseline: model.source is {config.model.source}, and PyTorch runs no ONNX file; remove one"]
    devices = dict.fromkeys(target.device for target in config.all_targets().values() if target.host is None)
    if not devices:
        return ["benchmark.baseline: PyTorch is timed on targets of this machine, and every target names a host"]
    known = list(dict.fromkeys(name for device in devices for name in baselines_for(device)))
    return [
        f"benchmark.baseline: {name} does not run on {', '.join(devices)}; use {', '.join(known)}"
        for name in wanted
        if name not in known
    ]


def _qat_problems(config: Config) -> list[str]:
    """What training lacks."""
    if config.qat is None:
        return []
    found = []
    if Path(config.model.source).suffix in (".onnx", ".pt2"):
        found.append(
            f"qat: model.source is {config.model.source}, whose weights cannot be trained and exported again; "
            'write source = "module:callable" and weights = "file.safetensors"'
        )
    sources = [config.calibration.images, config.calibration.npz, config.calibration.cache]
    if not any(sources):
        found.append("calibration.images: missing; qat starts from calibrated ranges")
    if config.qat.images is None and config.qat.data is None and not any(sources[:2]):
        found.append("qat.images: missing, and there are no calibration frames to distill on")
    return found


def _release_problems(config: Config) -> list[str]:
    """What the comparison with the release in the field lacks."""
    gate = config.gate
    if gate.baseline is None:
        return []
    found = []
    if config.evaluation.images is None:
        found.append("evaluation.images: missing, and gate.baseline compares on the release's own labelled images")
    if not gate.max_drop and not gate.critical:
        found.append("gate.baseline: no limit says how much may be lost against it; set gate.max_drop or gate.critical")
    return found


def _absolute(config: Config, root: Path) -> Config:
    """Make every relative path of the file relative to the file."""

    def walk(value: Any) -> Any:
        if isinstance(value, Path) and value != root:
            whole = value.expanduser() if str(value).startswith("~") else value
            return whole if whole.is_absolute() or _is_reference(str(whole)) else root / whole
        if isinstance(value, Section):
            return value.model_copy(update={name: walk(getattr(value, name)) for name in type(value).model_fields})
        if isinstance(value, tuple):
            return tuple(walk(item) for item in value)
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        return value

    result: Config = walk(config)
    source = Path(result.model.source)
    if source.suffix in (".onnx", ".pt2"):
        model = result.model.model_copy(update={"source": str(walk(source))})
        result = result.model_copy(update={"model": model})
    return result


def _is_reference(text: str) -> bool:
    """Whether a value is ``module:callable`` rather than a path."""
    module, separator, name = text.partition(":")
    return bool(separator) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))
