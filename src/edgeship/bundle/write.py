"""Write a bundle from a finished trial: engine, manifest, rebuild material, known answer, evidence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from pydantic import ValidationError

from edgeship.bundle import sign as signing
from edgeship.bundle.envelope import enveloped
from edgeship.bundle.manifest import (
    ENVELOPE_BYTES,
    GET_AGAIN,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL_SIGNATURE_BYTES,
    MOMENT,
    SIGNATURE,
    STATEMENT,
    BundledFile,
    CalibrationProvenance,
    KnownAnswer,
    Manifest,
    Role,
    check_path,
    is_unlisted,
    parse,
    signature_name,
)
from edgeship.bundle.trust import Trust
from edgeship.bundle.verify import check_models, opened, require_ship, verify
from edgeship.errors import ArtifactError, BundleError, UserInputError
from edgeship.files import CHUNK, finished_folder, open_outside, read_bytes, replacing, sha256_file, write_bytes
from edgeship.results import Build, Trial, TrialSpec, trial_folder
from edgeship.version import __version__

if TYPE_CHECKING:
    from edgeship.config import Evaluation, Gate, Precision, Target
    from edgeship.results import Decision

MIN_SNR_DB: dict[Precision, float] = {"fp32": 50.0, "fp16": 30.0, "bf16": 25.0}
"""How close a vehicle's answer must come to the recorded one; quantized engines 15 dB. Nonsense is near 0 dB."""
QUANTIZED_SNR_DB = 15.0
CACHE = "calibration.cache"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in a zip, so that equal bundles give equal bytes."""
BASELINE = "evidence/baseline"
"""The trial of the release that the engine was no worse than."""
EVIDENCE_OF_TRIAL = (
    trial_folder.TRIAL,
    trial_folder.SAMPLES,
    trial_folder.FRAME_SAMPLES,
    trial_folder.RECORDS,
    trial_folder.OUTPUTS,
)


@dataclass(frozen=True)
class Release:
    """What a release says of itself, signed with the rest. None: as it was.

    Args:
        release: Grows with every release of the model.
        model_id: Which model this is, whatever its version.
        expires: UTC, ``2027-01-31T00:00:00Z``: from then on the bundle is refused.
    """

    release: int | None = None
    model_id: str | None = None
    expires: str | None = None


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle.

    Args:
        trial: The folder of the chosen candidate's finished trial.
        decision: The verdict that it ships under.
        name: Name of the model.
        reference: The folder of the reference's trial, so that a rebuilt engine can be gated again.
        gate: The rules of the verdict, for the same purpose.
        released: The folder of the trial of the release that ``gate.baseline`` names, for the same purpose.
        calibration: Provenance of the INT8 ranges.
        cache: The calibration cache, and its binding beside it; default: the trial's own, where its engine took one.
        prepared: Versions of what made the ONNX.
        evidence: Further files by their name under ``evidence/``: ``{"report.html": path}``.
        licences: Licence texts by their name under ``licences/``.
        key: Ed25519 private key that signs the manifest.
        password: Of the key.
    """

    trial: Path
    decision: Decision
    name: str = "model"
    reference: Path | None = None
    gate: Gate | None = None
    released: Path | None = None
    calibration: CalibrationProvenance | None = None
    cache: Path | None = None
    prepared: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Path] = field(default_factory=dict)
    licences: Mapping[str, Path] = field(default_factory=dict)
    key: Path | None = None
    password: bytes | None = None


