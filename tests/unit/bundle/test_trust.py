"""Several keys with a threshold, release numbers that only grow, models by their id, bundles that expire."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeship.bundle import MANIFEST, SIGNATURE, Contents, Release, Trust, release_bundle, sign_bundle, verify, write
from edgeship.bundle.manifest import is_signature
from edgeship.bundle.sign import key_id, make_keys
from edgeship.bundle.verify import opened
from edgeship.bundle.write import zip_bundle
from edgeship.errors import BundleError, UserInputError
from edgeship.results import Decision
from edgeship.runtime.model import load
from edgeship.trial.run import run_trial
from vehicle_support import decision, ground, make_trial

KEYS = ("a", "b", "c")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and three pairs of keys."""
    root = tmp_path_factory.mktemp("made")
    run_trial(make_trial(root / "trial", ground(root / "ground")))
    write(Contents(root / "trial", decision(), reference=root / "trial"), root / "bundle")
    for name in KEYS:
        make_keys(root / f"{name}.pem", root / f"{name}.pub")
    return root


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def public(made: Path, *names: str) -> tuple[Path, ...]:
    return tuple(made / f"{name}.pub" for name in names)


def test_a_threshold_of_keys(made: Path, bundle: Path) -> None:
    for name in ("a", "b"):
        sign_bundle(bundle, made / f"{name}.pem")
    assert (bundle / f"manifest.{key_id(made / 'a.pub')}.sig").is_file()
    for keys, threshold in ((("a",), None), (("b",), None), (("a", "b"), None), (KEYS, 2), (KEYS, 1)):
        assert verify(bundle, Trust(public(made, *keys), threshold)).verdict == "SHIP"
    for keys, threshold in ((("c",), None), (KEYS, None), (KEYS, 3), (("a", "c"), 2)):
        with pytest.raises(BundleError, match=r"c\.pub"):
            verify(bundle, Trust(public(made, *keys), threshold))
    packed = zip_bundle(bundle, bundle.with_suffix(".zip"))
    assert verify(packed, Trust(public(made, *KEYS), 2)).verdict == "SHIP"


def test_one_key_does_not_count_twice(made: Path, bundle: Path, tmp_path: Path) -> None:
    sign_bundle(bundle, made / "a.pem")
    shutil.copyfile(bundle / SIGNATURE, bundle / f"manifest.{key_id(made / 'b.pub')}.sig")
    with pytest.raises(BundleError, match=r"1 of 2 needed signatures match: none from .*b\.pub"):
        verify(bundle, Trust(public(made, "a", "b")))
    shutil.copyfile(made / "a.pub", tmp_path / "again.pub")
    with pytest.raises(UserInputError, match="given twice"):
        verify(bundle, Trust((made / "a.pub", tmp_path / "again.pub"), 2))


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(UserInputError, match="2 signatures asked for, and 1 key given"):
        Trust((Path("a.pub"),), 2)
    with pytest.raises(UserInputError, match="without a key"):
        Trust(min_release=3)


def test_releases_only_grow(made: Path, bundle: Path) -> None:
    trust = Trust(public(made, "a"), min_release=7, model_id="lane/front")
    sign_bundle(bundle, made / "a.pem")
    with pytest.raises(BundleError, match="it names no model"):
        verify(bundle, trust)
    assert release_bundle(bundle, Release(6, "lane/front")).release == 6
    assert not any(is_signature(path.name) for path in bundle.iterdir()), "signatures are of what it said before"
    sign_bundle(bundle, made / "a.pem")
    with pytest.raises(BundleError, match="release 6"):
        load(bundle, key=Trust(trust.keys, model_id="lane/front"), min_release=7)
    release_bundle(bundle, Release(7))
    sign_bundle(bundle, made / "a.pem")
    with load(bundle, key=Trust(trust.keys, model_id="lane/front"), min_release=7) as model:
        assert (model.manifest.release, model.manifest.model_id) == (7, "lane/front")
    with pytest.raises(BundleError, match="the model 'lane/front'"):
        verify(bundle, Trust(trust.keys, model_id="lane/rear"))


