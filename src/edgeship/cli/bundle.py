"""``bundle``, ``verify`` and ``rebuild``; and ``trial``, which targets use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.live import progress_bar, working
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import (
    KEY_OPTION,
    MIN_RELEASE_OPTION,
    MODEL_ID_OPTION,
    NO_SHIP_OPTION,
    THRESHOLD_OPTION,
    VERDICT_CODES,
)
from edgeship.cli.streams import results
from edgeship.errors import EdgeshipError

if TYPE_CHECKING:
    from edgeship.bundle.manifest import Manifest
    from edgeship.cli.output import Lines


UNSIGNED = (
    "none: nothing covers the manifest, so whoever can write the bundle can change it and every hash in it; sign it "
    "with edgeship bundle --sign"
)
COVERED = "not asked for: the OpenSSF signature covers the manifest and every file"
UNCHECKED = "there, but not checked: nothing covers the manifest until a key is given with --key"
"""What ``verify`` says of a bundle's signature where no key was given."""


@app.command(hidden=True)
def trial(
    folder: Path = typer.Argument(..., help="A folder with spec.json."),
    as_json: bool = JSON_OPTION,
    end_with_stdin: bool = typer.Option(False, "--end-with-stdin", help="Stop when standard input closes."),
) -> None:
    """Run the trial in FOLDER in this process. With --json, progress comes as one JSON object a line."""
    from edgeship.targets import parent, wire
    from edgeship.trial.run import run_trial

    if not as_json:
        with progress_bar() as progress:
            run_trial(folder, progress)
        return
    if end_with_stdin:
        parent.end_with_stdin(lambda: os._exit(143))
    out = results()
    try:
        run_trial(folder, wire.speaker(out))
    except EdgeshipError as error:
        wire.say(out, wire.describe(error))
        raise typer.Exit(error.exit_code) from None
    wire.say(out, {"finished": True})


