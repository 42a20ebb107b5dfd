"""Trials on another machine over the system's ``ssh``, with the user's own configuration, keys and known hosts.

The device needs edgeship's light install. Files go there once, by content. The trial runs there in a detached
process, so a dropped connection costs nothing: the next one picks up where it is. Results come back by hash, and
``trial.json`` is written here last.
"""

from __future__ import annotations

import functools
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgeship.bundle.manifest import check_path
from edgeship.config import Target
from edgeship.data.reference import is_reference
from edgeship.errors import ArtifactError, DataError, StorageError, TargetError
from edgeship.files import (
    open_own,
    read_text,
    sha256_bytes,
    sha256_file,
    sha256_json,
    storage_errors,
    write_bytes,
    write_text,
)
from edgeship.progress import Progress, silent
from edgeship.results import Trial, TrialSpec, read, trial_folder
from edgeship.targets import wire
from edgeship.targets.channel import Closed, Malformed
from edgeship.targets.link import Link, borrowed, stop_trial, wait

PATIENCE_S = 600.0
"""How long a device that was reached before may be away: it reboots, or the network fails."""
MAX_RESULT_BYTES = 16 << 30
PLACE = "remote.json"
R = TypeVar("R")


@dataclass(frozen=True)
class _Plan:
    """What a trial needs on the device. ``blobs``: sha256 → file here; the rest: relative path → sha256."""

    folder: Path
    trial: str
    spec: TrialSpec
    blobs: dict[str, Path]
    inputs: dict[str, str]
    trees: dict[str, dict[str, str]]
    places: dict[str, tuple[str, str]]
    """Config field → (tree, path in it)."""


def run(target: Target, folder: Path, progress: Progress = silent, *, timeout_s: float | None = None) -> Trial:
    """Run the trial in ``folder`` on ``target.host``.

    Raises:
        TargetError: The host cannot be reached, refuses us, or lacks the light install.
        StorageError: No space left, here or there. Run again: it continues.
        EdgeshipError: What stopped the trial there and is not the candidate's fault.
    """
    finished = _collected(folder)
    if finished is not None:
        return finished
    plan = _plan(folder)

    def work(link: Link) -> Trial:
        _prepare(link, plan, progress)
        _follow(link, plan, progress, timeout_s)
        return _collect(link, plan, progress)

    try:
        return _persist(target, work, lambda: _collected(folder), progress)
    except KeyboardInterrupt:
        stop_trial(target, plan.trial)
        raise


def machine(target: Target, progress: Progress = silent) -> dict[str, Any]:
    """What trials on ``target.host`` are bound to, as the device says now. Raises TargetError as :func:`run` does."""

    def work(link: Link) -> dict[str, Any]:
        request = {"do": "machine", "engine": target.engine, "device": target.device, "via": target.via}
        return dict(_ask(link, request)["machine"])

    return _persist(target, work, lambda: None, progress)


def _collected(folder: Path) -> Trial | None:
    """The trial of this spec, where its results have come back."""
    return trial_folder.finished_for_spec(folder)


def _persist(target: Target, work: Callable[[Link], R], done: Callable[[], R | None], progress: Progress) -> R:
    """Do ``work`` over one connection, or as many as it takes until ``done``."""
    last_contact = time.monotonic()
    pause = 0.5
    while True:
        try:
            with borrowed(target) as link:
                pause = 0.5
                try:
                    return work(link)
                finally:
                    last_contact = time.monotonic()
        except Malformed as error:
            raise TargetError(
                f"{target.host} stopped speaking edgeship's own words: {error}",
                do="look at what its Python prints, then run the same command again: finished trials are kept",
            ) from None
        except Closed as error:
            finished = done()
            if finished is not None:
                return finished
            if time.monotonic() - last_contact > PATIENCE_S:
                raise TargetError(
                    f"{target.host} has been away for {PATIENCE_S:g} s: {error}",
                    do="bring it back and run the same command again: finished trials are kept, a running one goes on",
                ) from None
            progress(0, None, f"{target.host}: connection lost, trying again")
            wait(pause)
            pause = min(pause * 1.5, 10.0)


