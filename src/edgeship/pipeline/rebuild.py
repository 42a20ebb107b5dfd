"""Build a bundle's engine again on this machine, try it and judge it: a rebuilt engine is a new engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.bundle.manifest import Manifest
from edgeship.bundle.sign import sign
from edgeship.bundle.trust import ANYBODY, Trust
from edgeship.bundle.verify import Verified, opened
from edgeship.bundle.write import BASELINE, Contents, write
from edgeship.config import Benchmark, Evaluation, Gate
from edgeship.data.npz import open_npz
from edgeship.decide import gate, loaded_trial
from edgeship.decide.gate import Beside
from edgeship.errors import BundleError, UserInputError
from edgeship.files import lock, storage_errors
from edgeship.pipeline.work_folder import require_own
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Decision, Trial, TrialSpec, trial_folder
from edgeship.targets import local
from edgeship.trial.run import save_arrays

if TYPE_CHECKING:
    from edgeship.engines import Array


@dataclass(frozen=True)
class RebuildOptions:
    """How a bundle is rebuilt.

    Args:
        device: Default: the one it was built for.
        trust: Which bundles are accepted.
        images: Labelled images; without them no accuracy rule is measured and the verdict cannot be SHIP where the
            gate has one.
        labels: Their labels, as in ``evaluation.labels``; of several tasks ``NAME=PLACE`` for each.
        benchmark: How long latency is measured.
        sign_with: Ed25519 private key for the new bundle; tried before anything is built.
        password: Of that key.
    """

    device: str | None = None
    trust: Trust = ANYBODY
    images: Path | None = None
    labels: tuple[str, ...] = ()
    benchmark: Benchmark = field(default_factory=Benchmark)
    sign_with: Path | None = None
    password: bytes | None = None


@dataclass(frozen=True)
class Rebuilt:
    """The new engine's trials (as many builds as the gate asks for), the verdict, and the bundle where it ships."""

    decision: Decision
    trials: tuple[Trial, ...]
    bundle: Path | None


def rebuild(bundle: Path, out: Path, options: RebuildOptions, progress: Progress = silent) -> Rebuilt:
    """Build from the bundle's ONNX on this machine, run its trial, and gate it against the bundle's own reference.

    Args:
        bundle: A bundle, a folder or a zip.
        out: The work folder: ``out/trial`` is kept, ``out/bundle`` is written when the verdict is SHIP. Killed
            anywhere, the same call continues.
        options: See :class:`RebuildOptions`.
        progress: Told what the trial reports.

    Raises:
        BundleError: The bundle was refused, or carries no reference to judge by.
        UserInputError: ``out`` holds files of something else.
        EdgeshipError: What stopped the trial and is not the candidate's fault.
    """
    if options.sign_with is not None:
        sign(b"", options.sign_with, password=options.password)
    require_own(out)
    with opened(bundle, options.trust) as verified, lock(out):
        reference = verified.folder / "evidence" / "reference"
        if not (reference / trial_folder.TRIAL).is_file():
            raise BundleError(
                f"{bundle} carries no reference to judge a rebuilt engine by", do="make the bundle again with ship"
            )
        manifest = verified.manifest
        rules = manifest.gate or Gate()
        folders, trials = [], []
        for number in range(rules.rebuilds):
            folders.append(out / (f"trial-{number}" if number else "trial"))
            _lay_out(verified, folders[-1], options, number)
            trials.append(local.run(folders[-1], progress))
        base = loaded_trial.load(reference)
        kept = verified.folder / BASELINE
        released = kept if (kept / trial_folder.TRIAL).is_file() else None
        beside = Beside(release=loaded_trial.load(released) if released is not None else None)
        decision = gate.judge(rules, [loaded_trial.load(folder) for folder in folders], base, beside=beside)
        written = None
        if decision.verdict == "SHIP":
            written = out / "bundle"
            contents = Contents(
                trial=folders[0],
                decision=decision,
                name=manifest.name,
                reference=reference,
                gate=manifest.gate,
                released=released,
                calibration=manifest.calibration,
                cache=verified.folder / manifest.cache if manifest.cache is not None else None,
                prepared=manifest.prepared,
                evidence=_earlier(verified),
                licences=_licences(verified),
                key=options.sign_with,
                password=options.password,
            )
            write(contents, written)
        return Rebuilt(decision, tuple(trials), written)


