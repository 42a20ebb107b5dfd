"""The wheel is whole: outside the checkout it ships the example and writes its report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, make_project

PARTS = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "src")


@pytest.mark.slow
def test_a_wheel_outside_the_checkout_ships_the_example(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    options = ["--quiet", "--no-deps", "--no-index"]
    wheel = [sys.executable, "-m", "pip", "wheel", *options, "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(wheel, check=True, capture_output=True)
    (made,) = tmp_path.glob("edgeship-*.whl")
    shutil.rmtree(source)
    install = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(made)]
    subprocess.run(install, check=True, capture_output=True)
    project = make_project(tmp_path / "project")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        places = os.environ | {"PYTHONPATH": str(site)}
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=places, capture_output=True, text=True, check=False
        )

    assert run("-c", "import edgeship; print(edgeship.__file__)").stdout.startswith(str(site))
    done = run("-m", "edgeship", "ship", str(project.config))
    assert done.returncode == 0, done.stderr
    report = (project.out / "report.html").read_text(encoding="utf-8")
    assert "<style" in report and "<script" in report, "templates, style and script are in the wheel"
    assert run("-m", "edgeship", "verify", str(project.out / "bundle")).returncode == 0
