"""fleet.toml → checked, frozen values, and each model's own config with the fleet's devices as its targets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from edgeship import config_file
from edgeship.config import Config, Count, Positive, Section, Target
from edgeship.data.reference import importable
from edgeship.errors import ConfigError, EdgeshipError, UserInputError
from edgeship.files import read_text
from edgeship.pipeline.checks import problems
from edgeship.targets.access import Access
from edgeship.targets.cluster import NAME, PREFIX
from edgeship.targets.link import is_host
from edgeship.text import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

OWN = ("host", "python", "remote_dir")
"""Settings of a target that a device sets by itself."""


class Device(Section):
    """A device, and how it is reached."""

    labels: tuple[str, ...] = ()
    """What the matrix calls it by, beside its own name."""
    where: Literal["here", "scheduler"] = "here"
    """``here``: this command starts its worker on this machine. ``scheduler``: somebody started it with
    ``edgeship worker``."""
    host: str | None = None
    """``user@name`` of a device that is reached over SSH alone: its worker, on this machine, passes trials on."""
    python: str = "python3"
    """The interpreter on the host that has edgeship's light install."""
    remote_dir: str = "edgeship-trials"
    gpu: Annotated[int, Field(ge=0)] | None = None
    """The GPU of this machine that its worker sees as ``cuda:0``. Two GPUs are two devices."""
    at_once: Count = 1
    """How many trials are on it at once: their evaluations run beside each other, whatever is timed runs alone."""
    target: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``[target]`` that hold on this device, such as ``engine`` and ``device``; the rest is the model's."""

    def names(self, own: str) -> tuple[str, ...]:
        """Its name and its labels."""
        return tuple(dict.fromkeys((own, *self.labels)))


class Scheduler(Section):
    """The cluster that devices join; without an address a local one, in this process."""

    address: str | None = None
    """``tls://host:8786``; ``tcp://`` on this machine alone."""
    ca: Path | None = None
    """PEM of the authority that signed the certificates of all sides."""
    cert: Path | None = None
    key: Path | None = None
    patience_s: Positive = 600.0
    """How long a worker that went away is waited for."""
    models_at_once: Count | None = None
    """How many models are prepared side by side. Default: 1 where a worker runs on this machine, so that nothing
    disturbs its clock, else 4."""


class Fleet(Section):
    """The whole of fleet.toml. Paths are absolute after loading."""

    models: dict[str, Path]
    """Name → the model's edgeship.toml, or its folder."""
    devices: dict[str, Device] = Field(default_factory=dict)
    matrix: dict[str, tuple[str, ...]]
    """Model → the labels (or devices) that it has to run on; each is one target."""
    scheduler: Scheduler = Scheduler()
    file: Path = Field(default=Path("fleet.toml"), exclude=True)

    def serving(self, label: str) -> dict[str, Device]:
        """The devices of the file that have a label."""
        return {name: device for name, device in self.devices.items() if label in device.names(name)}

    def labels(self) -> tuple[str, ...]:
        """Every label that the matrix names, once."""
        return tuple(dict.fromkeys(label for labels in self.matrix.values() for label in labels))

    def access(self) -> Access | None:
        """How the scheduler is reached; None: a local cluster."""
        found = self.scheduler
        return None if found.address is None else Access(found.address, found.ca, found.cert, found.key)


def load_fleet(path: Path, scheduler: dict[str, Any] | None = None) -> Fleet:
    """Read and check a fleet file; the models' own configs are read by :func:`members`.

    Args:
        path: The file.
        scheduler: Settings that replace those of ``[scheduler]``.

    Raises:
        UserInputError: Absent, or not TOML.
        ConfigError: Every problem of it, at once.
    """
    try:
        raw = tomllib.loads(read_text(path))
    except (FileNotFoundError, IsADirectoryError):
        raise UserInputError(f"no fleet file at {path}", expected="a TOML file of models, devices and matrix") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path} is not valid TOML: {error}", do="fix that line and run again") from None
    if scheduler:
        raw["scheduler"] = raw.get("scheduler", {}) | scheduler
    try:
        fleet = Fleet.model_validate({**raw, "file": path.resolve()})
    except ValidationError as error:
        raise ConfigError(config_file.problems_of(error, tables=Fleet), where=str(path)) from None
    found = list(_problems(fleet))
    if found:
        raise ConfigError(found, where=str(path))
    root, settings = path.resolve().parent, fleet.scheduler
    files = {name: root / value for name in ("ca", "cert", "key") if (value := getattr(settings, name)) is not None}
    models = {name: root / place for name, place in fleet.models.items()}
    return fleet.model_copy(update={"models": models, "scheduler": settings.model_copy(update=files)})


