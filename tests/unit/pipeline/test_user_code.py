"""The user's code in a stage's key, wherever Python finds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeship.config import Config
from edgeship.pipeline import prepare, user_code
from edgeship.pipeline.stages import Run

CODE = "def build():\n    return None\n"


def install(folder: Path, version: str, site: Path) -> None:
    """Build a package of one module and install it into ``site``, as pip does for a user."""
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "zoo-of-models"\nversion = "{version}"\n[tool.setuptools]\npy-modules = ["modelzoo"]\n'
    )
    (folder / "modelzoo.py").write_text(CODE)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--upgrade", "--target", str(site), str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def key(root: Path, source: str) -> Any:
    root.mkdir(exist_ok=True)
    return prepare.export_key(Run(Config.model_validate({"model": {"source": source}, "root": root}), root / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["modelzoo:build", "model:build"], ids=["installed", "imported"])
def test_another_version_of_an_installed_package_exports_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """The package's module bears another name, and its code is the same in both versions."""
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    root = tmp_path / "config"
    if source.startswith("model:"):
        root.mkdir()
        (root / "model.py").write_text("def build():\n    import modelzoo.parts\n    return modelzoo.build()\n")
    install(tmp_path / "package", "1.0", site)
    before = key(root, source)
    assert before["files"]["import modelzoo"] == {"zoo-of-models": "1.0"}
    assert key(root, source) == before
    install(tmp_path / "package", "1.1", site)
    assert key(root, source) != before


@pytest.mark.parametrize("package", [True, False])
def test_code_on_the_python_path_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: bool
) -> None:
    place = tmp_path / "code" / ("ownnets/__init__.py" if package else "ownnets.py")
    place.parent.mkdir(parents=True)
    place.write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    before = key(tmp_path / "config", "ownnets:build")
    place.write_text(CODE + "\n# another\n")
    assert key(tmp_path / "config", "ownnets:build") != before


def test_python_itself_and_what_is_absent_or_broken_stay_out(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import json\nfrom . import other\nimport nowhere_at_all\n")
    (tmp_path / "other.py").write_text("def (:\n")
    files = key(tmp_path, "model:build")["files"]
    assert set(files) == {"model.py", "other.py", "import nowhere_at_all"}
    assert files["import nowhere_at_all"] is None


def test_a_module_of_another_name_is_found_by_what_its_package_declares_or_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = {
        "Declared": {"top_level.txt": "modelparts\nothers\n", "RECORD": "unlisted/__init__.py,,\n"},
        "By-Files": {"RECORD": "modelparts/sub/net.py,sha256=x,1\nmodelpartsmore/__init__.py,,\n"},
        "One.File": {"RECORD": '"modelsingle.py",,\nmodelsingle.py,,\n'},
        "Compiled": {"RECORD": "modelbinary.cpython-311-x86_64-linux-gnu.so,,\n"},
        "Data": {"RECORD": "modelparts/weights.bin,,\nmodeldata/readme.txt,,\n"},
    }
    for name, files in packages.items():
        place = tmp_path / f"{name}-1.0.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        for file, text in files.items():
            (place / file).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {name: user_code._distributions(name) for name in ("modelparts", "modelsingle", "modelbinary", "others")}
    assert found == {
        "modelparts": ("By-Files", "Declared"), "modelsingle": ("One.File",), "modelbinary": ("Compiled",),
        "others": ("Declared",),
    }  # fmt: skip
    assert [user_code._distributions(name) for name in ("unlisted", "modeldata", "model")] == [(), (), ()]
    assert "pillow" in {name.lower() for name in user_code._distributions("PIL")}