@app.command()
def bundle(
    source: Path = typer.Argument(..., help="A bundle, or the work folder of a run that ended in SHIP."),
    sign: list[Path] = typer.Option([], "--sign", help="Ed25519 private key (PEM or OpenSSH) to sign with; repeat."),
    model_key: str | None = typer.Option(
        None,
        "--model-signing",
        help="Private elliptic key for an OpenSSF model signature over all files: a PEM file, or the URI of one in a "
        "PKCS#11 token (pkcs11:…; PIN in EDGESHIP_PIN, or by pin-source).",
    ),
    release: int | None = typer.Option(None, "--release", min=0, help="Release number to write into it."),
    model_id: str | None = typer.Option(None, "--model-id", help="Id of the model, the same in all its releases."),
    expires: str | None = typer.Option(None, "--expires", help="When it expires (UTC), such as 2027-01-31T00:00:00Z."),
    allow_no_ship: bool = NO_SHIP_OPTION,
    pack: Path | None = typer.Option(None, "--zip", help="Also write the bundle as this one file."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Verify a bundle, give it a release number, sign it, pack it as one file."""
    from edgeship.bundle import Release, release_bundle, sign_bundle, verify, zip_bundle
    from edgeship.bundle.find import find_bundle
    from edgeship.bundle.of_run import require_of_run

    folder = find_bundle(source)
    given = Release(release, model_id, expires)
    with working("verifying and packing", quiet=as_json):
        if folder != source:
            require_of_run(source, folder)
        named = given != Release()
        manifest = release_bundle(folder, given, allow_no_ship=allow_no_ship) if named else verify(folder)
        for key in sign:
            sign_bundle(folder, key, password=_password(), allow_no_ship=allow_no_ship)
        if model_key is not None:
            from edgeship.bundle.model_signing import sign_model
            from edgeship.bundle.pkcs11 import is_uri
            from edgeship.bundle.verify import require_ship

            require_ship(manifest, str(folder), allow=allow_no_ship)
            password = os.environ.get("EDGESHIP_PIN" if is_uri(model_key) else "EDGESHIP_KEY_PASSWORD")
            sign_model(folder, model_key if is_uri(model_key) else Path(model_key), password=password or None)
        if pack is not None:
            zip_bundle(folder, pack)
    told = {
        "bundle": str(folder),
        "signed": bool(sign),
        "model_signed": model_key is not None,
        "zip": str(pack) if pack else None,
    }
    emit({**told, **_facts(manifest)}, as_json=as_json, lines=lambda: _tell(manifest, told))


@app.command()
def verify(
    path: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle: a folder or a zip."),
    key: list[Path] = KEY_OPTION,
    threshold: int | None = THRESHOLD_OPTION,
    min_release: int | None = MIN_RELEASE_OPTION,
    model_id: str | None = MODEL_ID_OPTION,
    model_key: Path | None = typer.Option(
        None, "--model-key", help="Public elliptic key (PEM); the bundle's OpenSSF model signature must be by it."
    ),
    device: str | None = typer.Option(None, "--device", help="Device to check the fit with: cpu, cuda:0."),
    fit: bool = typer.Option(True, "--fit/--no-fit", help="Also check whether it fits this machine."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Check a bundle's hashes, its signature and its fit with this machine. Parses nothing of it with an engine."""
    from edgeship.bundle import Trust, opened
    from edgeship.bundle.find import find_bundle

    path = find_bundle(path)
    trust = Trust(tuple(key), threshold, min_release, model_id)
    with working("verifying", quiet=as_json), opened(path, trust) as verified:
        manifest, attested = verified.manifest, verified.attested
        if model_key is not None:
            from edgeship.bundle.model_signing import check_model

            check_model(verified.folder, model_key)
        if fit:
            from edgeship.runtime.model import check_fit

            check_fit(manifest, device or manifest.target.device, path)
    signature = "matches" if key else COVERED if model_key else UNCHECKED if verified.signatures else UNSIGNED
    told = {
        "bundle": str(path),
        "signature": signature,
        "signed": bool(verified.signatures),
        "model_signature": "matches" if model_key else None,
        "provenance": f"its signed statement matches, by the key {', '.join(attested)}" if attested else None,
        "fits": fit or None,
    }
    emit({**told, **_facts(manifest)}, as_json=as_json, lines=lambda: _tell(manifest, told))


@app.command()
def rebuild(
    path: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle: a folder or a zip."),
    out: Path = typer.Option(..., "--out", "-o", help="Work folder; the new bundle is OUT/bundle."),
    images: Path | None = typer.Option(None, "--images", help="Labelled images, to judge accuracy here."),
    labels: list[str] = typer.Option([], "--labels", help="Their labels; of several tasks NAME=PLACE for each."),
    device: str | None = typer.Option(None, "--device", help="Default: the one it was built for."),
    key: list[Path] = KEY_OPTION,
    sign: Path | None = typer.Option(None, "--sign", help="Ed25519 private key for the new bundle."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Build a bundle's engine again on this machine, run its trial and its gate: a rebuilt engine is a new engine."""
    from edgeship.bundle import Trust
    from edgeship.bundle.find import find_bundle
    from edgeship.pipeline.rebuild import RebuildOptions
    from edgeship.pipeline.rebuild import rebuild as rebuild_bundle

    trust = Trust(tuple(key))
    options = RebuildOptions(
        device=device, trust=trust, images=images, labels=tuple(labels), sign_with=sign, password=_password()
    )
    with progress_bar(quiet=as_json) as progress:
        made = rebuild_bundle(find_bundle(path), out, options, progress)
    told = {
        "verdict": made.decision.verdict,
        "sentence": made.decision.sentence,
        "bundle": str(made.bundle) if made.bundle else None,
        "decision": made.decision.model_dump(mode="json"),
    }

    def lines() -> Lines:
        yield made.decision.sentence
        for judged in made.decision.judged:
            for reason in judged.reasons:
                yield f"  {reason}"
        if made.bundle:
            yield f"bundle: {made.bundle}"

    emit(told, as_json=as_json, lines=lines)
    raise typer.Exit(VERDICT_CODES[made.decision.verdict])


def _password() -> bytes | None:
    """Of an encrypted private key."""
    password = os.environ.get("EDGESHIP_KEY_PASSWORD")
    return password.encode() if password else None


def _facts(manifest: Manifest) -> dict[str, Any]:
    """What a reader wants to know of a bundle first."""
    wanted = ("name", "release", "model_id", "expires", "created", "edgeship", "verdict", "sentence",
              "candidate", "identity", "metrics", "latency_ms",
              "latency_clock", "latency_batch", "inputs", "outputs", "classes", "calibration")  # fmt: skip
    shown: dict[str, Any] = manifest.model_dump(mode="json", include=set(wanted))
    return {**shown, "files": len(manifest.files)}


def _release(manifest: Manifest) -> str | None:
    told = [("", manifest.release), ("of ", manifest.model_id), ("until ", manifest.expires)]
    return ", ".join(f"{word}{value}" for word, value in told if value is not None) or None


def _tell(manifest: Manifest, told: dict[str, Any]) -> Lines:
    identity = manifest.identity
    lines = [
        ("bundle", told["bundle"]),
        ("model", f"{manifest.name}, candidate {manifest.candidate.name} ({manifest.candidate.precision})"),
        ("release", _release(manifest)),
        ("verdict", f"{manifest.verdict}: {manifest.sentence}"),
        ("built by", f"{identity.engine} {identity.version} for {identity.device}"),
        ("files", f"{len(manifest.files)}, every hash matches the manifest"),
        ("signature", told.get("signature") or ("written" if told.get("signed") else "none written")),
        ("openssf", told.get("model_signature") or ("written" if told.get("model_signed") else None)),
        ("provenance", told.get("provenance")),
        ("fit", "fits this machine" if told.get("fits") else "not checked"),
        ("zip", told.get("zip")),
    ]
    for name, value in lines:
        if value:
            yield f"{name:>10}  {value}"
