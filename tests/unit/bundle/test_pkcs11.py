"""Signing with a key in a PKCS#11 token: SoftHSM's library, loaded as that of a smart card would be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import processes
from edgeship.bundle import Contents, sign_bundle, write
from edgeship.bundle.manifest import MODEL_SIGNATURE, is_unlisted
from edgeship.bundle.model_signing import check_model, sign_model
from edgeship.bundle.sign import make_keys
from edgeship.errors import UserInputError
from elliptic_keys import elliptic
from vehicle_support import decision

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "135792"
MODULE = f"?module-path={LIBRARY}"
KEY = f"pkcs11:token=fleet;object=release{MODULE}"


@pytest.fixture(scope="module")
def root(trial: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and a token of its own: SoftHSM's settings, the key's public half."""
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    private, _ = elliptic(folder)
    for arguments in (
        ("--init-token", "--free", "--label", "fleet", "--so-pin", "86420864"),
        ("--import", str(private), "--token", "fleet", "--label", "release", "--id", "a1"),
    ):
        subprocess.run(
            ["softhsm2-util", *arguments, "--pin", PIN],
            check=True, capture_output=True, env={**os.environ, "SOFTHSM2_CONF": str(folder / "softhsm2.conf")},
        )  # fmt: skip
    private.unlink()  # from here on it is in the token alone
    write(Contents(trial, decision()), folder / "bundle")
    return folder


@pytest.fixture
def bundle(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTHSM2_CONF", str(root / "softhsm2.conf"))
    monkeypatch.delenv("EDGESHIP_PIN", raising=False)
    return shutil.copytree(root / "bundle", tmp_path / "bundle")


@pytest.mark.slow
def test_a_key_in_a_token_signs_and_the_tool_itself_agrees(
    root: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_keys(tmp_path / "key.pem", tmp_path / "pub.pem")
    monkeypatch.setenv("EDGESHIP_PIN", PIN)
    done = processes.edgeship("bundle", bundle, "--model-signing", KEY, "--sign", tmp_path / "key.pem", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model_signed"] is True
    assert PIN not in done.stdout + done.stderr
    done = processes.edgeship("verify", bundle, "--no-fit", "--model-key", root / "ec-pub.pem")
    assert done.returncode == 0, done.stderr
    others = [str(path) for path in bundle.iterdir() if is_unlisted(path.name) and path.name != MODEL_SIGNATURE]
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", str(bundle), "--signature",
        str(bundle / MODEL_SIGNATURE), "--public_key", str(root / "ec-pub.pem"),
        *(word for path in others for word in ("--ignore-paths", path)),
    ]  # fmt: skip
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:-1])
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.slow
def test_a_wrong_pin_is_one_sentence_and_exit_2(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESHIP_PIN", "000000")
    done = processes.edgeship("bundle", bundle, "--model-signing", KEY)
    assert done.returncode == 2 and "the token does not take the PIN" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "000000" not in done.stdout + done.stderr
    assert not (bundle / MODEL_SIGNATURE).exists()


def test_the_pin_may_stand_in_a_file(root: Path, bundle: Path, tmp_path: Path) -> None:
    """With a line's end, as every editor leaves one; the key by its id."""
    (tmp_path / "my pin").write_text(f"{PIN}\n")
    place = str(tmp_path / "my pin").replace(" ", "%20")
    sign_model(bundle, f"pkcs11:token=fleet;id=%A1{MODULE}&pin-source=file:{place}")
    check_model(bundle, root / "ec-pub.pem")
    make_keys(tmp_path / "key.pem", tmp_path / "pub.pem")
    sign_bundle(bundle, tmp_path / "key.pem")
    check_model(bundle, root / "ec-pub.pem")


@pytest.mark.parametrize(
    ("uri", "pin", "said"),
    [
        (KEY, None, "no PIN was given"),
        (KEY, "1", "does not take the PIN"),
        (KEY, "zwölf", "beyond printable ASCII"),
        (f"{KEY}&pin-value={PIN}", None, r"the URI holds the PIN \(pin-value\)"),
        (f"{KEY}&pin-source=/absent/pin", None, "the file of the PIN, /absent/pin, cannot be read"),
        (f"{KEY}&pin-source=here", None, "pin-source is not a file by its absolute path"),
        (f"{KEY}&module-name=softhsm2", PIN, "it has module-name"),
        ("pkcs11:token=fleet;object=release", PIN, "module-path '' is not a file"),
        ("pkcs11:token=fleet;object=release?module-path=/etc/passwd", PIN, "the token's library refuses: Load"),
        (f"pkcs11:token=fleet;object=absent{MODULE}", PIN, "Could not find any object with label absent"),
        (f"pkcs11:token=absent;object=release{MODULE}", PIN, "Could not find a token with label absent"),
        ("pkcs11:token=fleet;object=release?module-path=/absent.so", PIN, "'/absent.so' is not a file"),
        (f"pkcs11:token=fleet{MODULE}", PIN, "Neither 'id' nor 'object'"),
        (f"pkcs11:slot-id=77;object=release{MODULE}", PIN, "CKR_SLOT_ID_INVALID"),
        (f"pkcs11:fleet{MODULE}", PIN, "malformed path attribute"),
    ],
)
def test_what_cannot_sign_says_why(bundle: Path, uri: str, pin: str | None, said: str) -> None:
    with pytest.raises(UserInputError, match=said) as refused:
        sign_model(bundle, uri, password=pin)
    assert refused.value.exit_code == 2 and PIN not in str(refused.value)
    assert not (bundle / MODEL_SIGNATURE).exists()
