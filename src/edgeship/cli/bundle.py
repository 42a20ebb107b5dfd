"""The vehicle's commands: bundle, verify, run, rebuild; and ``trial``, which targets use."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli import app
from edgeship.cli.output import JSON_OPTION, emit, progress_bar, working

if TYPE_CHECKING:
    from rich.console import Console

    from edgeship.runtime.model import Frame

if TYPE_CHECKING:
    from rich.console import Console

    from edgeship.bundle.manifest import Manifest

KEY_OPTION = typer.Option(None, "--key", help="Ed25519 public key (PEM or OpenSSH); the bundle must be signed by it.")


@app.command(hidden=True)
def trial(
    folder: Path = typer.Argument(..., help="A folder with spec.json."),
    as_json: bool = JSON_OPTION,
    end_with_stdin: bool = typer.Option(False, "--end-with-stdin", help="Stop when standard input closes."),
) -> None:
    """Run the trial in FOLDER in this process. With --json, progress comes as one JSON object a line."""
    from edgeship.errors import EdgeshipError
    from edgeship.targets import wire
    from edgeship.trial.run import run_trial

    if not as_json:
        with progress_bar() as progress:
            run_trial(folder, progress)
        return
    if end_with_stdin:
        _end_with_parent()
    out = _private_stdout()
    try:
        run_trial(folder, wire.speaker(out))
    except EdgeshipError as error:
        wire.say(out, wire.describe(error))
        raise typer.Exit(error.exit_code) from None
    wire.say(out, {"finished": True})


def _private_stdout() -> Any:
    """Keep standard output for our lines; what libraries print goes to standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


def _end_with_parent() -> None:
    """Die when the waiting process does: it holds the other end of our standard input and never writes to it."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


@app.command()
def bundle(
    source: Path = typer.Argument(..., help="A bundle, or the work folder of a run that ended in SHIP."),
    sign: Path | None = typer.Option(None, "--sign", help="Ed25519 private key (PEM or OpenSSH) to sign with."),
    pack: Path | None = typer.Option(None, "--zip", help="Also write the bundle as this one file."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a bundle, sign it, pack it as one file."""
    from edgeship.bundle import MANIFEST, verify, zip_bundle
    from edgeship.bundle.write import sign_bundle

    folder = source if (source / MANIFEST).is_file() else _bundle_of_run(source)
    with working("verifying and packing", quiet=as_json):
        manifest = verify(folder)
        if sign is not None:
            sign_bundle(folder, sign, password=_password())
        if pack is not None:
            zip_bundle(folder, pack)
    told = {"bundle": str(folder), "signed": sign is not None, "zip": str(pack) if pack else None}
    emit({**told, **_facts(manifest)}, as_json=as_json, text=lambda out: _tell(out, manifest, told))


