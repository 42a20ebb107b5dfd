"""The user's modules: theirs where they name them, never in place of one that edgeship needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship.data.reference import importable, is_reference, resolve
from edgeship.errors import DataError
from processes import edgeship, python


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("value", "yes"), [("a:b", True), ("a.b:c", True), ("c:/x", False), ("a", False), (":b", False)]
)
def test_what_names_a_callable(value: str, yes: bool) -> None:
    assert is_reference(value) is yes


def test_a_file_beside_the_config_comes_before_one_on_the_python_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "elsewhere", "own_scores.py", "def score(): return 'elsewhere'")
    write(tmp_path / "config", "own_scores.py", "from own_parts import VALUE\ndef score(): return VALUE")
    write(tmp_path / "config", "own_parts.py", "VALUE = 'beside the config'")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    assert resolve("own_scores:score")() == "elsewhere"
    with importable(tmp_path / "config"):
        assert resolve("own_scores:score")() == "beside the config"


def test_a_module_in_a_package_and_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "own_package/inside/deep.py", "def score(): return 3")
    monkeypatch.chdir(tmp_path)
    assert resolve("own_package.inside.deep:score")() == 3


@pytest.mark.parametrize("name", ["statistics", "numpy", "json"])
def test_a_file_with_the_name_of_a_module_that_is_in_use_is_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, f"{name}.py", "def score(): return 1")
    with importable(tmp_path), pytest.raises(DataError, match="has the name of another module") as caught:
        resolve(f"{name}:score")
    assert str(file) in caught.value.found
    assert __import__(name).__file__ != str(file)


def test_no_file_of_the_folder_hides_an_installed_module(tmp_path: Path) -> None:
    """Neither beside the config nor in the working folder, in a process that starts there."""
    for name in ("statistics", "pydantic", "numpy", "typer", "secrets"):
        write(tmp_path, f"{name}.py", "raise ImportError('not the real one')")
    code = (
        "from pathlib import Path\nfrom edgeship.data.reference import importable\n"
        "with importable(Path.cwd()):\n    import statistics, secrets\n    import pydantic, numpy\n"
        "    print(statistics.NormalDist(), pydantic.VERSION)"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1", "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    done = python("-c", "import sys; sys.path[:] = [p for p in sys.path if p]\n" + code, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr


def test_edgeship_itself_starts_in_such_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "pydantic.py", "raise ImportError('not the real one')")
    done = edgeship("--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_module_that_fails_is_not_left_behind(tmp_path: Path) -> None:
    file = write(tmp_path, "own_broken.py", "raise ImportError('half')")
    with importable(tmp_path):
        with pytest.raises(DataError, match="own_broken cannot be imported: half"):
            resolve("own_broken:score")
        file.write_text("def score(): return 2  # longer")
        assert resolve("own_broken:score")() == 2
