"""A finished run is answered from its note only while nothing that it rests on differs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeship.unchanged import NOTE, Asked, answered, complete, note


def flip_and_set_back(root: Path) -> None:
    """Change a file and give it its old size and time of modification: what is left is the kernel's time of change."""
    image = root / "val" / "a.png"
    before = image.stat()
    image.write_bytes(b"y")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (image.stat().st_size, image.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


CHANGES: dict[str, Callable[[Path], object]] = {
    "an image's bytes": flip_and_set_back,
    "one more image": lambda root: (root / "val" / "b.png").write_bytes(b"x"),
    "labels that were not there": lambda root: (root / "labels.csv").write_text("a.png,1"),
    "an image less": lambda root: (root / "val" / "a.png").unlink(),
    "the config": lambda root: (root / "edgeship.toml").write_text("[model] "),
    "the report": lambda root: (root / "out" / "report.html").write_text("SHIP"),
    "the verdict": lambda root: (root / "out" / "result.json").write_text("{} "),
    "the engine": lambda root: (root / "out" / "stages" / "trial-1" / "model.engine.onnx").write_bytes(b"e"),
    "one more file of a stage": lambda root: (root / "out" / "stages" / "trial-1" / "more.npz").write_bytes(b"e"),
    "the bundle": lambda root: (root / "out" / "bundle" / "engine.onnx").write_bytes(b"f"),
    "the note": lambda root: (root / "out" / NOTE).write_text(
        (root / "out" / NOTE).read_text().replace("SHIP it", "SHIP me")
    ),
    "a note that is none": lambda root: (root / "out" / NOTE).write_text("[1"),
    "the note behind a link": lambda root: (
        (root / "out" / NOTE).rename(root / "note"),
        (root / "out" / NOTE).symlink_to(root / "note"),
    ),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose run has ended, and its note."""
    for name in ("val/a.png", "edgeship.toml", "out/result.json", "out/report.html", "out/stages/trial-1/trial.json",
                 "out/stages/trial-1/model.engine.onnx", "out/bundle/manifest.json", "out/bundle/engine.onnx",
                 "out/lock", "out/hashes.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    note(tmp_path / "out", [str(tmp_path / "val" / "a.png")], ["stages/trial-1"], tmp_path)
    assert answered(tmp_path / "out", asked(tmp_path)) is None, "a run that has not said its verdict yet"
    complete(tmp_path / "out", asked(tmp_path), "SHIP it")
    return tmp_path


def asked(root: Path) -> Asked:
    return Asked(root / "edgeship.toml", ("gate.min_agreement=0.9",), (False, 120))


def test_what_is_as_it_was_is_answered(root: Path) -> None:
    assert answered(root / "out", asked(root)) == "SHIP it"
    assert answered(root / "out", replace(asked(root), config=root)) == "SHIP it"
    for name in ("lock", "hashes.json"):
        (root / "out" / name).write_text("anew")
    (root / "edgeship-history.sqlite-journal").write_text("of a database at work")
    assert answered(root / "out", asked(root)) == "SHIP it"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_differs_leads_to_an_ordinary_run(root: Path, change: Callable[[Path], object]) -> None:
    change(root)
    assert answered(root / "out", asked(root)) is None


def test_another_question_leads_to_an_ordinary_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answered(root / "out", replace(asked(root), changes=())) is None
    assert answered(root / "out", replace(asked(root), screen=(True, 80))) is None
    assert answered(root / "val", asked(root)) is None
    monkeypatch.setenv("EDGESHIP_CACHE", "elsewhere")
    assert answered(root / "out", asked(root)) is None


def test_a_note_of_another_user_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = (root / "out" / NOTE).stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert answered(root / "out", asked(root)) is None


def test_another_machine_or_installed_package_leads_to_an_ordinary_run(root: Path) -> None:
    place = root / "out" / NOTE
    for key in ("machine", "installed"):
        kept = place.read_text()
        found = json.loads(kept)
        del found["digest"]
        place.write_text(json.dumps({**found, key: {}}))
        complete(root / "out", asked(root), "SHIP it")
        assert answered(root / "out", asked(root)) is None
        place.write_text(kept)
