"""Engines of installed packages: found by name, refused in a sentence where they are not there or not whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship import config_file, engines
from edgeship.errors import ConfigError, UserInputError
from edgeship.results import Identity


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that offers two engines: one lacks functions, one is not there."""
    info = tmp_path / "halves-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halves\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[edgeship.engines]\nhalf = half_an_engine\nnone = no_engine_at_all\n")
    (tmp_path / "half_an_engine.py").write_text('SUFFIX = ".half"\ndef probe(): ...\n')
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_engines_of_packages_stand_beside_the_built_in_ones(package):
    assert set(engines.known()) == {*engines.ENGINES, "half", "none"}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("half", "offered as the engine 'half', has no identity, build, audit, open, misfits"),
        ("none", "the engine 'none' cannot be imported: No module named 'no_engine_at_all'"),
        ("halv", r"there is no engine 'halv' \(did you mean 'half'\?\)"),
    ],
)
def test_what_is_no_engine_is_refused(package, name, what):
    with pytest.raises(UserInputError, match=what):
        engines.get(name)


def test_a_config_takes_the_names_that_are_offered(package):
    raw = {"model": {"source": "m:build", "inputs": {"x": {"shape": [1]}}}, "target": {"engine": "half"}}
    raw["candidates"] = {"precisions": ["fp32"]}
    assert config_file.check(raw, package / "edgeship.toml").target.engine == "half"
    with pytest.raises(ConfigError, match=r"or 'none', found 'haf'; did you mean 'half'\?"):
        config_file.check(raw | {"target": {"engine": "haf"}}, package / "edgeship.toml")


def test_a_name_from_a_file_is_a_plain_word():
    with pytest.raises(ValueError, match="pattern"):
        Identity(engine="../../evil", version="1", device="cpu")
