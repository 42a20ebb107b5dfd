"""The signed envelope of a bundle's provenance statement, checked here by what the standards say, not by our code."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementFields

import processes
from edgeship.bundle import Contents, Release, Trust, release_bundle, sign_bundle, verify, write, zip_bundle
from edgeship.bundle.manifest import ENVELOPE_BYTES, MAX_SIGNATURES, STATEMENT, envelope_name, is_envelope
from edgeship.bundle.sign import key_id, make_keys
from edgeship.bundle.verify import opened
from edgeship.decide.finished_run import open_run
from edgeship.errors import BundleError
from edgeship.pipeline.provenance import Shipped, statement
from made_trials import finished_run, measured
from vehicle_support import decision

TYPE = "application/vnd.in-toto+json"


@pytest.fixture(scope="module")
def made(trial: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle that carries a statement, signed by the first of two pairs of keys."""
    root = tmp_path_factory.mktemp("envelope")
    item = measured(ms=2.0)
    result = open_run(finished_run(root / "run", item)).result
    told = statement(result, (Shipped("default", result.trials[0], item.trial),))
    (root / "statement.json").write_text(json.dumps(told, indent=2))
    for name in ("a", "b"):
        make_keys(root / f"{name}.pem", root / f"{name}.pub")
    evidence = {Path(STATEMENT).name: root / "statement.json"}
    write(Contents(trial, decision(), evidence=evidence, key=root / "a.pem"), root / "bundle")
    return root


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "bundle", tmp_path / "bundle")


def envelope(made: Path, bundle: Path, name: str = "a") -> Path:
    return bundle / envelope_name(key_id(made / f"{name}.pub"))


def by_the_book(place: Path, public: Path) -> bytes:
    """The payload of an envelope, after its signature was checked as DSSE 1.0.0 says."""
    told = json.loads(place.read_bytes())
    payload, (only,) = base64.b64decode(told["payload"]), told["signatures"]
    encoded = b" ".join((b"DSSEv1", str(len(TYPE)).encode(), TYPE.encode(), str(len(payload)).encode(), payload))
    key: Any = load_pem_public_key(public.read_bytes())
    key.verify(base64.b64decode(only["sig"]), encoded)
    assert told["payloadType"] == TYPE
    assert only["keyid"] == hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
    return payload


def test_other_tools_read_the_envelope_of_exactly_the_statement(made: Path, bundle: Path) -> None:
    payload = by_the_book(envelope(made, bundle), made / "a.pub")
    assert payload == (bundle / STATEMENT).read_bytes()
    Statement.copy_from_pb(json_format.Parse(payload, StatementFields())).validate()
    with pytest.raises(InvalidSignature):
        by_the_book(envelope(made, bundle), made / "b.pub")


def test_each_signer_has_an_envelope_and_a_new_release_removes_them(made: Path, bundle: Path, tmp_path: Path) -> None:
    keys = (made / "a.pub", made / "b.pub")
    with opened(bundle, Trust(keys, threshold=1)) as verified:
        assert verified.attested == (key_id(keys[0]),)
    sign_bundle(bundle, made / "b.pem")
    by_the_book(envelope(made, bundle, "b"), keys[1])
    for place in (bundle, zip_bundle(bundle, tmp_path / "bundle.zip")):
        with opened(place, Trust(keys)) as verified:
            assert set(verified.attested) == {key_id(key) for key in keys}
        with opened(place) as verified:
            assert verified.attested == (), "nothing was checked"
    release_bundle(bundle, Release(release=2))
    assert not any(is_envelope(path.name) for path in bundle.iterdir())
    verify(bundle)


def test_verify_says_what_it_checked(made: Path, bundle: Path) -> None:
    done = processes.edgeship("verify", bundle, "--key", made / "a.pub", "--no-fit", "--json")
    told = json.loads(done.stdout)
    assert told["provenance"] == f"its signed statement matches, by the key {key_id(made / 'a.pub')}"
    envelope(made, bundle).unlink()
    with opened(bundle, made / "a.pub") as verified:
        assert verified.attested == () and verified.signed


def swapped(told: dict[str, Any]) -> None:
    told["payload"] = base64.b64encode(base64.b64decode(told["payload"]).replace(b"default", b"another")).decode()


