"""The folder of a trial: what its files are called, and what must hold before they are read.

``spec.json`` and the files it names go in. The engine, a result for each step and the arrays come out, ``trial.json``
last: a folder with a ``trial.json`` is finished. ``spec.sha256`` holds the hash of the spec that the results were made
for, and its hash without what only rules ask for; results of another spec are removed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeship.errors import ArtifactError, EdgeshipError
from edgeship.files import read_text, sha256_file, sha256_json, write_json, write_text
from edgeship.results.base import Artifact, Result, read, write
from edgeship.results.trial import FrameTimes, Latency, Trial, TrialSpec

SPEC = "spec.json"
SPEC_MARK = "spec.sha256"
MODEL = "model.onnx"
TRIAL = "trial.json"
BUILD = "build.json"
AUDIT = "audit.json"
CONSISTENCY = "consistency.json"
LATENCY = "latency.json"
EVALUATION = "evaluation.json"
SAMPLES = "latency.npz"
FRAME = "frame.json"
FRAME_SAMPLES = "frame.npz"
STARTS = "starts.json"
ENERGY = "energy.json"
RECORDS = "records.npz"
OUTPUTS = "outputs.npz"
KNOWN_ANSWER = "known.npz"
STEPS = "steps.json"
"""Which steps of a trial are done: step → the hashes of its files."""
LAST_WORDS = "crash.log"
"""What a trial process that died had written to standard error."""
PRODUCTS = (
    BUILD,
    AUDIT,
    CONSISTENCY,
    LATENCY,
    FRAME,
    FRAME_SAMPLES,
    STARTS,
    ENERGY,
    EVALUATION,
    SAMPLES,
    RECORDS,
    OUTPUTS,
    KNOWN_ANSWER,
    STEPS,
    LAST_WORDS,
    TRIAL,
)
"""What a trial writes and what depends on its spec; the files of the engine are overwritten by the next build."""
AGAIN = "run edgeship ship again: it measures again what has changed"


def read_spec(folder: Path) -> TrialSpec:
    """What the trial is asked to do.

    Raises:
        ArtifactError: Absent, malformed, or of another schema version.
    """
    return read(TrialSpec, folder / SPEC)


def write_spec(spec: TrialSpec, folder: Path) -> None:
    """Write what the trial is asked to do, atomically."""
    write(spec, folder / SPEC)


def read_trial(folder: Path) -> Trial:
    """The finished trial.

    Raises:
        ArtifactError: Absent, malformed, or of another schema version.
    """
    return read(Trial, folder / TRIAL)


def write_trial(trial: Trial, folder: Path) -> None:
    """Write the finished trial, atomically: from here on the folder counts as finished."""
    write(trial, folder / TRIAL)


def finished_trial(folder: Path) -> Trial | None:
    """The trial that the folder holds, of whatever spec; None where it has not ended. A damaged one is removed."""
    if not (folder / TRIAL).is_file():
        return None
    try:
        return read_trial(folder)
    except ArtifactError:
        (folder / TRIAL).unlink()
        return None


def made_for_spec(folder: Path) -> bool:
    """Whether the results in the folder were made for the spec that stands there now."""
    return _marked(folder)[:1] == [sha256_file(folder / SPEC)]


def finished_for_spec(folder: Path) -> Trial | None:
    """The finished trial of the spec that stands in the folder now; None where there is none."""
    return finished_trial(folder) if made_for_spec(folder) else None


def mark_spec(folder: Path) -> None:
    """Note that the results in the folder belong to the spec that stands there now."""
    write_text(folder / SPEC_MARK, f"{sha256_file(folder / SPEC)}\n{sha256_json(read_spec(folder).without_rules())}\n")


def _marked(folder: Path) -> list[str]:
    """The hashes of the spec that the results belong to: of all of it, and without what rules ask for."""
    mark = folder / SPEC_MARK
    return read_text(mark).split() if mark.is_file() else []


def forget_other_spec(folder: Path) -> None:
    """Remove results that were made for another spec, and mark the folder as that of the present one.

    Where only the rules ask for something else, what was measured without regard to them stays: the engine, its audit,
    its answers.
    """
    if made_for_spec(folder):
        return
    spec = read_spec(folder)
    same = _marked(folder)[1:] == [sha256_json(spec.without_rules())]
    for name in _outdated(folder, spec) if same else PRODUCTS:
        (folder / name).unlink(missing_ok=True)
    mark_spec(folder)


def forget_marked(folder: Path) -> None:
    """Remove results that are marked as those of another spec: what a device sends for the present one takes their
    place, and what has come so far bears no mark."""
    if _marked(folder) and not made_for_spec(folder):
        for name in (*PRODUCTS, SPEC_MARK):
            (folder / name).unlink(missing_ok=True)


def _outdated(folder: Path, spec: TrialSpec) -> tuple[str, ...]:
    """Results that do not answer what the rules ask now."""
    names: tuple[str, ...] = (TRIAL,)
    if step_is_done(folder, LATENCY) and not set(spec.gated).issubset(read(Latency, folder / LATENCY).answers):
        names += (LATENCY, SAMPLES)
    if step_is_done(folder, FRAME) and spec.budget.fps not in (None, read(FrameTimes, folder / FRAME).fps):
        names += (FRAME, FRAME_SAMPLES)
    return names


def note_step(folder: Path, name: str, result: Result) -> None:
    """Write down that the step whose result is ``name`` is done, with the hashes of that file and those it names."""
    named = [value.path for _, value in result if isinstance(value, Artifact)]
    done = _steps(folder)
    done[name] = {file: sha256_file(folder / file) for file in (name, *named)}
    write_json(folder / STEPS, done)


def step_is_done(folder: Path, name: str) -> bool:
    """Whether a step is done and its files are as it left them."""
    files = _steps(folder).get(name)
    if not isinstance(files, dict):
        return False
    return all((folder / file).is_file() and sha256_file(folder / file) == digest for file, digest in files.items())


def _steps(folder: Path) -> dict[str, Any]:
    """What :func:`note_step` wrote; empty where the file is damaged, so that every step is made again."""
    try:
        found = json.loads(read_text(folder / STEPS))
    except (OSError, ValueError, RecursionError, EdgeshipError):
        return {}
    return found if isinstance(found, dict) else {}


def artifacts_of(trial: Trial) -> tuple[Artifact, ...]:
    """Every file that a finished trial names."""
    named = [trial.outputs]
    named += [trial.build.engine, trial.build.log, trial.build.timing_cache] if trial.build else []
    named += [trial.latency.samples] if trial.latency else []
    named += [trial.frame.samples] if trial.frame else []
    named += [trial.evaluation.records] if trial.evaluation else []
    return tuple(item for item in named if item is not None)


def verified(folder: Path, artifact: Artifact) -> Path:
    """The path of a file that the spec or the trial names, after comparing its size and hash with the recorded ones.

    Raises:
        ArtifactError: Missing, changed, or outside the folder.
    """
    path = folder / artifact.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{artifact.path!r} leads out of {folder}", expected="a file inside the trial's folder")
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", expected=f"every file that {SPEC} and {TRIAL} name", do=AGAIN)
    if path.stat().st_size != artifact.size_bytes or sha256_file(path) != artifact.sha256:
        raise ArtifactError(f"{path} has changed since it was recorded", expected=f"sha256 {artifact.sha256}", do=AGAIN)
    return path


def verify_artifacts(folder: Path, *artifacts: Artifact | None) -> None:
    """Compare files with their recorded size and hash; see :func:`verified`.

    Raises:
        ArtifactError: Missing, changed, or outside the folder.
    """
    for artifact in artifacts:
        if artifact is not None:
            verified(folder, artifact)
