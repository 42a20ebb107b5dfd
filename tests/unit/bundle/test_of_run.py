"""A bundle that is named by its run's folder is signed only as the run wrote it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeship.bundle import MANIFEST, Contents, Release, release_bundle, verify, write
from edgeship.bundle.of_run import BUNDLES, Written, content_digest, require_of_run, stands
from edgeship.errors import ArtifactError, BundleError
from edgeship.files import sha256_bytes, sha256_file
from edgeship.results import read
from edgeship.results import write as write_result
from edgeship.results.seal import SEAL, seal
from edgeship.trial.run import run_trial
from vehicle_support import decision, ground, make_trial


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its bundle, as ``ship`` leaves them."""
    root = tmp_path_factory.mktemp("of-run")
    run_trial(make_trial(root / "trial", ground(root / "ground")))
    (root / "run" / "stages").mkdir(parents=True)
    (root / "run" / "result.json").write_text("{}")
    manifest = write(Contents(root / "trial", decision(), reference=root / "trial"), root / "run" / "bundle")
    write_result(Written(bundles={"bundle": content_digest(manifest)}), root / "run" / BUNDLES)
    seal(root / "run", "run", 1.0, ("result.json", BUNDLES))
    return root / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def restate(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and bring its hashes in step with the files: the bundle is whole by its own word."""
    content = json.loads((bundle / MANIFEST).read_text())
    change(content)
    for name, entry in content["files"].items():
        data = (bundle / name).read_bytes()
        entry.update(sha256=sha256_bytes(data), size_bytes=len(data))
    (bundle / MANIFEST).write_text(json.dumps(content))
    verify(bundle)


def test_as_it_was_written_and_with_a_release_it_is_the_runs(run: Path) -> None:
    require_of_run(run, run / "bundle")
    release_bundle(run / "bundle", Release(7, "front", "2999-01-01T00:00:00Z"))
    require_of_run(run, run / "bundle")


def test_a_bundle_stands_while_every_file_is_as_the_run_wrote_it(run: Path) -> None:
    bundle, noted = run / "bundle", read(Written, run / BUNDLES).bundles["bundle"]
    assert stands(bundle, noted, sha256_file)
    release_bundle(bundle, Release(7, "front", "2999-01-01T00:00:00Z"))
    (bundle / "manifest.sig").write_bytes(bytes(64))
    assert stands(bundle, noted, sha256_file), "release and signatures are given to it afterwards"
    assert not stands(bundle, "0" * 64, sha256_file)
    assert not stands(run / "none", noted, sha256_file)
    (bundle / "engine.txt").write_text("x")
    assert not stands(bundle, noted, sha256_file), "a file that the manifest does not name"
    (bundle / "engine.txt").unlink()
    data = (bundle / "known.npz").read_bytes()
    (bundle / "known.npz").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not stands(bundle, noted, sha256_file)
    (bundle / "known.npz").rename(run / "known.npz")
    assert not stands(bundle, noted, sha256_file)
    (run / "known.npz").write_bytes(data)
    (bundle / "known.npz").symlink_to(run / "known.npz")
    assert not stands(bundle, noted, sha256_file), "the very bytes, but behind a link"


def edit_evidence(bundle: Path) -> None:
    path = bundle / "evidence" / "candidate" / "trial.json"
    path.write_text(path.read_text().replace('"p50"', '"p50" '))
    restate(bundle, lambda content: None)


CHANGES: dict[str, Callable[[Path], object]] = {
    "evidence": edit_evidence,
    "sentence": lambda bundle: restate(bundle, lambda content: content.update(sentence="SHIP, trust me")),
    "preprocessing": lambda bundle: restate(bundle, lambda content: content["preprocess"].update(mean=[0.0])),
    "floor": lambda bundle: restate(bundle, lambda content: content["known_answer"].update(min_snr_db=10.0)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_bundle_that_was_changed_is_not(run: Path, what: str) -> None:
    CHANGES[what](run / "bundle")
    with pytest.raises(BundleError, match="is not the bundle that the run in"):
        require_of_run(run, run / "bundle")


@pytest.mark.parametrize("name", ["result.json", BUNDLES, SEAL])
def test_a_run_that_was_changed_or_did_not_end_signs_nothing(run: Path, name: str) -> None:
    (run / name).write_text((run / name).read_text() + " ")
    if name == SEAL:
        (run / name).unlink()
    with pytest.raises(ArtifactError, match="not as the run left it"):
        require_of_run(run, run / "bundle")


def test_the_folder_of_a_rebuilt_engine_is_no_runs(run: Path) -> None:
    shutil.rmtree(run / "stages")
    (run / SEAL).unlink()
    require_of_run(run, run / "bundle")
