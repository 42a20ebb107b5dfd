"""The OpenSSF model signature of a bundle: made here, checked here and by its own tool."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeship.bundle import (
    MODEL_SIGNATURE,
    SIGNATURE,
    Contents,
    Release,
    release_bundle,
    sign_bundle,
    verify,
    write,
    zip_bundle,
)
from edgeship.bundle.model_signing import check_model, sign_model
from edgeship.bundle.sign import make_keys
from edgeship.bundle.verify import opened
from edgeship.errors import BundleError, UserInputError
from edgeship.trial.run import run_trial
from elliptic_keys import elliptic
from vehicle_support import decision, ground, make_trial


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model-signing")
    trial = make_trial(folder / "trial", ground(folder / "ground"))
    run_trial(trial)
    write(Contents(trial, decision()), folder / "bundle")
    elliptic(folder)
    sign_model(folder / "bundle", folder / "ec.pem")
    return folder


@pytest.fixture
def bundle(root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(root / "bundle", tmp_path / "bundle")


def test_its_own_tool_accepts_the_bundle_and_sees_a_change(root: Path, bundle: Path) -> None:
    command = [
        sys.executable, "-m", "model_signing", "verify", "key", str(bundle),
        "--signature", str(bundle / MODEL_SIGNATURE), "--public_key", str(root / "ec-pub.pem"),
    ]  # fmt: skip
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:-1])
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def certificates(folder: Path) -> tuple[Path, Path]:
    """An authority's certificate and one of its own for the key of :func:`root`: root.crt, leaf.crt."""
    authority = ec.generate_private_key(ec.SECP256R1())
    key = serialization.load_pem_private_key((folder / "ec.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("fleet", "release")]
    places = (folder / "root.crt", folder / "leaf.crt")
    for place, subject, own in zip(places, names, (authority, key), strict=True):
        first = own is authority
        usage = x509.KeyUsage(not first, False, False, False, False, first, first, False, False)
        made = (
            x509.CertificateBuilder(names[0], subject, own.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=first, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        )
        place.write_bytes(made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return places


@pytest.mark.slow
def test_the_tools_own_signature_by_a_certificate_travels_with_the_bundle(
    root: Path, bundle: Path, tmp_path: Path
) -> None:
    """Certificates, PKCS#11 and sigstore are the tool's: what it signs is a bundle of ours, folder and zip."""
    top, leaf = certificates(root)
    (bundle / MODEL_SIGNATURE).unlink()
    tool = [sys.executable, "-m", "model_signing"]
    common = [str(bundle), "--signature", str(bundle / MODEL_SIGNATURE), "--certificate_chain", str(top)]
    signing = ["--private_key", str(root / "ec.pem"), "--signing_certificate", str(leaf)]
    done = subprocess.run([*tool, "sign", "certificate", *common, *signing], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    verify(zip_bundle(bundle, tmp_path / "b.zip"))
    for changed in (False, True):
        if changed:
            (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:-1])
        done = subprocess.run([*tool, "verify", "certificate", *common], capture_output=True, check=False)
        assert (done.returncode != 0) == changed, done.stderr


def test_a_relative_path_is_the_same_bundle(root: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    (bundle / SIGNATURE).write_bytes(b"0" * 64)
    sign_model(Path("bundle"), root / "ec.pem")
    check_model(Path("bundle"), root / "ec-pub.pem")
    check_model(bundle, root / "ec-pub.pem")


def test_it_stands_beside_an_ed25519_signature_and_travels_in_the_zip(root: Path, bundle: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "key.pem", tmp_path / "pub.pem")
    sign_bundle(bundle, tmp_path / "key.pem")  # after it: signatures are not covered by signatures
    check_model(bundle, root / "ec-pub.pem")
    packed = zip_bundle(bundle, tmp_path / "bundle.zip")
    with opened(packed, tmp_path / "pub.pem") as verified:
        check_model(verified.folder, root / "ec-pub.pem")
        assert {MODEL_SIGNATURE, SIGNATURE} <= {path.name for path in verified.folder.iterdir()}
    release_bundle(bundle, Release(release=2))  # another manifest: both are gone
    assert not {MODEL_SIGNATURE, SIGNATURE} & {path.name for path in bundle.iterdir()}
    verify(bundle)


@pytest.mark.parametrize("what", ["file", "extra", "key", "signature", "absent"])
def test_what_does_not_match_is_refused(root: Path, bundle: Path, tmp_path: Path, what: str) -> None:
    public = root / "ec-pub.pem"
    if what == "file":
        (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text() + "\n")
    elif what == "extra":
        (bundle / "more").write_text("x")
    elif what == "key":
        public = elliptic(tmp_path, "other")[1]
    elif what == "signature":
        (bundle / MODEL_SIGNATURE).write_text("{}")
    else:
        (bundle / MODEL_SIGNATURE).unlink()
    with pytest.raises(BundleError, match=r"model\.sig (is missing|does not match)"):
        check_model(bundle, public)


def test_a_key_of_another_kind_is_refused(bundle: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "key.pem", tmp_path / "pub.pem")
    with pytest.raises(UserInputError, match="is not a private elliptic key"):
        sign_model(bundle, tmp_path / "key.pem")
    for public in (tmp_path / "pub.pem", tmp_path / "absent.pem"):
        with pytest.raises(UserInputError, match="is not a public elliptic key"):
            check_model(bundle, public)


def test_the_manifest_cannot_list_it_and_a_huge_one_does_not_unpack(bundle: Path, tmp_path: Path) -> None:
    (bundle / MODEL_SIGNATURE).write_bytes(b"x" * (5 << 20))
    packed = zip_bundle(bundle, tmp_path / "bundle.zip")
    with pytest.raises(BundleError, match=r"model\.sig is over"):
        verify(packed)
