"""A bundle is verified where neither an engine nor torch is installed, and the base install is what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeship.bundle import Contents, write
from edgeship.trial.run import run_trial
from processes import Ended, python
from vehicle_support import decision, ground, make_trial

HEAVY = (
    "onnxruntime", "onnx", "torch", "tensorrt", "tensorrt_rtx", "cuda", "modelopt", "onnxslim", "scipy", "jinja2",
    "cryptography", "safetensors", "onnxscript",
)  # fmt: skip
CODE = f"""
import sys
from importlib.machinery import PathFinder

class Light:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {HEAVY!r} else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Light
from edgeship.cli import main
main()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("light")
    run_trial(make_trial(root / "trial", ground(root / "ground")))
    write(Contents(root / "trial", decision(), reference=root / "trial"), root / "bundle")
    return root / "bundle"


def light(*arguments: str) -> Ended:
    """The command line where only the base install is there."""
    return python("-c", CODE, *arguments)


def test_verify_needs_neither_engine_nor_torch(bundle: Path) -> None:
    done = light("verify", str(bundle), "--no-fit")
    assert done.returncode == 0, done.stderr
    assert "every hash matches" in done.stdout


def test_what_the_base_install_lacks_is_named(bundle: Path, tmp_path: Path) -> None:
    done = light("verify", str(bundle), "--no-fit", "--key", str(bundle))
    assert done.returncode == 2 and "edgeship[sign]" in done.stderr
    assert light("--help").returncode == 0
    assert light("run", str(bundle), __file__).returncode in (2, 4)
