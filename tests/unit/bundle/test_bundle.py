"""Bundles: written, packed, signed; and every way one can be wrong is refused before an engine sees it."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeship.bundle import MANIFEST, Contents, opened, verify, write, zip_bundle
from edgeship.bundle.manifest import CalibrationProvenance, Manifest, check_path, parse, schema
from edgeship.bundle.sign import make_keys
from edgeship.bundle.verify import check_models
from edgeship.bundle.write import sign_bundle
from edgeship.config import Gate
from edgeship.errors import ArtifactError, BundleError, EdgeshipError, UserInputError
from edgeship.files import sha256_bytes
from edgeship.pipeline.rebuild import RebuildOptions, rebuild
from edgeship.results import Artifact, Failure, Trial, trial_folder
from edgeship.results import read as read_result
from edgeship.results import write as write_result
from vehicle_support import QUICK, decision


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    make_keys(folder / "key.pem", folder / "pub.pem")
    return folder / "key.pem", folder / "pub.pem"


@pytest.fixture(scope="module")
def pristine(trial: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pristine") / "bundle"
    licence = trial.parent / "LICENSE.txt"
    licence.write_text("do what you like\n")
    write(Contents(trial, decision(), reference=trial, licences={"LICENSE.txt": licence}, key=keys[0]), place)
    return place


def test_weights_of_a_large_model_lie_in_the_bundle_with_their_hash(trial: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    shutil.copytree(trial, folder)
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    spec = trial_folder.read_spec(folder)
    trial_folder.write_spec(spec.model_copy(update={"model": Artifact.of(folder / "model.onnx", folder)}), folder)
    made = write(Contents(folder, decision(), reference=trial), tmp_path / "bundle")
    assert made.files["model.onnx.data"].role == "model"
    check_models(tmp_path / "bundle", verify(tmp_path / "bundle"))
    (tmp_path / "bundle" / "model.onnx.data").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.onnx\.data"):
        verify(tmp_path / "bundle")


def test_a_bundle_says_what_it_is(pristine: Path, trial: Path) -> None:
    manifest = verify(pristine)
    assert manifest.verdict == "SHIP"
    assert [info.name for info in manifest.inputs] == ["images"]
    assert manifest.batch_range == (1, 4)
    assert manifest.classes == ("car", "cyclist", "pedestrian")
    assert manifest.metrics["top1"] == 1.0
    assert manifest.latency_ms is not None and manifest.latency_clock == "wall"
    assert manifest.evaluation is not None and manifest.evaluation.images is None
    assert (pristine / manifest.engine).read_bytes() == (trial / "engine.onnx").read_bytes()
    assert str(trial) not in (pristine / MANIFEST).read_text()
    assert manifest.files["licences/LICENSE.txt"].role == "licence"


def test_the_same_trial_gives_the_same_bytes(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    contents = Contents(trial, decision(), reference=trial)
    zips = []
    for name in ("a", "b"):
        write(contents, tmp_path / name)
        zips.append(zip_bundle(tmp_path / name, tmp_path / f"{name}.zip").read_bytes())
    assert zips[0] == zips[1]


def test_writing_the_same_bundle_again_keeps_its_signature(
    trial: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    contents = Contents(trial, decision())
    write(contents, tmp_path / "b")
    sign_bundle(tmp_path / "b", keys[0])
    write(contents, tmp_path / "b")
    assert verify(tmp_path / "b", keys[1]).verdict == "SHIP"


def test_changed_evidence_is_written_again_and_its_signature_goes(
    trial: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Also where the manifest was made to agree with the changed file."""
    (tmp_path / "report.html").write_text("12:00")
    contents = Contents(trial, decision(), evidence={"report.html": tmp_path / "report.html"})
    place = tmp_path / "bundle"
    write(contents, place)
    sign_bundle(place, keys[0])
    (place / "evidence" / "report.html").write_text("<h1>SHIP, trust me</h1>")
    listed = json.loads((place / "manifest.json").read_text())
    data = (place / "evidence" / "report.html").read_bytes()
    listed["files"]["evidence/report.html"] |= {"sha256": sha256_bytes(data), "size_bytes": len(data)}
    (place / "manifest.json").write_text(json.dumps(listed, indent=2) + "\n")
    write(contents, place)
    assert (place / "evidence" / "report.html").read_text() == "12:00"
    with pytest.raises(BundleError, match=r"not signed|no signature"):
        verify(place, keys[1])


