"""bundle, verify, run, rebuild and trial, through the command line as it is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import processes
from edgeship.bundle import Contents, write
from edgeship.bundle.sign import make_keys
from edgeship.config import Gate
from processes import Ended
from vehicle_support import decision, ground, make_trial


def edgeship(*arguments: str | Path, code: int = 0) -> Ended:
    done = processes.edgeship(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    trial = make_trial(folder / "trial", ground(folder / "ground"))
    edgeship("trial", trial)
    gate = Gate(latency_p50_ms=1000.0, max_drop={"top1": 0.3}, confidence=0.9)
    write(Contents(trial, decision(), name="small", reference=trial, gate=gate), folder / "bundle")
    make_keys(folder / "key.pem", folder / "pub.pem")
    return folder


def test_trial_speaks_json_lines(root: Path, tmp_path: Path) -> None:
    trial = make_trial(tmp_path / "trial", ground(tmp_path / "ground"))
    lines = [json.loads(line) for line in edgeship("trial", trial, "--json").stdout.splitlines()]
    assert lines[-1] == {"finished": True}
    assert any("benchmark" in line.get("what", "") for line in lines)
    assert (trial / "trial.json").is_file()


def test_trial_says_what_stops_it(tmp_path: Path) -> None:
    told = json.loads(edgeship("trial", tmp_path, "--json", code=2).stdout)
    assert told["error"]["kind"] == "ArtifactError"


def test_sign_pack_verify_and_run(root: Path, tmp_path: Path) -> None:
    packed = tmp_path / "small.zip"
    edgeship("bundle", root / "bundle", "--sign", root / "key.pem", "--zip", packed)
    said = edgeship("verify", packed, "--key", root / "pub.pem").stdout
    assert "matches" in said and "fits this machine" in said and "SHIP" in said
    facts = json.loads(edgeship("verify", packed, "--json").stdout)
    assert facts["metrics"]["top1"] == 1.0 and facts["signed"]
    assert facts["signature"].startswith("there, but not checked")
    said = edgeship("verify", _copy(root, tmp_path)).stdout
    assert "none: nothing covers the manifest, so whoever can write the bundle can change it" in said
    image = root / "ground" / "val" / "pedestrian" / "1.png"
    said = edgeship("run", packed, image, image, "--budget-ms", "1000").stdout
    assert "pedestrian" in said and "preprocess" in said and "0 of 2 frames missed it" in said
    told = json.loads(edgeship("run", root / "bundle", image, "--json", "--budget-ms", "0.000001").stdout)
    assert told["frames"][0]["top"][0][0] == "pedestrian"
    assert told["missed"] == 1 and told["frames"][0]["late"]


def test_refusals_have_an_exit_code_and_no_traceback(root: Path, tmp_path: Path) -> None:
    assert "not signed" in edgeship("verify", _copy(root, tmp_path), "--key", root / "pub.pem", code=2).stderr
    assert "does not exist" in edgeship("verify", tmp_path / "absent", code=2).stderr
    assert "there is no bundle" in edgeship("bundle", tmp_path, code=2).stderr
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert "broken.png" in edgeship("run", root / "bundle", broken, code=2).stderr


def _copy(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root / "bundle", tmp_path / "copy")
    for signature in (tmp_path / "copy").glob("manifest.*sig"):
        signature.unlink()
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def foreign(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle for another processor, and beside it ``own.pem``, a key locked by a password."""
    folder = tmp_path_factory.mktemp("foreign")
    bundle = _copy(root, folder)
    content = json.loads((bundle / "manifest.json").read_text())
    content["identity"].update(device="Another Processor", instruction_sets=["avx9"], portable=False)
    (bundle / "manifest.json").write_text(json.dumps(content))
    edgeship("bundle", bundle, "--sign", root / "key.pem")
    key = Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(b"secret")
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "own.pem").write_bytes(key.private_bytes(encoding, layout, locked))
    public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "own_pub.pem").write_bytes(public)
    return bundle


@pytest.fixture(scope="module")
def rebuilt(root: Path, foreign: Path) -> Any:
    """What the command says that the refusal of another processor's bundle names."""
    said = edgeship("verify", foreign, code=4).stderr
    assert "Another Processor" in said
    command = said.partition("edgeship rebuild ")[2].split("\n")[0].split()
    assert command[:2] == [str(foreign), "--out"]
    chain = ("--key", root / "pub.pem", "--sign", foreign.parent / "own.pem")
    asked = ("rebuild", command[0], "--out", foreign.parent / "here", "--images", root / "ground/val", *chain)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESHIP_KEY_PASSWORD", "secret")
        return json.loads(edgeship(*asked, "--json").stdout)


