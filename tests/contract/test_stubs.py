"""mypy against the published ``tensorrt-stubs`` of 10.x: attributes and arguments, on a copy whose ``trt`` is typed.

Our functions take the vendor's module as an argument, which mypy cannot type; the copy turns the argument into the
import that ``TYPE_CHECKING`` names, and nothing else.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bindings import CACHE, ROOT

pytestmark = pytest.mark.slow

STUBS = "10.13.0.35.1"
KINDS = ("attr-defined", "call-arg", "call-overload", "union-attr", "name-defined")
RTX_ONLY = ("ComputeCapability", "EngineValidity", "EngineInvalidityDiagnostics")


def stubs() -> Path:
    """The stubs, with the lines that are no Python mended: a parameter called ``in``, a default before none."""
    place = CACHE / f"stubs-{STUBS}"
    if not (place / "ready").is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command = [*pip, "--upgrade", "--target", str(place), f"tensorrt-stubs=={STUBS}"]
        subprocess.run(command, check=True, capture_output=True)
        file = place / "tensorrt_bindings" / "tensorrt.pyi"
        text = re.sub(r"\bin: ", "in_: ", file.read_text(encoding="utf-8"))
        text = text.replace("channel_axis: int) ->", "channel_axis: int = ...) ->")
        file.write_text(text, encoding="utf-8")
        (place / "ready").write_text(STUBS, encoding="utf-8")
    return place


def _checked(engines: Path) -> list[Path]:
    """Our files that are handed the vendor's module."""
    return [path for path in engines.glob("*.py") if re.search(r"\btrt: Any\b|flavour\.trt\b", path.read_text("utf-8"))]


def typed_copy(into: Path) -> Path:
    """Our source with ``trt`` as an import instead of an argument."""
    shutil.copytree(ROOT / "src" / "edgeship", into / "edgeship")
    engines = into / "edgeship" / "engines" / "trt"
    for path in _checked(engines):
        source = path.read_text(encoding="utf-8")
        text = re.sub(r"([(,] ?)trt: Any\b", r"\1_trt: Any", source)
        text = re.sub(r"^\s+trt = flavour\.trt\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"\b(?:self\._)?flavour\.trt\.", "trt.", text)
        if "import tensorrt as trt" not in text:
            text = text.replace("\nfrom pathlib", "\nimport tensorrt as trt\nfrom pathlib", 1)
        path.write_text(text, encoding="utf-8")
    return engines


def complaints(engines: Path) -> list[str]:
    """What mypy says of attributes and arguments in our files."""
    command = [
        sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "--follow-imports=silent",
        "--check-untyped-defs", "--no-incremental", "--cache-dir", str(CACHE / "mypy"),
        *(str(path) for path in sorted(_checked(engines))),
    ]  # fmt: skip
    root = engines.parents[2]
    environment = {"MYPYPATH": f"{stubs()}:{root}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert "errors prevented further checking" not in done.stdout, done.stdout
    lines = [line for line in done.stdout.splitlines() if re.search(r"engines/trt/\w*\.py", line)]
    kinds = [line for line in lines if any(f"[{kind}]" in line for kind in KINDS)]
    return [line for line in kinds if not any(f'"{name}"' in line for name in RTX_ONLY)]


def test_our_calls_agree_with_the_stubs_and_a_planted_mistake_does_not(tmp_path: Path) -> None:
    """One run of mypy over our files and, beside them, one of them with mistakes."""
    engines = typed_copy(tmp_path)
    source = (engines / "build.py").read_text(encoding="utf-8")
    wrong = source.replace("config.clear_flag(trt.BuilderFlag.TF32)", "config.clear_flags(trt.BuilderFlag.TF23)")
    assert wrong != source
    (engines / "planted.py").write_text(wrong, encoding="utf-8")
    found = complaints(engines)
    planted = [line for line in found if "engines/trt/planted.py" in line]
    assert [line for line in found if line not in planted] == []
    assert all(any(word in line for line in planted) for word in ("clear_flags", "TF23"))