def test_every_refusal_says_what_was_found_expected_and_to_do(made: Path, bundle: Path) -> None:
    (key, other) = public(made, "a", "b")
    asked: list[tuple[Trust, str, str, str]] = [
        (Trust((key,), min_release=7), "it is not signed", "by the key in", "get the bundle again"),
        (Trust((key,), model_id="lane"), "it is the model 'rear'", "the model 'lane'", "get that model's bundle"),
        (Trust((key,), min_release=7), "it is release 6", "release 7 or later: an older", "get the newest bundle"),
        (Trust((key, other)), "1 of 2 needed signatures match", "by 2 of the 2 keys in", "get the bundle again"),
        (Trust((other,)), "the signature is not from the key in", "by the key in", "get the bundle again"),
        (Trust(), "it expired at 2001-01-01T00:00:00Z, and it is 2", "still valid", "get the newest bundle"),
    ]
    for number, (trust, found, expected, do) in enumerate(asked):
        if number == 1:
            release_bundle(bundle, Release(6, "rear"))
            sign_bundle(bundle, made / "a.pem")
        if not trust.keys:
            expire(bundle)
        with pytest.raises(BundleError) as refused:
            load(bundle, key=trust)
        error = refused.value
        assert found in error.found and str(bundle) in error.found, error.found
        assert expected in (error.expected or "") and do in (error.do or ""), (error.expected, error.do)


def expire(bundle: Path) -> None:
    """Let an unsigned bundle have expired long ago."""
    content = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**content, "expires": "2001-01-01T00:00:00Z"}))


def test_an_expired_bundle_is_refused(bundle: Path) -> None:
    release_bundle(bundle, Release(1, expires="2999-01-01T00:00:00Z"))
    verify(bundle)
    strange = ("tomorrow", "2030-01-01", "2030-01-01T00:00:00+01:00", "2030-02-30T00:00:00Z", "9999-99-99T99:99:99Z")
    for text in (*strange, "2001-01-01T00:00:00Z", "0226-01-01T00:00:00Z"):
        with pytest.raises(UserInputError, match="expires"):
            release_bundle(bundle, Release(expires=text))
    expire(bundle)
    for ask in (verify, load, lambda path: release_bundle(path, Release(2))):
        with pytest.raises(BundleError, match="expired at 2001"):
            ask(bundle)
    release_bundle(bundle, Release(expires="2999-01-01T00:00:00Z"))
    assert verify(bundle).release == 1, "who made it gives it a later expiry"


def test_only_what_ships_is_signed_and_loaded(made: Path, tmp_path: Path) -> None:
    lost = Decision(verdict="NO-SHIP", chosen=None, sentence="NO-SHIP: too slow", judged=decision().judged)
    contents = Contents(made / "trial", lost, reference=made / "trial")
    write(contents, tmp_path / "bundle")
    assert verify(tmp_path / "bundle").verdict == "NO-SHIP"
    with pytest.raises(BundleError, match="its verdict is NO-SHIP: NO-SHIP: too slow"):
        load(tmp_path / "bundle")
    with pytest.raises(BundleError, match="allow-no-ship"):
        sign_bundle(tmp_path / "bundle", made / "a.pem")
    with pytest.raises(BundleError, match="allow-no-ship"):
        release_bundle(tmp_path / "bundle", Release(1))
    with pytest.raises(BundleError, match="NO-SHIP"):
        write(Contents(made / "trial", lost, key=made / "a.pem"), tmp_path / "signed")
    sign_bundle(tmp_path / "bundle", made / "a.pem", allow_no_ship=True)
    with load(tmp_path / "bundle", key=made / "a.pub", allow_no_ship=True) as model:
        assert model.manifest.verdict == "NO-SHIP"


def test_what_is_signed_is_what_was_verified(made: Path, bundle: Path) -> None:
    with opened(bundle) as verified:
        assert verified.data == (bundle / MANIFEST).read_bytes()
    sign_bundle(bundle, made / "a.pem")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key((made / "a.pub").read_bytes())
    key.verify((bundle / SIGNATURE).read_bytes(), verified.data)  # type: ignore[union-attr,call-arg,arg-type]
