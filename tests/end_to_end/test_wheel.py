"""The wheel is whole: outside the checkout it ships the example and writes its report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from projects import ROOT, make_project

from processes import python

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
    run = partial(python, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)})
    assert run("-c", "import edgeship; print(edgeship.__file__)").stdout.startswith(str(site))
    done = run("-m", "edgeship", "ship", project.config)
    assert done.returncode == 0, done.stderr
    report = (project.out / "report.html").read_text(encoding="utf-8")
    assert "<style" in report and "<script" in report, "templates, style and script are in the wheel"
    assert run("-m", "edgeship", "verify", project.out / "bundle").returncode == 0
