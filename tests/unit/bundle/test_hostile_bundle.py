"""A bundle from a stranger whose hashes agree: strict in what it says, and it reads nothing of the vehicle's."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeship.bundle import MANIFEST, Contents, verify, write, zip_bundle
from edgeship.bundle.sign import make_keys
from edgeship.bundle.write import sign_bundle
from edgeship.errors import BundleError
from edgeship.files import sha256_bytes
from edgeship.runtime.model import load
from vehicle_support import decision


@pytest.fixture(scope="module")
def pristine(trial: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pristine") / "bundle"
    write(Contents(trial, decision(), reference=trial), place)
    return place


def restate(bundle: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> None:
    """Write the manifest again, hashes in step with the files."""
    content = json.loads((bundle / MANIFEST).read_text())
    for name, entry in content["files"].items():
        data = (bundle / name).read_bytes()
        entry.update(sha256=sha256_bytes(data), size_bytes=len(data))
    change(content)
    (bundle / MANIFEST).write_text(json.dumps(content))


TEXTS: dict[str, tuple[Callable[[str], str], str]] = {
    "a name twice": (lambda text: text.replace('"name":', '"name": "x", "name":', 1), "'name' stands twice"),
    "a file twice": (lambda text: text.replace('"known.npz": {', '"known.npz": {}, "known.npz": {', 1), "stands twice"),
    "floor of NaN": (lambda text: re.sub(r'("min_snr_db": )[\d.]+', r"\1NaN", text), "NaN is not a finite number"),
    "floor of minus infinity": (
        lambda text: re.sub(r'("min_snr_db": )[\d.]+', r"\1-1e999", text),
        "not a finite number",
    ),
    "no floor": (lambda text: re.sub(r'("min_snr_db": )[\d.]+', r"\1-1e308", text), "min_snr_db"),
    "half a floor": (lambda text: re.sub(r'("min_equal": )[\d.]+', r"\1 0.0", text), "min_equal"),
    "no kind": (lambda text: re.sub(r'"kind": *"edgeship-bundle", *', "", text), "kind"),
    "no schema version": (lambda text: re.sub(r'"schema_version": *1, *', "", text), "schema_version"),
    "latency of NaN": (lambda text: re.sub(r'("p50": )[\d.e-]+', r"\1NaN", text), "not a finite number"),
    "release in words": (lambda text: re.sub(r'("release": )null', r'\1"seven"', text), "release"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_manifest_is_read_strictly(bundle: Path, kind: str) -> None:
    change, words = TEXTS[kind]
    before = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(change(before))
    assert (bundle / MANIFEST).read_text() != before
    with pytest.raises(BundleError, match=words):
        verify(bundle)


@pytest.mark.parametrize(
    "name", ["Evidence/x.txt", "MANIFEST.JSON", "Manifest.sig", "KNOWN.npz", "evidence/Candidate/x"]
)
def test_names_that_differ_only_in_case_are_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True, parents=True)
    (bundle / name).write_text("x")
    restate(bundle, lambda content: content["files"].update({name: dict(content["files"]["known.npz"])}))
    with pytest.raises(BundleError, match="differ only in upper and lower case"):
        verify(bundle)


@pytest.mark.parametrize("location", ["secret.bin", "../secret.bin", "/etc/passwd"])
@pytest.mark.parametrize("file", ["engine.onnx", "model.onnx"])
def test_weights_outside_the_bundle_are_refused(bundle: Path, file: str, location: str) -> None:
    made = onnx.load(bundle / file)
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    (bundle / file).write_bytes(made.SerializeToString())
    restate(bundle)
    for ask in (verify, lambda path: load(path, allow_misfit=True), lambda path: sign_bundle(path, path)):
        with pytest.raises(BundleError, match=r"outside the file"):
            ask(bundle)


def test_a_bundle_is_not_made_of_weights_outside(trial: Path, tmp_path: Path) -> None:
    from edgeship.errors import ArtifactError, ModelError
    from edgeship.results import Artifact, trial_folder

    shutil.copytree(trial, tmp_path / "trial")
    made = onnx.load(tmp_path / "trial" / "model.onnx")
    made.graph.node.append(helper.make_node("Run", ["logits"], ["z"], domain="evil.com"))
    (tmp_path / "trial" / "model.onnx").write_bytes(made.SerializeToString())
    spec = trial_folder.read_spec(tmp_path / "trial")
    artifact = Artifact.of(tmp_path / "trial" / "model.onnx", tmp_path / "trial")
    trial_folder.write_spec(spec.model_copy(update={"model": artifact}), tmp_path / "trial")
    with pytest.raises((ArtifactError, ModelError), match=r"evil\.com"):
        write(Contents(tmp_path / "trial", decision()), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


GOOD, ANSWER = np.zeros((1, 3, 16, 16), np.float32), np.zeros((1, 3), np.float32)
ANSWERS: dict[str, dict[str, Any]] = {
    "too many rows": {"in:images": np.zeros((4096, 3, 16, 16), np.float32), "out:logits": ANSWER},
    "another dtype": {"in:images": GOOD.astype(np.uint8), "out:logits": ANSWER},
    "another rank": {"in:images": GOOD.reshape(1, 3, 256), "out:logits": ANSWER},
    "an input more": {"in:images": GOOD, "in:more": np.zeros(1), "out:logits": ANSWER},
    "no input": {"out:logits": ANSWER},
    "no output": {"in:images": GOOD},
    "a larger output": {"in:images": GOOD, "out:logits": np.zeros((1, 1 << 20), np.float32)},
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_known_answer_fits_the_engine_before_it_is_read(bundle: Path, kind: str) -> None:
    np.savez_compressed(bundle / "known.npz", **ANSWERS[kind])
    restate(bundle)
    with pytest.raises(BundleError, match="known input"):
        load(bundle)


def test_a_known_answer_that_unfolds_is_not_unfolded(bundle: Path) -> None:
    np.savez_compressed(bundle / "known.npz", **{"in:images": np.zeros((1, 1, 1024, 1 << 19), np.uint8)})
    restate(bundle)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match="known input"):
        load(bundle)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("place", ["fifo", "/dev/zero", "folder of a fifo"])
def test_what_never_ends_is_refused_at_once(tmp_path: Path, place: str) -> None:
    path = Path(place) if place.startswith("/") else tmp_path / "x"
    if place == "fifo":
        os.mkfifo(path)
    elif place.startswith("folder"):
        path.mkdir()
        os.mkfifo(path / MANIFEST)
    start = time.monotonic()
    with pytest.raises(BundleError, match=r"FIFO|device|special file"):
        verify(path)
    assert time.monotonic() - start < 2


def test_the_evidence_of_an_old_bundle_is_not_taken_over(trial: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "key.pem", tmp_path / "pub.pem")
    (tmp_path / "report.html").write_text("as the run wrote it")
    contents = Contents(trial, decision(), evidence={"report.html": tmp_path / "report.html"})
    place = tmp_path / "bundle"
    write(contents, place)
    (place / "evidence" / "report.html").write_text("<h1>SHIP, trust me</h1>")
    restate(place)
    verify(place)
    write(contents, place)
    assert (place / "evidence" / "report.html").read_text() == "as the run wrote it"
    sign_bundle(place, tmp_path / "key.pem")
    write(contents, place)
    assert verify(place, tmp_path / "pub.pem").verdict == "SHIP", "the same files keep their signature"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_service_leaves_no_unpacked_bundle(bundle: Path, tmp_path: Path, number: int) -> None:
    """While it serves nothing is there any more; what a kill during loading leaves is removed by the next one."""
    packed = zip_bundle(bundle, tmp_path / "b.zip")
    code = (
        "import signal, sys, time, edgeship\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a test run in the background ignores it
        "with edgeship.load(sys.argv[1]) as model:\n print('ready', flush=True)\n time.sleep(60)"
    )
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(packed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        assert list(temporary.glob("edgeship-*")) == []
        service.send_signal(number)
        service.wait(30)
    assert list(temporary.glob("edgeship-*")) == []


def test_what_a_kill_left_is_removed_and_what_is_in_use_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeship.bundle import opened

    packed = zip_bundle(bundle, tmp_path / "b.zip")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    left = temporary / "edgeship-bundle-left"
    (left / "bundle").mkdir(parents=True)
    (left / "held").write_bytes(b"")
    with opened(packed) as first:
        assert not left.exists()
        with opened(packed) as second:
            assert first.folder.is_dir() and second.folder.is_dir()
        assert first.folder.is_dir()
    assert list(temporary.iterdir()) == []
