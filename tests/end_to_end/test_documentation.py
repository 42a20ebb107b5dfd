"""Every command of the README runs, every command of the CLI is in the docs, every generated page is current."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FASHION, ROOT

from edgeship.cli import COMMANDS, app

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    shutil.copytree(FASHION, tmp_path / "fashion", ignore=shutil.ignore_patterns("edgeship-out"))
    config = tmp_path / "fashion" / "edgeship.toml"
    config.write_text(re.sub(r"latency_p99_ms = [\d.]+", "latency_p99_ms = 5000.0", config.read_text()))
    script = "set -e\n" + "\n".join(blocks(README, "sh"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-x", "-c", script],
        cwd=tmp_path / "fashion",
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_readmes_config_is_valid(tmp_path: Path) -> None:
    from edgeship.config import load

    (tmp_path / "edgeship.toml").write_text(blocks(README, "toml")[0])
    assert load(tmp_path / "edgeship.toml").target.host == "nvidia@orin"


def test_every_command_is_in_the_readme_and_in_the_order(edgeship_help: str) -> None:
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", edgeship_help, re.MULTILINE), command
    shown = set(re.findall(r"edgeship ([a-z]+)", README))
    assert set(COMMANDS) - shown <= {"rebuild"}


@pytest.fixture
def edgeship_help() -> str:
    """What ``edgeship --help`` prints."""
    assert app is not None
    done = subprocess.run([sys.executable, "-m", "edgeship", "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['edgeship', '--help']\n"
        "from edgeship.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic', 'tensorrt_rtx'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("examples/*/*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} → {target}")
    assert broken == []