def _bundle_of_run(folder: Path) -> Path:
    """The bundle in a work folder: ``bundle``, or ``bundle-TARGET`` where one of several targets shipped."""
    from edgeship.bundle import MANIFEST
    from edgeship.errors import BundleError

    found = sorted(path.parent for path in folder.glob(f"bundle*/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    if found:
        raise BundleError(
            f"{folder} holds a bundle for each of {len(found)} targets: {', '.join(path.name for path in found)}",
            expected="one bundle",
            do=f"edgeship bundle {found[0]}",
        )
    raise BundleError(
        f"there is no bundle in {folder}",
        expected="a bundle folder, or the work folder of a run whose verdict was SHIP",
        do="edgeship ship edgeship.toml",
    )


@app.command()
def verify(
    path: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle: a folder or a zip."),
    key: Path | None = KEY_OPTION,
    device: str | None = typer.Option(None, "--device", help="Device to check the fit with: cpu, cuda:0."),
    fit: bool = typer.Option(True, "--fit/--no-fit", help="Also check whether it fits this machine."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check a bundle's hashes, its signature and its fit with this machine. Parses nothing of it with an engine."""
    from edgeship.bundle import verify as verify_bundle
    from edgeship.runtime.model import check_fit

    with working("verifying", quiet=as_json):
        manifest = verify_bundle(path, key)
        if fit:
            check_fit(manifest, device or manifest.target.device, path)
    told = {"bundle": str(path), "signature": "matches" if key else "not asked for", "fits": fit or None}
    emit({**told, **_facts(manifest)}, as_json=as_json, text=lambda out: _tell(out, manifest, told))


@app.command()
def run(
    path: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle: a folder or a zip."),
    images: list[Path] = typer.Argument(..., help="Images to predict."),
    key: Path | None = KEY_OPTION,
    budget: float | None = typer.Option(None, "--budget-ms", min=0, help="Longest time for a frame, in milliseconds."),
    device: str | None = typer.Option(None, "--device", help="Default: the one it was built for."),
    allow_misfit: bool = typer.Option(False, "--allow-misfit", help="Try an engine built for another machine."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Predict images with a bundle; shows the time of each part of the frame against the budget."""
    from edgeship.errors import DataError

    absent = [str(image) for image in images if not image.is_file()]
    if absent:
        raise DataError(
            f"no image at {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}",
            do="check the path; nothing was run",
        )
    from edgeship.runtime.model import load

    with (
        progress_bar(quiet=as_json) as progress,
        load(path, key=key, budget_ms=budget, device=device, allow_misfit=allow_misfit) as model,
    ):
        frames = []
        for number, image in enumerate(images):
            progress(number, len(images), "predicting")
            frames.append((image, model.predict(image)))
        seen = model.statistics()
        confidence = model.manifest.evaluation.operating_confidence if model.manifest.evaluation else 0.0
    told: dict[str, Any] = {
        "frames": [frame_json(image, frame, confidence) for image, frame in frames],
        "missed": seen.missed,
        "budget_ms": budget,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
    }
    emit(told, as_json=as_json, text=lambda out: show_frames(out, told))


@app.command()
def rebuild(
    path: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle: a folder or a zip."),
    out: Path = typer.Option(..., "--out", "-o", help="Work folder; the new bundle is OUT/bundle."),
    images: Path | None = typer.Option(None, "--images", help="Labelled images, to judge accuracy here."),
    labels: Path | None = typer.Option(None, "--labels", help="Their labels."),
    device: str | None = typer.Option(None, "--device", help="Default: the one it was built for."),
    key: Path | None = KEY_OPTION,
    sign: Path | None = typer.Option(None, "--sign", help="Ed25519 private key for the new bundle."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Build a bundle's engine again on this machine, run its trial and its gate: a rebuilt engine is a new engine."""
    from edgeship.pipeline.rebuild import RebuildOptions
    from edgeship.pipeline.rebuild import rebuild as rebuild_bundle

    options = RebuildOptions(device=device, key=key, images=images, labels=labels, sign_with=sign, password=_password())
    with progress_bar(quiet=as_json) as progress:
        made = rebuild_bundle(path, out, options, progress)
    told = {
        "verdict": made.decision.verdict,
        "sentence": made.decision.sentence,
        "bundle": str(made.bundle) if made.bundle else None,
        "decision": made.decision.model_dump(mode="json"),
    }

    def text(console: Console) -> None:
        console.print(_plain(made.decision.sentence), markup=False)
        for judged in made.decision.judged:
            for reason in judged.reasons:
                console.print(f"  {_plain(reason)}", markup=False)
        if made.bundle:
            console.print(f"bundle: {made.bundle}", markup=False)

    emit(told, as_json=as_json, text=text)
    raise typer.Exit({"SHIP": 0, "NO-SHIP": 1, "INCONCLUSIVE": 3}[made.decision.verdict])


def _password() -> bytes | None:
    """Of an encrypted private key."""
    password = os.environ.get("EDGESHIP_KEY_PASSWORD")
    return password.encode() if password else None


def _facts(manifest: Manifest) -> dict[str, Any]:
    """What a reader wants to know of a bundle first."""
    wanted = ("name", "created", "edgeship", "verdict", "sentence", "candidate", "identity", "metrics", "latency_ms",
              "latency_clock", "latency_batch", "inputs", "outputs", "classes", "calibration")  # fmt: skip
    shown: dict[str, Any] = manifest.model_dump(mode="json", include=set(wanted))
    return {**shown, "files": len(manifest.files)}


def _tell(out: Console, manifest: Manifest, told: dict[str, Any]) -> None:
    identity = manifest.identity
    lines = [
        ("bundle", told["bundle"]),
        ("model", f"{manifest.name}, candidate {manifest.candidate.name} ({manifest.candidate.precision})"),
        ("verdict", f"{manifest.verdict}: {manifest.sentence}"),
        ("built by", f"{identity.engine} {identity.version} for {identity.device}"),
        ("files", f"{len(manifest.files)}, every hash matches"),
        ("signature", told.get("signature") or ("written" if told.get("signed") else "none written")),
        ("fit", "fits this machine" if told.get("fits") else "not checked"),
        ("zip", told.get("zip")),
    ]
    for name, value in lines:
        if value:
            out.print(f"{name:>10}  {_plain(str(value))}", markup=False)


def _plain(text: str) -> str:
    """Text from a file, without characters that would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


PARTS = ("preprocess", "infer", "postprocess", "total")


def frame_json(image: Path, frame: Frame, confidence: float) -> dict[str, Any]:
    """One frame as plain values. Boxes below ``confidence`` are left out."""
    timing = frame.timing
    return {
        "image": str(image),
        **_prediction(frame.prediction, confidence),
        "preprocess_ms": timing.preprocess_ms,
        "wait_ms": timing.wait_ms,
        "infer_ms": timing.infer_ms,
        "postprocess_ms": timing.postprocess_ms,
        "total_ms": timing.total_ms,
        "late": timing.late,
    }


def _prediction(prediction: Any, confidence: float) -> dict[str, Any]:
    import numpy as np

    from edgeship.decode.predictions import Classification, Detection, Segmentation

    if isinstance(prediction, Classification):
        return {"top": [[name, round(score, 6)] for name, score in prediction.top(5)]}
    if isinstance(prediction, Detection):
        kept = prediction.above(confidence)
        rows = zip(kept.names, kept.scores.tolist(), kept.boxes.tolist(), strict=True)
        return {"boxes": [{"class": name, "score": score, "box": box} for name, score, box in rows]}
    if isinstance(prediction, Segmentation):
        values, counts = np.unique(prediction.mask, return_counts=True)
        shares = {
            (prediction.classes[value] if 0 <= value < len(prediction.classes) else str(value)): count
            for value, count in zip(values.tolist(), (counts / prediction.mask.size).tolist(), strict=True)
        }
        return {"shares": shares}
    return {"outputs": {name: list(value.shape) for name, value in prediction.outputs.items()}}


def show_frames(out: Console, told: dict[str, Any]) -> None:
    """A line for each image, then the parts of the frame against the budget."""
    for frame in told["frames"]:
        late = "  LATE" if frame["late"] else ""
        out.print(f"{frame['image']}  {_words(frame)}  {frame['total_ms']:.2f} ms{late}", markup=False)
    out.print("")
    out.print(f"{'wall ms':>12}  {'median':>8}  {'p99':>8}", markup=False)
    for part in PARTS:
        out.print(f"{part:>12}  {told['p50_ms'][part]:8.3f}  {told['p99_ms'][part]:8.3f}", markup=False)
    if told["budget_ms"] is not None:
        count = len(told["frames"])
        out.print(f"budget {told['budget_ms']:g} ms: {told['missed']} of {count} frames missed it", markup=False)


def _words(frame: dict[str, Any]) -> str:
    if "top" in frame:
        words = [f"{name} {score:.3f}" for name, score in frame["top"][:3]]
    elif "boxes" in frame:
        words = [f"{row['class']} {row['score']:.2f}" for row in frame["boxes"][:8]] or ["no box"]
    elif "shares" in frame:
        ranked = sorted(frame["shares"].items(), key=lambda item: -item[1])
        words = [f"{name} {share:.1%}" for name, share in ranked[:5]]
    else:
        words = [f"{name} {shape}" for name, shape in frame["outputs"].items()]
    return ", ".join("".join(character if character.isprintable() else " " for character in word) for word in words)
