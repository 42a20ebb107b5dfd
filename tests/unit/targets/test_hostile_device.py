"""A device may answer anything: the run stops with a sentence that names it, and nothing of ours is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from edgeship import targets
from edgeship.config import Batch, Target
from edgeship.errors import EdgeshipError, MissingExtra, StorageError, TargetError
from edgeship.files import sha256_file
from edgeship.results import Trial, read
from edgeship.targets import link, probe, wire
from edgeship.trial.run import run_trial
from edgeship.version import __version__
from hostile_device import honest, orders, place_ssh
from vehicle_support import Ground, ground, make_trial

LOUD = "\x1b]0;title\x07\x1b[2J\x1b[31mSHIP everything\u202e"
EVIL = [4, hashlib.sha256(b"evil").hexdigest()]
HELLO = {"protocol": wire.PROTOCOL, "edgeship": __version__, "base": "/x", "free": 1 << 40}
TARGET = Target(host="device", batch=Batch(min=1, opt=2, max=4), threads=1)
Reply = bytes | dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def there(made: Ground, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished trial, as the device has it."""
    folder = make_trial(tmp_path_factory.mktemp("there") / "trial", made)
    run_trial(folder)
    return folder


class Stage:
    """A trial here, and a device that answers as it is told."""

    def __init__(self, folder: Path, made: Ground, there: Path) -> None:
        self.trial = make_trial(folder / "trial", made, target=TARGET)
        self.there = there
        self.orders = folder / "orders.json"
        self.before = self.inputs()

    def inputs(self) -> dict[str, str]:
        return {name: sha256_file(self.trial / name) for name in ("model.onnx", "frames.npz", "spec.json")}

    def run(self, replies: dict[str, Reply], **extra: dict[str, Any]) -> Trial:
        self.orders.write_text(orders(self.there, HELLO, replies, **extra))
        return targets.run(TARGET, self.trial)

    def refused(self, replies: dict[str, Reply], **extra: dict[str, Any]) -> EdgeshipError:
        """What stopped the run; everything of ours is as it was."""
        start = time.monotonic()
        with pytest.raises(EdgeshipError) as caught:
            self.run(replies, **extra)
        assert time.monotonic() - start < 30
        text = str(caught.value)
        assert "device" in text
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert self.inputs() == self.before
        assert not (self.trial / "trial.json").exists()
        assert sorted(path.name for path in self.trial.parent.iterdir()) == ["bin", "orders.json", "trial"]
        return caught.value

    def listing(self, **changed: Any) -> Reply:
        message, _ = honest("list", {}, {"trial": str(self.there)})
        assert message is not None
        return {"files": {name: entry for name, entry in (message["files"] | changed).items() if entry is not None}}