def _earlier(verified: Verified) -> dict[str, Path]:
    """What the first engine's verdict rested on; the reference stays where it is."""
    names = [name for name, entry in verified.manifest.files.items() if entry.role == "evidence"]
    kept = [name for name in names if name.startswith("evidence/")]
    kept = [
        name for name in kept if not name.startswith(("evidence/reference/", f"{BASELINE}/", "evidence/rebuilt-from/"))
    ]
    return {
        f"rebuilt-from/{name.removeprefix('evidence/').removeprefix('candidate/')}": verified.folder / name
        for name in kept
    }


def _licences(verified: Verified) -> dict[str, Path]:
    names = [name for name, entry in verified.manifest.files.items() if entry.role == "licence"]
    return {name.removeprefix("licences/"): verified.folder / name for name in names}


def _lay_out(verified: Verified, folder: Path, options: RebuildOptions, number: int) -> None:
    """The trial's folder: the bundle's ONNX, cache and known input, under the options of its first build."""
    manifest = verified.manifest
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(verified.folder / manifest.model, folder / trial_folder.MODEL)
        taken = manifest.cache if manifest.candidate.precision == "implicit" else None
        cache = _optional(folder, "calibration.cache", taken, lambda: verified.folder / str(taken))
        known = manifest.known_answer
        frames = None
        if known is not None:
            save_arrays(folder / "frames.npz", _inputs(verified.folder / known.path))
            frames = Artifact.of(folder / "frames.npz", folder)
    plugins = tuple(_plugin(verified.folder / plugin, folder) for plugin in manifest.target.plugins)
    target = manifest.target.model_copy(update={"device": options.device or manifest.target.device, "plugins": plugins})
    spec = TrialSpec(
        candidate=manifest.candidate,
        target_name=manifest.target_name,
        target=target,
        model=Artifact.of(folder / trial_folder.MODEL, folder),
        cache=cache,
        frames=frames,
        benchmark=options.benchmark.model_copy(update={"batch": manifest.latency_batch}),
        gated=manifest.gate.quantiles() if manifest.gate is not None else (0.5,),
        evaluation=_evaluation(manifest, options),
        preprocess=manifest.preprocess,
        classes=manifest.classes,
        rebuild=number,
    )
    trial_folder.write_spec(spec, folder)


def _plugin(source: Path, folder: Path) -> Path:
    place = folder.resolve() / source.name
    shutil.copyfile(source, place)
    return place


def _optional(folder: Path, name: str, listed: str | None, source: Callable[[], Path]) -> Artifact | None:
    if listed is None:
        return None
    shutil.copyfile(source(), folder / name)
    return Artifact.of(folder / name, folder)


def _inputs(path: Path) -> dict[str, Array]:
    return {name[3:]: array for name, array in open_npz(path).items() if name.startswith("in:")}


def _evaluation(manifest: Manifest, options: RebuildOptions) -> Evaluation | None:
    if options.images is None:
        return None
    if manifest.evaluation is None:
        raise UserInputError("the bundle says nothing about evaluation", do="leave out --images")
    settings = manifest.evaluation
    for item in (settings, *settings.tasks.values()):
        _require_no_code(item)
    images = options.images.resolve()
    labels = _labels(options.labels, tuple(settings.tasks))
    tasks = {
        name: item.model_copy(update={"images": images, "labels": labels[name]})
        for name, item in settings.tasks.items()
    }
    return settings.model_copy(update={"images": images, "labels": labels.get(""), "tasks": tasks})


def _require_no_code(settings: Evaluation) -> None:
    for value in (settings.task, settings.decoder):
        if value is not None and ":" in value:
            raise BundleError(
                f"the bundle asks for Python code of its own: {value}",
                do="run ship with your own config on this machine; edgeship runs no code that a bundle names",
            )


def _labels(given: tuple[str, ...], tasks: tuple[str, ...]) -> dict[str, Path | None]:
    """Where the labels of each task lie; ``""``: of the only one."""
    if not tasks:
        if len(given) > 1:
            raise UserInputError(f"--labels was given {len(given)} times", expected="once: the bundle has one task")
        return {"": Path(given[0]).resolve() if given else None}
    parts = {name: Path(place).resolve() for name, _, place in (item.partition("=") for item in given) if place}
    if set(parts) != set(tasks) or len(given) != len(tasks):
        raise UserInputError(
            f"the bundle was judged on {len(tasks)} tasks: {', '.join(tasks)}; labels are given of "
            f"{', '.join(parts) or 'none'}",
            expected="the labels of each, once",
            do=" ".join(f"--labels {name}=PLACE" for name in tasks),
        )
    return dict(parts)
