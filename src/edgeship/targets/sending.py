"""What a trial needs on the device, sent once and by content: files, image folders, the trial's own folder."""

from __future__ import annotations

import functools
import json
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeship.data.beside import files_of
from edgeship.data.reference import is_reference
from edgeship.errors import DataError, StorageError, TargetError
from edgeship.files import read_text, sha256_bytes, sha256_file, sha256_json, walk, write_bytes, write_text
from edgeship.progress import Progress, silent
from edgeship.results import TrialSpec, trial_folder
from edgeship.targets import wire
from edgeship.targets.channel import MAX_REPLY_BYTES
from edgeship.targets.link import REPLY_S
from edgeship.targets.replies import Done, Made, Missing, Modules
from edgeship.targets.talk import Talk
from edgeship.text import byte_count

PLACE = "remote.json"
"""In the trial's folder here: its name on the device."""
SENT_SPEC = "spec.remote.json"
"""In the trial's folder here: the spec in the device's own paths."""
HASH_BYTES = 72
"""Of a sha256 in a list of JSON."""
PLACES = ("images", "labels", "classes", "label_classes")
"""Settings of the evaluation that may name files here."""
SLOWEST_DISK_BYTES_S = 5 << 20


@dataclass(frozen=True)
class Plan:
    """What a trial needs on the device. ``blobs``: sha256 → file here; the rest: relative path → sha256."""

    folder: Path
    trial: str
    spec: TrialSpec
    blobs: dict[str, Path]
    inputs: dict[str, str]
    trees: dict[str, dict[str, str]]
    places: dict[str, tuple[str, str]]
    """Config field → (tree, path in it)."""


def prepare(link: Talk, plan: Plan, progress: Progress) -> None:
    """Send what the device lacks and lay out the trial's folder."""
    _require_modules(link, plan.spec)
    send_blobs(link, plan.blobs, progress)
    paths: dict[str, str] = {}
    for label, tree in plan.trees.items():
        paths[label] = link.ask(
            {"do": "tree", "name": label, "files": tree}, Made, wait_s=_patience(len(tree) << 14)
        ).path
    spec = _remote_spec(link, plan, {name: Path(paths[label], base) for name, (label, base) in plan.places.items()})
    data = spec.model_dump_json(indent=2).encode()
    digest = sha256_bytes(data)
    local = plan.folder / SENT_SPEC
    write_bytes(local, data)
    send_blobs(link, {digest: local}, silent)
    link.ask(
        {"do": "trial", "trial": plan.trial, "files": {**plan.inputs, trial_folder.SPEC: digest}},
        Made,
        wait_s=_patience(sum((plan.folder / name).stat().st_size for name in plan.inputs)),
    )


def _require_modules(link: Talk, spec: TrialSpec) -> None:
    """Refuse before anything runs when the device lacks the code that a ``module:callable`` names.

    Raises:
        TargetError: Says which module, and how to bring it there.
    """
    named: dict[str, str] = {}
    every = {"": spec.evaluation, **spec.evaluation.tasks} if spec.evaluation is not None else {}
    for task, settings in every.items():
        for field in ("task", "decoder", "images", "labels"):
            value = getattr(settings, field)
            if value is not None and is_reference(value):
                where = ".".join(filter(None, ("evaluation", task, field)))
                named.setdefault(str(value).partition(":")[0].partition(".")[0], f'{where} = "{value}"')
    if not named:
        return
    found = link.ask({"do": "modules", "names": sorted(named)}, Modules)
    for module in sorted(named):
        if module in found.missing:
            place = shlex.quote(f"{link.host}:{found.place}/")
            where = f"{spec.target.python} on {link.host}"
            raise TargetError(
                f"{named[module]} needs the Python module {module}, which {where} does not find",
                expected="your own code where that Python looks for modules: edgeship sends data, never code",
                do=f"scp -r {module}.py {place}   (again after each change of it)",
            )


def send_blobs(link: Talk, blobs: dict[str, Path], progress: Progress) -> None:
    """Send the files, by sha256, that the device lacks. Raises StorageError where they do not fit there."""
    sizes = {digest: path.stat().st_size for digest, path in blobs.items()}
    limit = MAX_REPLY_BYTES + HASH_BYTES * len(sizes)
    said = link.ask({"do": "have", "blobs": sizes}, Missing, limit=limit, wait_s=_patience(len(sizes) << 12))
    lacking = frozenset(said.missing)
    missing = [digest for digest in sizes if digest in lacking]
    total = sum(sizes[digest] for digest in missing)
    if total > link.free:
        raise StorageError(
            f"on {link.host}: {byte_count(total)} are to be sent and {byte_count(link.free)} are free",
            do=f"free some space in {link.base} there and run the same command again",
        )
    done = 0
    for digest in missing:
        link.channel.send({"do": "blob", "sha256": digest}, blobs[digest])
        done += sizes[digest]
        progress(done >> 10, total >> 10, f"{link.host}: sending KiB")
    if missing:
        link.ask({"do": "sync"}, Done, wait_s=_patience(total))
        link.useful = True