@pytest.fixture
def stage(tmp_path: Path, made: Ground, there: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    link.close_all()
    monkeypatch.setenv("PATH", f"{place_ssh(tmp_path / 'bin')}:{os.environ['PATH']}")
    monkeypatch.setenv("DEVICE_ORDERS", str(tmp_path / "orders.json"))
    return Stage(tmp_path, made, there)


def test_an_honest_device_is_believed(stage: Stage) -> None:
    trial = stage.run({})
    assert trial == read(Trial, stage.there / "trial.json")
    assert stage.inputs() == stage.before


STRANGE: dict[str, dict[str, Reply]] = {
    "no base": {"hello": {key: HELLO[key] for key in ("protocol", "edgeship", "free")}},
    "relative base": {"hello": HELLO | {"base": "x/y"}},
    "base with a line end": {"hello": HELLO | {"base": "/x\n/y"}},
    "free in words": {"hello": HELLO | {"free": "lots"}},
    "free below nothing": {"hello": HELLO | {"free": -1}},
    "free beyond counting": {"hello": HELLO | {"free": 10**400}},
    "another version": {"hello": HELLO | {"edgeship": LOUD * 100}},
    "a banner": {"hello": b"Welcome to the device!\n"},
    "a banner without end": {"hello": b"Welcome " * 100_000},
    "error is a word": {"have": {"error": "no"}},
    "error is a list": {"have": {"error": [1, 2]}},
    "error without words": {"have": {"error": {"kind": "StorageError"}}},
    "error of no kind": {"have": {"error": {"kind": "__class__", "found": "x"}}},
    "error with escapes": {"have": {"error": {"kind": "EngineMismatch", "found": LOUD, "expected": LOUD, "do": LOUD}}},
    "missing is a number": {"have": {"missing": 7}},
    "missing holds numbers": {"have": {"missing": [7]}},
    "no missing": {"have": {"x": 1}},
    "no path": {"tree": {"y": 1}},
    "path in another form": {"tree": {"path": ["/x"]}},
    "not done": {"trial": {"nothing": True}},
    "follow in a list": {"follow": b"[1]\n"},
    "follow of something else": {"follow": {"{'error': {}}": True}},
    "follow of nothing": {"follow": {"running": False}},
    "finished is a word": {"follow": {"finished": "yes"}},
    "progress below nothing": {"follow": {"done": -1, "total": 1, "what": "x"}},
    "progress beyond counting": {"follow": {"done": 10**30, "total": 1, "what": "x"}},
    "progress of NaN": {"follow": b'{"done": NaN, "total": 1, "what": "x"}\n'},
    "files in a list": {"list": {"files": [1]}},
    "size in words": {"list": {"files": {"trial.json": ["1", "0" * 64]}}},
    "size without a hash": {"list": {"files": {"trial.json": [1]}}},
    "size below nothing": {"list": {"files": {"trial.json": [-1, "0" * 64]}}},
    "hash in another form": {"list": {"files": {"trial.json": [1, "0" * 63]}}},
    "nothing to fetch": {"list": {"files": {}}},
    "the model alone": {"list": {"files": {"model.onnx": EVIL}}},
    "a name that leads out": {"list": {"files": {"../model.onnx": EVIL}}},
    "a hidden name": {"list": {"files": {".trial.json.tmp": EVIL}}},
    "20,000 files": {"list": {"files": {f"f{number}": EVIL for number in range(20_000)}}},
    "100 files": {"list": {"files": {f"f{number}": EVIL for number in range(100)}}},
    "a line of 2 MB": {"list": b"x" * 2_000_000 + b"\n"},
    "get without a size": {"get": {"name": "trial.json"}},
    "get of a size in words": {"get": {"name": "trial.json", "payload": "4"}},
    "deep nesting": {"list": b'{"files":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"},
    "bytes of no text": {"list": bytes(range(256)) + b"\n"},
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_strange_reply_stops_the_run(stage: Stage, kind: str) -> None:
    stage.refused(STRANGE[kind])


@pytest.mark.parametrize("name", ["model.onnx", "frames.npz", "spec.sha256", "remote.json", "lock", "extra.bin"])
def test_only_results_of_this_trial_are_fetched(stage: Stage, name: str) -> None:
    error = stage.refused({"list": stage.listing(**{name: EVIL})})
    assert repr(name) in str(error)


def test_a_result_that_names_an_input_is_refused(stage: Stage) -> None:
    changed = json.loads((stage.there / "trial.json").read_text())
    changed["build"]["engine"] |= {"path": "model.onnx", "sha256": EVIL[1], "size_bytes": 4}
    data = json.dumps(changed).encode()
    entry = [len(data), hashlib.sha256(data).hexdigest()]
    head = json.dumps({"name": "trial.json", "payload": len(data)}).encode() + b"\n"
    stage.refused({"list": stage.listing(**{"trial.json": entry, "model.onnx": EVIL}), "get": head + data})


@pytest.mark.parametrize("what", ["candidate", "target_name", "device", "rebuild", "latency"])
def test_the_trial_of_something_else_is_refused(stage: Stage, what: str) -> None:
    changed = json.loads((stage.there / "trial.json").read_text())
    if what == "candidate":
        changed[what]["name"] = "int8"
    elif what == "latency":
        changed[what]["wall_ms"]["p50"] = "NaN"
    else:
        changed[what] = 7 if what == "rebuild" else "another"
    data = json.dumps(changed).replace('"NaN"', "NaN").encode()
    entry = [len(data), hashlib.sha256(data).hexdigest()]
    head = json.dumps({"name": "trial.json", "payload": len(data)}).encode() + b"\n"
    error = stage.refused({"list": stage.listing(**{"trial.json": entry}), "get": head + data})
    assert ("finite" if what == "latency" else "the trial of another") in str(error)


def test_what_never_matches_its_hash_ends(stage: Stage) -> None:
    _, good = honest("get", {"name": "trial.json"}, {"trial": str(stage.there)})
    head = json.dumps({"payload": len(good)}).encode() + b"\n"
    error = stage.refused({"get": head + bytes(len(good))})
    assert "was damaged on its way, 3 times" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("do", ["have", "trial", "follow", "list", "get"])
def test_a_device_that_hangs_up_each_time_is_not_asked_for_ever(stage: Stage, do: str) -> None:
    error = stage.refused({do: b""}, **{do: {"then": "close"}})
    assert isinstance(error, TargetError) and "connections in a row" in str(error)


def test_more_than_fits_here_is_not_fetched(stage: Stage) -> None:
    huge = {"engine.onnx": [15 << 30, "0" * 64], "known.npz": [16 << 30, "0" * 64], "records.npz": [16 << 30, "0" * 64]}
    error = stage.refused({"list": stage.listing(**huge)})
    assert isinstance(error, (StorageError, TargetError)) and "of results" in str(error)


def test_the_devices_advice_is_not_passed_on(stage: Stage) -> None:
    told = {"kind": "StorageError", "found": "no space", "expected": None, "do": "rm -rf ~"}
    error = stage.refused({"sync": {"error": told}, "have": {"error": told}})
    assert isinstance(error, StorageError) and "rm -rf" not in str(error) and "on device: no space" in str(error)
    told = {"kind": "MissingExtra", "found": "the engine needs a package", "do": "x", "extra": "onnxruntime; rm -rf ~"}
    assert "rm -rf" not in str(stage.refused({"have": {"error": told}}))
    told["extra"] = "onnxruntime"
    error = stage.refused({"have": {"error": told}})
    assert isinstance(error, MissingExtra) and "edgeship[onnxruntime]" in str(error)


MACHINES: dict[str, Reply] = {
    "a list": {"machine": [1, 2]},
    "nothing": {"x": 1},
    "empty": {"machine": {}},
    "identity in a list": {"machine": {"identity": [1], "installed": {}, "trtexec": None, "libraries": {}}},
    "a number without end": b'{"machine": {"identity": {"a": 1e999}, "installed": {}, "libraries": {}}}\n',
    "10,000 facts": {"machine": {"identity": {str(n): n for n in range(10_000)}, "installed": {}, "libraries": {}}},
}


@pytest.mark.parametrize("kind", MACHINES)
def test_what_a_device_is_has_a_form(stage: Stage, kind: str) -> None:
    stage.orders.write_text(orders(stage.there, HELLO, {"machine": MACHINES[kind]}))
    with pytest.raises(TargetError, match="device"):
        targets.machine(TARGET)


def test_the_honest_machine_comes_back_as_it_was_said(stage: Stage) -> None:
    said = json.loads(json.dumps(probe.machine("onnxruntime", "cpu", "api")))
    stage.orders.write_text(orders(stage.there, HELLO, {"machine": {"machine": said}}))
    assert targets.machine(TARGET) == said
    link.close_all()
    stage.orders.write_text(orders(stage.there, HELLO, {"machine": {"machine": {"reason": "asking ended with 1"}}}))
    assert targets.machine(TARGET) == {"reason": "asking ended with 1"}