def write(contents: Contents, place: Path) -> Manifest:
    """Write the bundle folder ``place``, atomically; an existing bundle there is replaced.

    The same contents give the same bytes apart from ``created`` (which SOURCE_DATE_EPOCH fixes). Where ``place`` holds
    a bundle of the very same files, its time, release and signatures are kept.

    Raises:
        ArtifactError: The trial is not finished, or was never run, or one of its files has changed.
        ModelError: An ONNX file keeps weights outside, or holds operators that nobody knows.
        BundleError: ``place`` holds something that is not a bundle; or a key is given and the verdict is not SHIP.
        StorageError: No space left, or not writable.
    """
    if place.exists() and any(place.iterdir()) and not (place / MANIFEST).is_file():
        raise BundleError(f"{place} exists and is not a bundle", do="choose another folder with --out")
    spec = trial_folder.read_spec(contents.trial)
    trial = trial_folder.read_trial(contents.trial)
    if trial.build is None or trial.failure is not None:
        why = trial.failure.message if trial.failure else "it has no engine"
        raise ArtifactError(f"the trial in {contents.trial} cannot be bundled: {why}", do="choose another candidate")
    with finished_folder(place) as folder:
        made = _fill(_Files(folder), contents, spec, trial, trial.build)
        check_models(folder, made)
        made, signatures = _kept(place, made)
        data = _as_bytes(made)
        (folder / MANIFEST).write_bytes(data)
        for name, signature in signatures.items():
            (folder / name).write_bytes(signature)
        if contents.key is not None:
            require_ship(made, str(place))
            _write_signature(folder, made, data, contents.key, contents.password)
        _flush(folder)
    return made


def sign_bundle(folder: Path, key: Path, *, password: bytes | None = None, allow_no_ship: bool = False) -> None:
    """Verify the bundle in ``folder`` and sign the manifest that was verified.

    The signature is written twice: as ``manifest.sig`` and under the key's id, where those of other keys stay. The
    provenance statement, where there is one, is signed by itself in an envelope that other tools read.

    Raises:
        BundleError: The bundle is not whole, or its verdict is not SHIP and ``allow_no_ship`` is not set.
        UserInputError: The key cannot be used.
    """
    with opened(folder) as verified:
        require_ship(verified.manifest, str(folder), allow=allow_no_ship)
        _write_signature(folder, verified.manifest, verified.data, key, password)


def release_bundle(folder: Path, release: Release, *, allow_no_ship: bool = False) -> Manifest:
    """Verify the bundle in ``folder`` and give it a release number, a model id and an expiry; signatures are removed.

    Raises:
        BundleError: The bundle is not whole, or its verdict is not SHIP and ``allow_no_ship`` is not set.
        UserInputError: One of the three has not the form that a manifest takes, or the expiry is past.
    """
    now = time.strftime(MOMENT, time.gmtime())
    with opened(folder, Trust(allow_expired=release.expires is not None)) as verified:
        require_ship(verified.manifest, str(folder), allow=allow_no_ship)
        told = {name: value for name, value in asdict(release).items() if value is not None}
        try:
            made = Manifest.model_validate_json(json.dumps(verified.manifest.model_dump(mode="json") | told))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UserInputError(
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                expected="a whole number, a plain id, and a moment such as 2027-01-31T00:00:00Z",
            ) from None
    if release.expires is not None and release.expires <= now:
        raise UserInputError(
            f"expires: {release.expires} is past, and it is {now}",
            expected="a moment to come: a bundle that has expired is refused everywhere",
            do="give a later one, in UTC",
        )
    for path in folder.iterdir():
        if is_unlisted(path.name):
            path.unlink()
    write_bytes(folder / MANIFEST, _as_bytes(made))
    return made


def _write_signature(folder: Path, manifest: Manifest, data: bytes, key: Path, password: bytes | None) -> None:
    """``data`` are the bytes of ``manifest``, which was verified."""
    signature = signing.sign(data, key, password=password)
    name = signature_name(signing.key_id(key, password=password, private=True))
    if STATEMENT in manifest.files:
        statement = read_bytes(folder / STATEMENT, ENVELOPE_BYTES, follow=False)
        if hashlib.sha256(statement).hexdigest() != manifest.files[STATEMENT].sha256:
            raise BundleError(f"{folder}: {STATEMENT} has changed since it was verified", do=GET_AGAIN)
        envelope, made = enveloped(statement, key, password=password)
        write_bytes(folder / envelope, made)
    write_bytes(folder / name, signature)
    write_bytes(folder / SIGNATURE, signature)