def _plan(folder: Path) -> _Plan:
    spec = trial_folder.read_spec(folder)
    trial_folder.verify_artifacts(folder, spec.model, spec.cache, spec.frames)
    blobs: dict[str, Path] = {}
    inputs: dict[str, str] = {}
    for artifact in (spec.model, spec.cache, spec.frames):
        if artifact is not None:
            blobs[artifact.sha256] = folder / artifact.path
            inputs[artifact.path] = artifact.sha256
    trees: dict[str, dict[str, str]] = {}
    places: dict[str, tuple[str, str]] = {}
    for name, path in _data(spec).items():
        tree = _tree(path, blobs)
        label = sha256_json(tree)
        trees[label] = tree
        places[name] = (label, path.name)
    return _Plan(folder, _identity(folder), spec, blobs, inputs, trees, places)


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
        for name in ("images", "labels", "classes"):
            value = getattr(spec.evaluation, name)
            if isinstance(value, Path) and not is_reference(value):
                found[name] = value
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
        raise DataError(f"{path} does not exist", do="mend the path in the config")
    tree: dict[str, str] = {}
    for item in sorted(path.rglob("*")):
        relative = item.relative_to(path)
        if item.is_file() and not any(part.startswith(".") for part in relative.parts):
            digest = _digest(item)
            blobs[digest] = item
            tree[f"{path.name}/{relative.as_posix()}"] = digest
    return tree


def _ask(link: Link, request: dict[str, Any]) -> dict[str, Any]:
    link.channel.send(request)
    reply = link.channel.receive()
    assert reply is not None
    _raise(link, reply)
    return reply


def _raise(link: Link, message: dict[str, Any]) -> None:
    error = wire.revive(message)
    if error is not None:
        error.found = f"on {link.host}: {error.found}"
        raise error


def _prepare(link: Link, plan: _Plan, progress: Progress) -> None:
    """Send what the device lacks and lay out the trial's folder."""
    _require_modules(link, plan.spec)
    _send_blobs(link, plan.blobs, progress)
    paths: dict[str, str] = {}
    for label, tree in plan.trees.items():
        paths[label] = str(_ask(link, {"do": "tree", "name": label, "files": tree})["path"])
    spec = _remote_spec(link, plan, {name: Path(paths[label], base) for name, (label, base) in plan.places.items()})
    data = spec.model_dump_json(indent=2).encode()
    digest = sha256_bytes(data)
    local = plan.folder / "spec.remote.json"
    write_bytes(local, data)
    _send_blobs(link, {digest: local}, silent)
    _ask(link, {"do": "trial", "trial": plan.trial, "files": {**plan.inputs, trial_folder.SPEC: digest}})


def _require_modules(link: Link, spec: TrialSpec) -> None:
    """Refuse before anything runs when the device lacks the code that a ``module:callable`` names.

    Raises:
        TargetError: Says which module, and how to bring it there.
    """
    named: dict[str, str] = {}
    for field in ("task", "decoder", "images", "labels") if spec.evaluation is not None else ():
        value = getattr(spec.evaluation, field)
        if value is not None and is_reference(value):
            named.setdefault(str(value).partition(":")[0].partition(".")[0], f'evaluation.{field} = "{value}"')
    if not named:
        return
    found = _ask(link, {"do": "modules", "names": sorted(named)})
    for module in found["missing"]:
        where = f"{spec.target.python} on {link.host}"
        raise TargetError(
            f"{named[module]} needs the Python module {module}, which {where} does not find",
            expected="your own code where that Python looks for modules: edgeship sends data, never code",
            do=f"scp -r {module}.py {link.host}:{found['place']}/   (again after each change of it)",
        )


def _send_blobs(link: Link, blobs: dict[str, Path], progress: Progress) -> None:
    sizes = {digest: path.stat().st_size for digest, path in blobs.items()}
    missing = _ask(link, {"do": "have", "blobs": sizes})["missing"]
    total = sum(sizes[digest] for digest in missing)
    if total > link.free:
        raise StorageError(
            f"on {link.host}: {total >> 20} MiB are to be sent and {link.free >> 20} MiB are free",
            do=f"free some space in {link.base} there and run the same command again",
        )
    done = 0
    for digest in missing:
        link.channel.send({"do": "blob", "sha256": digest}, blobs[digest])
        done += sizes[digest]
        progress(done >> 10, total >> 10, f"{link.host}: sending KiB")
    if missing:
        _ask(link, {"do": "sync"})