def _problems(fleet: Fleet) -> Iterator[str]:
    if not fleet.models:
        yield 'models: empty; name at least one, as person = "person/edgeship.toml"'
    for table, names in (("models", fleet.models), ("devices", fleet.devices)):
        wrong = [name for name in names if not NAME.fullmatch(name)]
        yield from (f"{table}.{name}: a name is letters, digits, '_', '-' or '.'" for name in wrong)
    for name in fleet.matrix:
        if name not in fleet.models:
            yield f"matrix.{name}: there is no model {did_you_mean(name, fleet.models)}"
    for name in fleet.models:
        if not fleet.matrix.get(name):
            yield f"matrix.{name}: missing; name the labels that the model has to run on"
    known = dict.fromkeys(label for name, device in fleet.devices.items() for label in device.names(name))
    for model, labels in fleet.matrix.items():
        for label in dict.fromkeys(labels):
            if labels.count(label) > 1:
                yield f"matrix.{model}: {label!r} stands twice"
            if not NAME.fullmatch(label):
                yield f"matrix.{model}: the label {label!r} must be letters, digits, '_', '-' or '.'"
            elif not fleet.serving(label) and fleet.scheduler.address is None:
                yield f"matrix.{model}: no device has the label {did_you_mean(label, known)}"
        yield from _twice(fleet, model)
    yield from _devices(fleet)


def _twice(fleet: Fleet, model: str) -> Iterator[str]:
    """Labels of a model that this machine serves with the same devices: each would be measured twice."""
    seen: dict[tuple[str, ...], str] = {}
    for label in dict.fromkeys(fleet.matrix[model]):
        devices = fleet.serving(label)
        names = tuple(sorted(devices))
        if names and all(device.where == "here" for device in devices.values()):
            if names in seen:
                both = f"{seen[names]!r} and {label!r}"
                yield f"matrix.{model}: {both} are the same devices ({', '.join(names)}); drop one"
            seen.setdefault(names, label)


def _devices(fleet: Fleet) -> Iterator[str]:
    places: dict[tuple[object, ...], str] = {}
    for name, device in fleet.devices.items():
        wrong = [key for key in device.target if key in OWN or key not in Target.model_fields]
        yield from (f"devices.{name}.target.{key}: unknown, or what the device itself sets" for key in wrong)
        if device.where == "scheduler" and (device.host or device.gpu is not None):
            yield f'devices.{name}: host and gpu are of workers that are started here; where = "scheduler" starts none'
        if device.where == "scheduler" and fleet.scheduler.address is None:
            yield f'devices.{name}: where = "scheduler", and there is none: set scheduler.address or give --scheduler'
        if device.host is not None and not is_host(device.host):
            yield f"devices.{name}.host: {device.host!r} is not a name that ssh takes, such as user@name"
        if device.at_once > 1 and (device.host or device.where == "scheduler"):
            yield f"devices.{name}.at_once: of workers that run trials here; elsewhere: edgeship worker --at-once"
        place = _place(name, device)
        if place in places:
            yield f"devices.{name} is devices.{places[place]} again: one device cannot be timed by two workers"
        places.setdefault(place, name)
    for label in fleet.labels():
        settings = {name: device.target for name, device in fleet.serving(label).items()}
        if len({repr(sorted(value.items())) for value in settings.values()}) > 1:
            yield f"the label {label!r} is of devices with unequal target settings ({', '.join(settings)})"


def _place(name: str, device: Device) -> tuple[object, ...]:
    """What a device is, so far as the file tells: a host, a GPU of this machine, or a device of its own."""
    own = str(device.target.get("device", ""))
    if device.where == "scheduler":
        return (name,)
    if device.host:
        return ("host", device.host)
    if device.gpu is None and own.startswith("cuda:") and own[5:].isdecimal():
        return ("gpu", int(own[5:]))
    return ("gpu", device.gpu) if device.gpu is not None else (name,)


def members(fleet: Fleet) -> dict[str, Config]:
    """Each model's config with its labels as targets, every one checked.

    Raises:
        ConfigError: What is wrong with any of them, all at once.
    """
    found: dict[str, Config] = {}
    wrong: list[str] = []
    for name, place in fleet.models.items():
        try:
            found[name] = member(fleet, name, fleet.matrix[name])
            with importable(found[name].root):
                errors = problems(found[name])
        except EdgeshipError as error:
            errors = [error]
        wrong += [f"{name} ({place}): {line}" for error in errors for line in _lines(error)]
    if wrong:
        raise ConfigError(wrong, where=str(fleet.file))
    return found


def _lines(error: EdgeshipError) -> tuple[str, ...]:
    if isinstance(error, ConfigError):
        return error.problems
    return ("; ".join(part for part in (error.found, error.do and f"do: {error.do}") if part),)


def member(fleet: Fleet, name: str, labels: tuple[str, ...]) -> Config:
    """A model's config with labels as its targets: the model's own settings, with those of the device.

    Raises:
        UserInputError: The file is absent or not TOML.
        ConfigError: Every problem of it.
    """
    own = config_file.load(fleet.models[name])
    raw = tomllib.loads(read_text(own.file))
    single, named = raw.pop("target", {}), raw.pop("targets", {})
    targets = {}
    for label in labels:
        given = {key: value for key, value in named.get(label, single).items() if key not in OWN}
        device = next((item.target for item in fleet.serving(label).values()), {})
        targets[label] = given | device | {"host": f"{PREFIX}{label}"}
    raw["targets"] = targets
    raw["model"] = {"name": name} | raw["model"]
    return config_file.check(raw, own.file)