def _as_bytes(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def zip_bundle(folder: Path, place: Path) -> Path:
    """Write the bundle in ``folder`` as the zip file ``place``, atomically. Equal bundles give equal bytes.

    The bundle is verified first, so a changed file does not travel.

    Raises:
        BundleError: The folder is not a whole bundle.
        StorageError: No space left, or not writable.
    """
    manifest = verify(folder)
    signatures = sorted(path.name for path in folder.iterdir() if is_unlisted(path.name))
    names = [MANIFEST, *signatures, *sorted(manifest.files)]
    with replacing(place) as stream:
        _fill_zip(folder, names, stream)
    return place


def _fill_zip(folder: Path, names: list[str], stream: BinaryIO) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in names:
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = (folder / name).stat().st_size
            with open_outside(folder / name, follow=False) as source, archive.open(info, "w") as sink:
                while chunk := source.read(CHUNK):
                    sink.write(chunk)


def _kept(place: Path, made: Manifest) -> tuple[Manifest, dict[str, bytes]]:
    """Where ``place`` holds this very bundle already: its own time and release, and the signatures that it was given.

    Nothing but these is taken from what stands there: every file of the new bundle comes from the run.
    """
    try:
        before = parse(read_bytes(place / MANIFEST, MAX_MANIFEST_BYTES), str(place))
    except (FileNotFoundError, ArtifactError):
        return made, {}
    given = {name: getattr(before, name) for name in ("created", "release", "model_id", "expires")}
    if before != made.model_copy(update=given):
        return made, {}
    names = [path.name for path in place.iterdir() if is_unlisted(path.name)]
    return before, {name: read_bytes(place / name, MODEL_SIGNATURE_BYTES, follow=False) for name in names}


class _Files:
    """Copies files into the bundle and remembers them for the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed: dict[str, BundledFile] = {}

    def add(self, source: Path, name: str, role: Role, sha256: str | None = None) -> str:
        """Copy one file. With ``sha256``, refuse a source that has changed."""
        try:
            check_path(name)
        except ValueError as error:
            raise ArtifactError(str(error), do="rename the file") from None
        if not source.is_file():
            raise ArtifactError(f"{source} is missing", expected=f"the {role} of the bundle", do="run ship again")
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
        place.chmod(0o644)
        digest = sha256_file(place)
        if sha256 is not None and digest != sha256:
            raise ArtifactError(f"{source} has changed since it was recorded", do="run ship again")
        self.listed[name] = BundledFile(sha256=digest, size_bytes=place.stat().st_size, role=role)
        return name


def _fill(files: _Files, contents: Contents, spec: TrialSpec, trial: Trial, build: Build) -> Manifest:
    from edgeship.data.beside import portable  # loads Pillow, which a vehicle that infers arrays does not need

    source = contents.trial
    suffix = Path(build.engine.path).suffix or ".engine"
    engine = files.add(source / build.engine.path, f"engine{suffix}", "engine", build.engine.sha256)
    model = files.add(source / spec.model.path, "model.onnx", "model", spec.model.sha256)
    weights = source / f"{spec.model.path}.data"
    if weights.is_file():  # of a model beyond 2 GiB
        files.add(weights, f"{model}.data", "model")
    cache = None
    if contents.cache is not None:
        cache = files.add(contents.cache, CACHE, "cache", spec.cache.sha256 if spec.cache is not None else None)
        binding = contents.cache.with_name(contents.cache.name + ".json")
        if binding.is_file():
            files.add(binding, f"{CACHE}.json", "evidence")
    elif spec.cache is not None:
        cache = files.add(source / spec.cache.path, CACHE, "cache", spec.cache.sha256)
    known = _known_answer(files, source, spec, build)
    plugins = tuple(
        Path(files.add(plugin, f"plugins/{plugin.name}", "plugin")) for plugin in _existing(spec.target.plugins)
    )
    _evidence(files, contents)
    latency = trial.latency
    timed = None if latency is None else latency.timed(contents.gate.clock if contents.gate is not None else "auto")
    return Manifest(
        kind="edgeship-bundle",
        schema_version=1,
        name=contents.name,
        created=_now(),
        edgeship=__version__,
        verdict=contents.decision.verdict,
        sentence=contents.decision.sentence,
        candidate=spec.candidate,
        target_name=spec.target_name,
        target=_portable_target(spec.target, plugins),
        identity=build.identity,
        engine=engine,
        model=model,
        cache=cache,
        inputs=build.inputs,
        outputs=build.outputs,
        profiles=build.profiles,
        preprocess=portable(spec.preprocess) if spec.preprocess is not None else None,
        evaluation=_portable_evaluation(spec.evaluation),
        classes=_classes(spec, source),
        gate=_portable_gate(contents.gate),
        calibration=contents.calibration,
        known_answer=known,
        metrics=trial.evaluation.metrics if trial.evaluation else {},
        latency_ms=timed.quantiles if timed else None,
        latency_clock=timed.clock if timed else None,
        latency_batch=latency.batch if latency else None,
        versions={str(key): str(value) for key, value in sorted(trial.environment.items())},
        prepared=dict(sorted(contents.prepared.items())),
        files=dict(sorted(files.listed.items())),
    )


def _known_answer(files: _Files, source: Path, spec: TrialSpec, build: Build) -> KnownAnswer | None:
    """The first batch and its outputs, where the trial kept them."""
    answer = source / trial_folder.KNOWN_ANSWER
    if not answer.is_file():
        return None
    snr = MIN_SNR_DB.get(spec.candidate.precision, QUANTIZED_SNR_DB)
    place = files.add(answer, answer.name, "known-answer")
    return KnownAnswer(path=place, min_snr_db=snr, arithmetic=build.identity.arithmetic)


def _existing(plugins: tuple[Path, ...]) -> tuple[Path, ...]:
    for plugin in plugins:
        if not plugin.is_file():
            raise ArtifactError(
                f"the plugin {plugin} is not here",
                expected="the library, to ship it in the bundle",
                do="correct target.plugins, or put the library back",
            )
    return plugins


def _evidence(files: _Files, contents: Contents) -> None:
    folders = {"candidate": contents.trial, "reference": contents.reference, "baseline": contents.released}
    for label, folder in folders.items():
        if folder is None:
            continue
        for name in EVIDENCE_OF_TRIAL:
            if (folder / name).is_file():
                files.add(folder / name, f"evidence/{label}/{name}", "evidence")
    for name, path in sorted(contents.evidence.items()):
        files.add(path, f"evidence/{name}", "evidence")
    for name, path in sorted(contents.licences.items()):
        files.add(path, f"licences/{name}", "licence")


def _portable_target(target: Target, plugins: tuple[Path, ...]) -> Target:
    """The builder's options without what belongs to one machine."""
    return target.model_copy(
        update={"host": None, "python": "python3", "timing_cache": None, "plugins": plugins, "remote_dir": "edgeship"}
    )


def _portable_gate(gate: Gate | None) -> Gate | None:
    """The rules, with the place of the release's trial in the bundle instead of its bundle's path."""
    if gate is None or gate.baseline is None:
        return gate
    return gate.model_copy(update={"baseline": Path(BASELINE)})


def _portable_evaluation(evaluation: Evaluation | None) -> Evaluation | None:
    if evaluation is None:
        return None
    gone = {"images": None, "labels": None, "workers": None}
    if isinstance(evaluation.classes, Path):
        gone["classes"] = None
    if isinstance(evaluation.label_classes, Path):
        gone["label_classes"] = None
    tasks = {name: _portable_evaluation(item) for name, item in evaluation.tasks.items()}
    return evaluation.model_copy(update={**gone, "tasks": tasks})


def _classes(spec: TrialSpec, folder: Path) -> tuple[str, ...]:
    """The class names in the order of the outputs, as the evaluation used them."""
    if spec.classes or not (folder / trial_folder.RECORDS).is_file():
        return spec.classes
    with np.load(folder / trial_folder.RECORDS, allow_pickle=False) as records:
        return tuple(str(name) for name in records["classes"]) if "classes" in records.files else ()


def _now() -> str:
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = int(fixed) if fixed.isdigit() else time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _flush(folder: Path) -> None:
    """Ask the file system to keep every file before the folder gets its name."""
    for path in sorted(folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