def test_a_bundle_holds_its_calibration_and_the_evidence_and_keeps_them_when_rebuilt(
    trial: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "calib.cache").write_text("TRT-8601-EntropyCalibration2\nimages: 3c010a14\n")
    (tmp_path / "calib.cache.json").write_text("{}")
    (tmp_path / "report.html").write_text("12:00")
    contents = Contents(
        trial,
        decision(),
        reference=trial,
        gate=Gate(latency_p50_ms=1000.0),
        calibration=CalibrationProvenance(
            method="entropy", frames=4, frames_sha256="f", graph_sha256="g", preprocess_sha256="p"
        ),
        cache=tmp_path / "calib.cache",
        prepared={"torch": "2.9.0", "exporter": "torch.onnx 2.9.0"},
        evidence={"report.html": tmp_path / "report.html"},
    )
    place = tmp_path / "bundle"
    write(contents, place)
    made = verify(place)
    assert made.cache == "calibration.cache" and made.files[made.cache].role == "cache"
    assert {"calibration.cache.json", "evidence/report.html"} <= set(made.files)

    sign_bundle(place, keys[0])
    write(contents, place)
    assert verify(place, keys[1]) == made, "the same files keep their signature"
    (tmp_path / "report.html").write_text("12:01, every stage reused")
    write(contents, place)
    assert (place / "evidence" / "report.html").read_text() == "12:01, every stage reused"
    with pytest.raises(BundleError, match="not signed"):
        verify(place, keys[1])

    done = rebuild(place, tmp_path / "again", RebuildOptions(benchmark=QUICK))
    assert done.bundle is not None
    again = verify(done.bundle)
    assert (again.calibration, again.prepared, again.cache) == (made.calibration, made.prepared, made.cache)
    assert "evidence/rebuilt-from/report.html" in again.files
    assert not (tmp_path / "again" / "trial" / "calibration.cache").exists()


def test_the_docs_name_the_schema_and_its_keys() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "manifest.md").read_text()
    assert "manifest.schema.json" in page
    assert all(f"| `{name}` |" in page for name in Manifest.model_fields)


