"""fleet.toml: every fault at once, the models' own configs with the devices as their targets, who serves what."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship.errors import ConfigError, UserInputError
from edgeship.fleet.config import load_fleet, member, members
from edgeship.fleet.placing import place
from edgeship.version import __version__
from tiny_project import project

FLEET = """
[models]
person = "person"
lanes = "lanes/edgeship.toml"
[devices.one]
labels = ["cpu"]
[devices.two]
labels = ["cpu", "fast"]
target = { threads = 1 }
[devices.three]
target = { threads = 1 }
[matrix]
person = ["two", "three"]
lanes = ["fast"]
"""


@pytest.fixture(scope="module")
def projects(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    for name in ("person", "lanes"):
        project(folder / name, each=1)
    return folder


def written(folder: Path, text: str) -> Path:
    (folder / "fleet.toml").write_text(text)
    return folder / "fleet.toml"


def test_a_label_is_a_target_of_the_model_with_the_devices_settings(projects):
    fleet = load_fleet(written(projects, FLEET))
    found = members(fleet)
    assert list(found["person"].targets) == ["two", "three"]
    target = found["lanes"].targets["fast"]
    assert (target.host, target.threads, target.batch.max) == ("worker:fast", 1, 8)
    assert (found["lanes"].title, found["person"].root) == ("lanes", projects / "person")


def test_every_fault_of_the_file_is_told_at_once(tmp_path):
    text = """