def _remote_spec(link: Talk, plan: Plan, paths: dict[str, Path]) -> TrialSpec:
    """The spec in the device's own paths."""
    target = plan.spec.target
    plugins = tuple(paths.get(f"plugin{number}", plugin) for number, plugin in enumerate(target.plugins))
    timing = Path(link.base, "timing", target.timing_cache.name) if target.timing_cache is not None else None
    there = target.model_copy(update={"host": None, "plugins": plugins, "timing_cache": timing})
    evaluation = plan.spec.evaluation
    if evaluation is not None:
        changed: dict[str, Any] = {name: paths[name] for name in PLACES if name in paths}
        tasks = {
            name: item.model_copy(
                update={field: paths[f"{name}.{field}"] for field in PLACES if f"{name}.{field}" in paths}
            )
            for name, item in evaluation.tasks.items()
        }
        evaluation = evaluation.model_copy(update={**changed, "tasks": tasks})
    preprocess = plan.spec.preprocess
    if preprocess is not None:
        placed = {
            name: declared.model_copy(update={"calibration": None, "evaluation": paths.get(f"inputs.{name}")})
            for name, declared in preprocess.inputs.items()
        }
        preprocess = preprocess.model_copy(update={"inputs": placed})
    return plan.spec.model_copy(update={"target": there, "evaluation": evaluation, "preprocess": preprocess})


def _patience(size_bytes: int) -> float:
    """How long an answer may take for which the device reads or writes so much."""
    return REPLY_S + size_bytes / SLOWEST_DISK_BYTES_S


def plan_of(folder: Path) -> Plan:
    """What the trial in ``folder`` needs on a device.

    Raises:
        ArtifactError: The spec or a file that it names is missing or has changed.
        DataError: Images, labels or classes are not where the config says.
    """
    spec = trial_folder.read_spec(folder)
    trial_folder.verify_artifacts(folder, spec.model, spec.cache, spec.frames)
    blobs: dict[str, Path] = {}
    inputs: dict[str, str] = {}
    for artifact in (spec.model, spec.cache, spec.frames):
        if artifact is not None:
            blobs[artifact.sha256] = folder / artifact.path
            inputs[artifact.path] = artifact.sha256
    weights = folder / f"{spec.model.path}.data"
    if weights.is_file():  # of a model beyond 2 GiB
        inputs[weights.name] = sha256_file(weights)
        blobs[inputs[weights.name]] = weights
    trees: dict[str, dict[str, str]] = {}
    places: dict[str, tuple[str, str]] = {}
    for name, path in _data(spec).items():
        tree = _tree(path, blobs)
        label = sha256_json(tree)
        trees[label] = tree
        places[name] = (label, path.name)
    for name, declared in (spec.preprocess.inputs if spec.preprocess is not None else {}).items():
        whole = files_of(declared, "evaluation")
        if whole is not None and whole != declared.evaluation and declared.evaluation is not None:
            places[f"inputs.{name}"] = (places[f"inputs.{name}"][0], f"{whole.name}/{declared.evaluation.name}")
    return Plan(folder, _identity(folder), spec, blobs, inputs, trees, places)


def _identity(folder: Path) -> str:
    """The trial's own name on the device: this folder with this spec, and no other."""
    now = sha256_file(folder / trial_folder.SPEC)
    place = folder / PLACE
    if place.is_file():
        known = wire.hear(read_text(place))
        if known.get("spec") == now and isinstance(known.get("trial"), str):
            return str(known["trial"])
    trial = f"{now[:12]}-{secrets.token_hex(6)}"
    write_text(place, json.dumps({"spec": now, "trial": trial}) + "\n")
    return trial


def _data(spec: TrialSpec) -> dict[str, Path]:
    """The files and folders of the spec that lie here, by the field that names them."""
    found: dict[str, Path] = {}
    if spec.evaluation is not None:
        for task, settings in (("", spec.evaluation), *spec.evaluation.tasks.items()):
            for name in PLACES:
                value = getattr(settings, name)
                if isinstance(value, Path) and not is_reference(value):
                    found[f"{task}.{name}" if task else name] = value
        for name, declared in (spec.preprocess.inputs if spec.preprocess is not None else {}).items():
            whole = files_of(declared, "evaluation")
            if whole is not None:
                found[f"inputs.{name}"] = whole
    for number, plugin in enumerate(spec.target.plugins):
        if plugin.is_file():
            found[f"plugin{number}"] = plugin
    return found


@functools.lru_cache(maxsize=1 << 17)
def _hashed(path: str, _size: int, _changed_ns: int) -> str:
    return sha256_file(Path(path))


def _digest(path: Path) -> str:
    """A file's hash, remembered while its size and time stay: every trial of a run sends the same images."""
    stat = path.stat()
    return _hashed(str(path), stat.st_size, stat.st_mtime_ns)


def _tree(path: Path, blobs: dict[str, Path]) -> dict[str, str]:
    if path.is_file():
        digest = _digest(path)
        blobs[digest] = path
        return {path.name: digest}
    if not path.is_dir():
        raise DataError(f"{path} does not exist", do="correct the path in the config")
    tree: dict[str, str] = {}
    for item in walk(path):
        digest = _digest(item)
        blobs[digest] = item
        tree[f"{path.name}/{item.relative_to(path).as_posix()}"] = digest
    return tree