def test_a_folder_that_is_no_bundle_is_not_replaced(trial: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(BundleError, match="is not a bundle"):
        write(Contents(trial, decision()), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_failed_or_changed_trial_is_not_bundled(trial: Path, tmp_path: Path) -> None:
    copy = tmp_path / "trial"
    shutil.copytree(trial, copy)
    (copy / "engine.onnx").write_bytes(b"another engine")
    with pytest.raises(ArtifactError, match="has changed"):
        write(Contents(copy, decision()), tmp_path / "b")
    failure = Failure(stage="build", kind="BuildError", message="no kernel")
    write_result(read_result(Trial, copy / "trial.json").model_copy(update={"failure": failure}), copy / "trial.json")
    with pytest.raises(ArtifactError, match="no kernel"):
        write(Contents(copy, decision()), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def _append(bundle: Path) -> None:
    with (bundle / "engine.onnx").open("ab") as stream:
        stream.write(b"x")


def _flip(bundle: Path) -> None:
    data = bytearray((bundle / "engine.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "engine.onnx").write_bytes(bytes(data))


def _link(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    shutil.copyfile(bundle / "engine.onnx", outside)
    (bundle / "engine.onnx").unlink()
    (bundle / "engine.onnx").symlink_to(outside)


def _linked_folder(bundle: Path) -> None:
    shutil.move(bundle / "evidence", bundle.parent / "evidence")
    (bundle / "evidence").symlink_to(bundle.parent / "evidence")


def _edit(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def apply(bundle: Path) -> None:
        content = json.loads((bundle / MANIFEST).read_text())
        change(content)
        (bundle / MANIFEST).write_text(json.dumps(content))

    return apply


def _rename(old: str, new: str) -> Callable[[Path], None]:
    def change(content: dict[str, object]) -> None:
        files = content["files"]
        assert isinstance(files, dict)
        files[new] = files.pop(old)

    return _edit(change)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "longer file": (_append, "engine.onnx' has"),
    "flipped bit": (_flip, "has changed"),
    "missing file": (lambda bundle: (bundle / "known.npz").unlink(), "is missing"),
    "extra file": (lambda bundle: (bundle / "extra.so").write_bytes(b""), "is not in the manifest"),
    "hidden extra file": (lambda bundle: (bundle / ".hidden").write_bytes(b""), "is not in the manifest"),
    "link": (_link, "is a link"),
    "linked folder": (_linked_folder, "is a link"),
    "pipe": (lambda bundle: os.mkfifo(bundle / "pipe"), "special file"),
    "deep folders": (lambda bundle: (bundle / "/".join("d" * 40)).mkdir(parents=True), "nested deeper"),
    "no manifest": (lambda bundle: (bundle / MANIFEST).unlink(), "manifest.json is missing"),
    "manifest cut short": (lambda bundle: os.truncate(bundle / MANIFEST, 100), "manifest is not valid"),
    "manifest no JSON": (lambda bundle: (bundle / MANIFEST).write_bytes(b"\xff\xfe"), "manifest is not valid"),
    "manifest nested": (lambda bundle: (bundle / MANIFEST).write_text("[" * 100000), "manifest is not valid"),
    "manifest huge": (lambda bundle: os.truncate(bundle / MANIFEST, (16 << 20) + 1), "is over"),
    "other schema": (_edit(lambda content: content.update(schema_version=2)), "schema_version"),
    "unknown key": (_edit(lambda content: content.update(run="rm")), "run"),
    "absolute path": (_rename("known.npz", "/etc/passwd"), "is not allowed"),
    "path that leaves": (_rename("known.npz", "../known.npz"), "is not allowed"),
    "backslash": (_rename("known.npz", "..\\known.npz"), "is not allowed"),
    "engine elsewhere": (_edit(lambda content: content.update(engine="model.onnx")), "named as the engine"),
    "engine unlisted": (_edit(lambda content: content.update(engine="other.onnx")), "not among the files"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_a_damaged_bundle_is_refused(bundle: Path, name: str) -> None:
    damage, words = DAMAGE[name]
    damage(bundle)
    with pytest.raises(BundleError, match=words):
        verify(bundle)


def test_the_right_key_and_only_it_opens_a_signed_bundle(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    verify(bundle, keys[1])
    make_keys(tmp_path / "other.pem", tmp_path / "other_pub.pem")
    with pytest.raises(BundleError, match="not from the key"):
        verify(bundle, tmp_path / "other_pub.pem")
    content = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**content, "sentence": "SHIP it"}))
    verify(bundle)
    with pytest.raises(BundleError, match="not from the key"):
        verify(bundle, keys[1])
    for path in bundle.glob("manifest.*sig"):
        path.unlink()
    with pytest.raises(BundleError, match="not signed"):
        verify(bundle, keys[1])


def test_openssh_keys_sign_too(bundle: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    key = ed25519.Ed25519PrivateKey.generate()
    ssh, plain = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    (tmp_path / "id").write_bytes(key.private_bytes(serialization.Encoding.PEM, ssh, plain))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (tmp_path / "id.pub").write_bytes(public + b" engineer@desk\n")
    sign_bundle(bundle, tmp_path / "id")
    assert verify(bundle, tmp_path / "id.pub").verdict == "SHIP"
    other = rsa.generate_private_key(65537, 2048)
    pem = other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (tmp_path / "rsa.pem").write_bytes(pem)
    with pytest.raises(UserInputError, match="not an Ed25519 private key"):
        sign_bundle(bundle, tmp_path / "rsa.pem")
    with pytest.raises(UserInputError, match="cannot be read"):
        verify(bundle, tmp_path / "absent.pub")


def test_a_zip_is_verified_as_the_folder_is(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    packed = zip_bundle(bundle, tmp_path / "b.zip")
    with opened(packed, keys[1]) as verified:
        unpacked = verified.folder
        assert verified.signed and (unpacked / "engine.onnx").is_file()
        assert unpacked.stat().st_mode & 0o077 == 0
    assert not unpacked.exists()


def _zips(bundle: Path, place: Path) -> Iterator[tuple[str, Path, str]]:
    """Hostile zips made from a good bundle: name, file, words of the refusal."""
    good = zip_bundle(bundle, place / "good.zip")

    def copy(name: str, change: Callable[[zipfile.ZipFile], None], leave: str = "") -> Path:
        made = place / name
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(made, "w") as sink:
            for info in source.infolist():
                if info.filename != leave:
                    sink.writestr(info, source.read(info))
            change(sink)
        return made

    yield "escape", copy("escape.zip", lambda sink: sink.writestr("../evil", b"x")), "not allowed"
    yield "absolute", copy("absolute.zip", lambda sink: sink.writestr("/tmp/evil", b"x")), "not allowed"
    yield "extra", copy("extra.zip", lambda sink: sink.writestr("extra", b"x")), "not in the manifest"
    yield "missing", copy("missing.zip", lambda sink: None, leave="known.npz"), "known.npz is missing"
    yield "no manifest", copy("headless.zip", lambda sink: None, leave=MANIFEST), "manifest.json is missing"

    link = zipfile.ZipInfo("known.npz")
    link.external_attr = 0o120777 << 16
    yield "link", copy("link.zip", lambda sink: sink.writestr(link, "/etc/passwd"), leave="known.npz"), "is a link"

    packed = zipfile.ZipInfo("known.npz")
    packed.compress_type = zipfile.ZIP_LZMA
    yield "method", copy("lzma.zip", lambda sink: sink.writestr(packed, b"x"), leave="known.npz"), "packed by method"

    bomb = place / "bomb.zip"
    content = json.loads((bundle / MANIFEST).read_text())
    content["files"]["model.onnx"]["size_bytes"] = 1 << 28
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as sink:
        sink.writestr(MANIFEST, json.dumps(content))
        for name in content["files"]:
            if name == "model.onnx":
                with sink.open(name, "w") as stream:
                    for _ in range(1 << 8):
                        stream.write(bytes(1 << 20))
            else:
                sink.writestr(name, source.read(name))
    yield "bomb", bomb, "zip bomb"

    cut = place / "cut.zip"
    cut.write_bytes(good.read_bytes()[:-40])
    yield "cut", cut, "cut.zip"
    text = place / "text.zip"
    text.write_text("no zip at all")
    yield "text", text, "not a readable zip"
    yield "absent", place / "absent.zip", "does not exist"


def test_hostile_zips_are_refused(bundle: Path, tmp_path: Path) -> None:
    before = set(tmp_path.parent.rglob("evil"))
    for name, path, words in _zips(bundle, tmp_path):
        with pytest.raises(BundleError, match=words):
            verify(path)
        assert name
    assert set(tmp_path.parent.rglob("evil")) == before


def test_paths_with_plain_characters_only() -> None:
    for good in ("engine.onnx", "evidence/candidate/trial.json", "licences/LICENSE 2.0.txt", "plugins/libx.so.1"):
        check_path(good)
    for bad in ("", ".", "..", "a/../b", "a//b", "/a", "a/", ".a", "a\0b", "a\nb", "a:b", "a.", "a ", "ä", "a" * 600):
        with pytest.raises(ValueError, match="path"):
            check_path(bad)


def test_the_published_schema_is_the_models_own() -> None:
    import edgeship.bundle.manifest as module

    published = Path(module.__file__).with_name("manifest.schema.json")
    assert json.loads(published.read_text()) == schema(), (
        "write schema() of edgeship.bundle.manifest to manifest.schema.json again"
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_of_a_manifest_gets_a_traceback(pristine: Path, data: st.DataObject) -> None:
    raw = bytearray((pristine / MANIFEST).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(raw) - 1))
        length = data.draw(st.integers(0, 8))
        raw[position : position + length] = data.draw(st.binary(max_size=8))
        if not raw:
            raw = bytearray(b"{")
    try:
        manifest = parse(bytes(raw), "mutated")
    except EdgeshipError as error:
        assert str(error)
    else:
        assert all(not name.startswith(("/", ".")) for name in manifest.files)