[models]
person = "person"
lanes = "lanes"
[devices.a]
host = "nvidia@orin"
target = { host = "x", enginee = "tensorrt" }
[devices.b]
host = "nvidia@orin"
[devices.c]
where = "scheduler"
labels = ["shared"]
[devices.d]
labels = ["shared"]
target = { threads = 2 }
[matrix]
persn = ["a"]
person = ["bb", "bb", "shared"]
"""
    with pytest.raises(ConfigError) as caught:
        load_fleet(written(tmp_path, text))
    said = "\n".join(caught.value.problems)
    for expected in (
        "matrix.persn: there is no model 'persn' (did you mean 'person'?)",
        "matrix.lanes: missing",
        "matrix.person: 'bb' stands twice",
        "no device has the label 'bb' (did you mean 'b'?)",
        "devices.a.target.host: unknown, or what the device itself sets",
        "devices.a.target.enginee: unknown",
        "devices.b is devices.a again",
        'devices.c: where = "scheduler", and there is none',
        "the label 'shared' is of devices with unequal target settings (c, d)",
    ):
        assert expected in said


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('person = "person"\nlanes = "lanes/edgeship.toml"', "", "models: empty; name at least one"),
        ('["two", "three"]', '"two"', "matrix.person: should be a list, in [ ], found 'two'"),
        ("[devices.one]\n", "[devices]\none = 3\n[devices.one2]\n", "devices.one: should be a table, found 3"),
        ("[devices.one]", "[device.one]", "device: unknown key; did you mean 'devices'?"),
        ('labels = ["cpu"]', 'label = ["cpu"]', "devices.one.label: unknown key; did you mean 'labels'?"),
        ('labels = ["cpu"]', "gpu = -1", "devices.one.gpu: input should be greater than or equal to 0, found -1"),
        ('labels = ["cpu"]', 'host = "-oProxyCommand=x"', "devices.one.host: '-oProxyCommand=x' is not a name that"),
        ('labels = ["cpu"]', 'host = "nvidia @orin"', "is not a name that ssh takes, such as user@name"),
        ('["fast"]', '["fast", "two"]', "matrix.lanes: 'fast' and 'two' are the same devices (two); drop one"),
        ('labels = ["cpu"]', 'gpu = 0\n[devices.four]\ntarget = { device = "cuda:0" }', "devices.four is devices.one"),
        ('labels = ["cpu"]', 'host = "orin"\nat_once = 2', "devices.one.at_once: of workers that run trials here"),
        ("[matrix]", "[scheduler]\nmodels_at_once = 0\n[matrix]", "scheduler.models_at_once: "),
    ],
)
def test_a_fault_of_the_file_is_told_in_its_own_words(tmp_path, old, new, what):
    assert old in FLEET
    with pytest.raises(ConfigError) as caught:
        load_fleet(written(tmp_path, FLEET.replace(old, new, 1)))
    assert what in "\n".join(caught.value.problems)


def test_the_faults_of_all_models_are_told_at_once(tmp_path):
    for name in ("person", "lanes"):
        config = project(tmp_path / name, each=1)
        config.write_text(config.read_text().replace("[gate]", "[gate]\nlatency_p5_ms = 1\n"))
    (tmp_path / "lanes" / "model.onnx").unlink()
    (tmp_path / "lanes" / "edgeship.toml").write_text(
        (tmp_path / "lanes" / "edgeship.toml").read_text().replace("latency_p5_ms = 1\n", "")
    )
    with pytest.raises(ConfigError) as caught:
        members(load_fleet(written(tmp_path, FLEET)))
    said = "\n".join(caught.value.problems)
    assert "person (" in said and "latency_p5_ms: unknown key" in said
    assert "lanes (" in said and "no file at" in said


@pytest.mark.parametrize(("text", "what"), [("[models", "not valid TOML"), ("[devices.a]\n[devices.a]\n", "TOML")])
def test_what_is_no_toml_is_refused(tmp_path, text, what):
    with pytest.raises(UserInputError, match=what):
        load_fleet(written(tmp_path, text))
    with pytest.raises(UserInputError, match="no fleet file"):
        load_fleet(tmp_path / "absent.toml")


def worker(*labels: str, **changes):
    facts = {
        "labels": list(labels), "edgeship": __version__, "packages": {"onnxruntime": "1.32"}, "machine": "x86_64",
        "host": None, "clock": 1000.0,
    }  # fmt: skip
    return facts | changes


def loaded(folder: Path):
    return load_fleet(written(folder, FLEET.replace('"two", "three"', '"cpu", "three"')))


def test_models_are_spread_over_the_workers_of_a_label(projects):
    there = {"one": worker("one", "cpu"), "two": worker("two", "cpu", "fast"), "three": worker("three")}
    fleet = load_fleet(written(projects, FLEET)).model_copy(
        update={"matrix": {"person": ("cpu", "three"), "lanes": ("cpu",), "third": ("fast",)}}
    )
    placed = place(fleet, there, 1000.0)
    assert placed.assigned["person"] == {"cpu": ("one", "two"), "three": ("three",)}
    assert placed.assigned["lanes"]["cpu"][0] == "two"
    assert placed.notes == ()


def test_a_label_that_nobody_has_stops_before_anything_runs(projects):
    fleet = load_fleet(written(projects, FLEET))
    with pytest.raises(UserInputError, match="no worker has the label 'fast'") as caught:
        place(fleet, {"two": worker("two", "fist"), "three": worker("three")}, 1000.0)
    assert "did you mean 'fist'?" in str(caught.value)
    assert "two: two, fist; three: three" in str(caught.value)


def test_another_edgeship_other_engines_and_clocks_are_told(projects):
    fleet = load_fleet(written(projects, FLEET)).model_copy(update={"matrix": {"person": ("cpu",)}})
    there = {
        "old": worker("cpu", edgeship="0.0.1"),
        "a": worker("cpu", clock=4600.0),
        "b": worker("cpu"),
        "c": worker("cpu", packages={"onnxruntime": "1.31"}),
    }
    placed = place(fleet, there, 1000.0)
    assert placed.assigned == {"person": {"cpu": ("a", "b")}}
    assert placed.notes == (
        f"old is left out: it has edgeship 0.0.1, this is {__version__}",
        "the clock of a is 60 minutes ahead of this machine's: set it, times mislead",
        "c left out of 'cpu': onnxruntime 1.31 instead of 1.32; a, b serve it",
    )
    assert member(load_fleet(written(projects, FLEET)), "person", ("two",)).targets["two"].host == "worker:two"