@pytest.mark.slow
def test_rebuild_judges_the_new_engine(rebuilt: Any) -> None:
    assert rebuilt["verdict"] == "SHIP"
    names = {rule["name"] for judged in rebuilt["decision"]["judged"] for rule in judged["rules"]}
    assert {"latency_p50_ms", "max_drop.top1"} <= names
    said = edgeship("verify", rebuilt["bundle"]).stdout
    assert "SHIP" in said and "fits this machine" in said
    evidence = [path.name for path in (Path(rebuilt["bundle"]) / "evidence" / "rebuilt-from").iterdir()]
    assert "trial.json" in evidence


def test_rebuild_without_images_does_not_ship_on_trust(root: Path, tmp_path: Path) -> None:
    told = json.loads(edgeship("rebuild", root / "bundle", "--out", tmp_path / "a", "--json", code=3).stdout)
    assert told["verdict"] == "INCONCLUSIVE"
    assert told["bundle"] is None and not (tmp_path / "a" / "bundle").exists()


@pytest.mark.slow
def test_rebuild_keeps_the_chain_of_signatures(root: Path, foreign: Path, rebuilt: Any) -> None:
    own = foreign.parent / "own_pub.pem"
    assert "matches" in edgeship("verify", rebuilt["bundle"], "--key", own).stdout
    assert "not from the key" in edgeship("verify", rebuilt["bundle"], "--key", root / "pub.pem", code=2).stderr


@pytest.mark.slow
def test_rebuild_asks_for_signatures_and_passwords_before_it_begins(
    root: Path, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ("--out", tmp_path / "a", "--images", root / "ground/val", "--key", root / "pub.pem")
    assert "not signed" in edgeship("rebuild", _copy(root, tmp_path), *here, code=2).stderr
    monkeypatch.delenv("EDGESHIP_KEY_PASSWORD", raising=False)
    said = edgeship("rebuild", foreign, *here, "--sign", foreign.parent / "own.pem", code=2).stderr
    assert "is encrypted" in said and "EDGESHIP_KEY_PASSWORD" in said
    assert not (tmp_path / "a").exists()


def test_rebuild_runs_no_code_that_a_bundle_names(root: Path, tmp_path: Path) -> None:
    copy = _copy(root, tmp_path)
    content = json.loads((copy / "manifest.json").read_text())
    content["evaluation"]["decoder"] = "os:system"
    (copy / "manifest.json").write_text(json.dumps(content))
    said = edgeship("rebuild", copy, "--out", tmp_path / "a", "--images", root / "ground/val", code=2).stderr
    assert "Python code of its own: os:system" in said


def test_rebuild_needs_something_to_judge_by(root: Path, tmp_path: Path) -> None:
    write(Contents(root / "trial", decision(), name="small"), tmp_path / "bare")
    said = edgeship("rebuild", tmp_path / "bare", "--out", tmp_path / "a", code=2).stderr
    assert "no reference to judge" in said and "make the bundle again" in said


def test_a_zip_is_inspected_as_its_folder_is(root: Path, tmp_path: Path) -> None:
    edgeship("bundle", root / "bundle", "--zip", tmp_path / "small.zip")
    found = [
        json.loads(edgeship("inspect", path, "--json").stdout) for path in (root / "bundle", tmp_path / "small.zip")
    ]
    assert found[0] == found[1]
    assert found[0]["kind"] == "bundle"


def test_a_place_where_no_zip_can_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file" / "small.zip"):
        said = edgeship("bundle", root / "bundle", "--zip", place, code=4).stderr
        assert "itself failed" not in said and str(place) in said
    said = edgeship("rebuild", root / "bundle", "--out", tmp_path / "file", code=4).stderr
    assert "itself failed" not in said and str(tmp_path / "file") in said


def test_the_bundle_of_the_one_target_that_shipped_is_found(root: Path, tmp_path: Path) -> None:
    copied = _copy(root, tmp_path).rename(tmp_path / "bundle-orin")
    assert json.loads(edgeship("bundle", tmp_path, "--json").stdout)["bundle"] == str(copied)
    _copy(root, tmp_path).rename(tmp_path / "bundle-desk")
    said = edgeship("bundle", tmp_path, code=2).stderr
    assert "bundle-desk, bundle-orin" in said and f"for instance {tmp_path / 'bundle-desk'}" in said