def _remote_spec(link: Link, plan: _Plan, paths: dict[str, Path]) -> TrialSpec:
    """The spec in the device's own paths."""
    target = plan.spec.target
    plugins = tuple(paths.get(f"plugin{number}", plugin) for number, plugin in enumerate(target.plugins))
    timing = Path(link.base, "timing", target.timing_cache.name) if target.timing_cache is not None else None
    there = target.model_copy(update={"host": None, "plugins": plugins, "timing_cache": timing})
    evaluation = plan.spec.evaluation
    if evaluation is not None:
        changed: dict[str, Any] = {name: paths[name] for name in ("images", "labels", "classes") if name in paths}
        evaluation = evaluation.model_copy(update=changed)
    return plan.spec.model_copy(update={"target": there, "evaluation": evaluation})


def _follow(link: Link, plan: _Plan, progress: Progress, timeout_s: float | None) -> None:
    """Wait for the trial's end."""

    def there(done: int, total: int | None, what: str) -> None:
        progress(done, total, f"{link.host}: {what}")

    link.channel.send({"do": "follow", "trial": plan.trial, "timeout_s": timeout_s})
    while True:
        message = link.channel.receive()
        assert message is not None
        _raise(link, message)
        if message.get("finished"):
            return
        if message.get("stopped"):
            raise TargetError(f"the trial on {link.host} was stopped by another run", do="run the same command again")
        wire.pass_on(message, there)


def _collect(link: Link, plan: _Plan, progress: Progress) -> Trial:
    """Fetch the results, the finished trial last, then clear the trial's folder on the device."""
    files = _ask(link, {"do": "list", "trial": plan.trial})["files"]
    names = sorted(files, key=lambda name: (name == trial_folder.TRIAL, name))
    for number, name in enumerate(names):
        size, digest = files[name]
        _check(link, name, size)
        place = plan.folder / name
        if name != trial_folder.TRIAL and place.is_file() and sha256_file(place) == digest:
            continue
        progress(number, len(names), f"{link.host}: fetching results")
        if name == trial_folder.TRIAL:
            _accept(plan, _fetch(link, plan, name, size, digest))
        else:
            _fetch(link, plan, name, size, digest).replace(place)
    trial = trial_folder.finished_trial(plan.folder)
    if trial is None:
        raise TargetError(f"{link.host} said the trial had finished and sent no {trial_folder.TRIAL}", do="run again")
    _ask(link, {"do": "drop", "trial": plan.trial})
    return trial


def _check(link: Link, name: str, size: int) -> None:
    try:
        check_path(name)
    except ValueError as error:
        raise TargetError(
            f"{link.host} offers a file that is not accepted: {error}",
            do="trust nothing from that device until it is known why",
        ) from None
    if "/" in name or name in (trial_folder.SPEC, trial_folder.SPEC_MARK, PLACE) or not 0 <= size <= MAX_RESULT_BYTES:
        raise TargetError(
            f"{link.host} offers a file that is not accepted: {name!r}, {size} bytes",
            do="trust nothing from that device until it is known why",
        )


def _fetch(link: Link, plan: _Plan, name: str, size: int, digest: str) -> Path:
    link.channel.send({"do": "get", "trial": plan.trial, "name": name})
    head = link.channel.receive()
    assert head is not None
    _raise(link, head)
    if head.get("payload") != size:
        raise Closed(f"{name} changed while it was fetched")
    seen = hashlib.sha256()
    temporary = plan.folder / f".{name}.tmp"
    with storage_errors(temporary), open_own(temporary, empty=True) as stream:

        def take(part: bytes) -> None:
            seen.update(part)
            stream.write(part)

        link.channel.payload(size, take)
    if seen.hexdigest() != digest:
        temporary.unlink()
        raise Closed(f"{name} was damaged on its way")
    return temporary


def _accept(plan: _Plan, temporary: Path) -> None:
    """Check that everything that the trial names has arrived, then let it count."""
    trial = read(Trial, temporary)
    if trial.candidate != plan.spec.candidate:
        temporary.unlink()
        raise ArtifactError("the device sent the trial of another candidate", do="run again")
    trial_folder.verify_artifacts(plan.folder, *trial_folder.artifacts_of(trial))
    trial_folder.mark_spec(plan.folder)
    temporary.replace(plan.folder / trial_folder.TRIAL)