def forged(told: dict[str, Any]) -> None:
    told["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()


def doubled(told: dict[str, Any]) -> None:
    told["signatures"] *= 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swapped, "holds another statement"),
        (forged, r"the signature in provenance\S+ is not from the key in"),
        (doubled, "is not a DSSE envelope by one key"),
        (lambda told: told.update(payloadType="text/plain"), "is not a DSSE envelope"),
        (lambda told: told["signatures"][0].update(keyid="0" * 16), "one signature with the keyid"),
        (lambda told: told["signatures"][0].update(sig=7), "is not a DSSE envelope"),
        (lambda told: told.update(payload="not base64!"), "is not a DSSE envelope"),
        (lambda told: told.update(more=1), "is not a DSSE envelope"),
        (lambda told: told.update(payload="A" * ENVELOPE_BYTES), "is over"),
    ],
)
def test_a_tampered_envelope_is_refused(
    made: Path, bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    place = envelope(made, bundle)
    told = json.loads(place.read_bytes())
    change(told)
    place.write_text(json.dumps(told))
    for found in (bundle, zip_bundle(bundle, tmp_path / "bundle.zip")):
        with pytest.raises(BundleError, match=said):
            verify(found, made / "a.pub")


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"\xff", b'{"payload": 1, "payload": 2}', b"[" * 100_000])
def test_what_is_no_envelope_is_one_sentence(made: Path, bundle: Path, data: bytes) -> None:
    envelope(made, bundle).write_bytes(data)
    with pytest.raises(BundleError, match="is not a DSSE envelope"):
        verify(bundle, made / "a.pub")


def test_another_keys_envelope_under_this_ones_name_is_refused(made: Path, bundle: Path) -> None:
    sign_bundle(bundle, made / "b.pem")
    told = json.loads(envelope(made, bundle, "b").read_bytes())
    told["signatures"][0]["keyid"] = key_id(made / "a.pub")
    envelope(made, bundle).write_text(json.dumps(told))
    with pytest.raises(BundleError, match="is not from the key in"):
        verify(bundle, made / "a.pub")


def test_an_envelope_without_a_statement_is_refused(made: Path, trial: Path, tmp_path: Path) -> None:
    write(Contents(trial, decision(), key=made / "a.pem"), tmp_path / "bare")
    assert not any(is_envelope(path.name) for path in (tmp_path / "bare").iterdir())
    shutil.copyfile(envelope(made, made / "bundle"), envelope(made, tmp_path / "bare"))
    with pytest.raises(BundleError, match="holds another statement"):
        verify(tmp_path / "bare", made / "a.pub")


def test_names_are_strict_and_few(made: Path, bundle: Path, tmp_path: Path) -> None:
    for name in (
        "provenance.intoto.jsonl",
        "provenance.0123.intoto.jsonl",
        "evidence/provenance.0123456789abcdef.intoto.jsonl",
    ):
        (bundle / name).write_text("{}")
        with pytest.raises(BundleError, match="not in the manifest"):
            verify(bundle)
        (bundle / name).unlink()
    told = json.loads((bundle / "manifest.json").read_text())
    told["files"]["Provenance.0123456789ABCDEF.intoto.jsonl"] = {
        "sha256": "0" * 64,
        "size_bytes": 0,
        "role": "evidence",
    }
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(BundleError, match="from the name of a signature"):
        verify(tmp_path / "listed")
    for number in range(MAX_SIGNATURES):
        (bundle / envelope_name(f"{number:016x}")).write_text("{}")
    with pytest.raises(BundleError, match="17 envelopes"):
        verify(bundle)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
            archive.write(path, str(path.relative_to(bundle)))
    with pytest.raises(BundleError, match="17 envelopes"):
        verify(tmp_path / "many.zip")


def test_a_statement_that_changed_is_not_signed(made: Path, bundle: Path) -> None:
    (bundle / STATEMENT).write_bytes((bundle / STATEMENT).read_bytes().replace(b"default", b"another"))
    with pytest.raises(BundleError, match="has changed"):
        sign_bundle(bundle, made / "b.pem")
    assert not envelope(made, bundle, "b").exists()
