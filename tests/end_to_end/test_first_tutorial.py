"""The first tutorial as its reader types it: every command, on a model and pictures of one's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from projects import ROOT, Edgeship

sys.path.insert(0, str(ROOT / "tests"))

from edgeship.config_file import load
from tiny_project import NAMES, picture

pytestmark = [pytest.mark.slow, pytest.mark.alone]
PAGE = (ROOT / "docs" / "tutorials" / "first-model.md").read_text(encoding="utf-8")


def weights(path: Path) -> None:
    """Weights of the page's network that tell which of red, green and blue is brightest."""
    state = {
        "0.weight": torch.zeros(8, 3, 3, 3),
        "0.bias": torch.zeros(8),
        "4.weight": torch.zeros(3, 8),
        "4.bias": torch.zeros(3),
    }
    for channel in range(3):
        state["0.weight"][channel, channel, 1, 1] = 4
        state["4.weight"][channel, channel] = 3
    torch.save(state, path)


def test_every_command_of_the_tutorial(tmp_path: Path, edgeship: Edgeship) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "net.py").write_text(code)
    weights(tmp_path / "net.pt")
    for number in range(16):
        picture(tmp_path / "calib" / f"{number:03}.png", number % 3, 5000 + number)
    for colour, name in enumerate(NAMES):
        for number in range(60):
            picture(tmp_path / "val" / name / f"{number:03}.png", colour, 100 * colour + number)
    (rules,) = re.findall(r"```toml\n\[gate\]\n(.*?)```", PAGE, re.DOTALL)
    commands = re.findall(r"^\$ edgeship (.*)$", PAGE, re.MULTILINE)
    assert [line.split()[0] for line in commands] == ["init", "check", "ship", "run"]
    for line in commands:
        if line.startswith("ship"):
            config = tmp_path / "edgeship.toml"
            text = re.sub(r"latency_p99_ms = .*\nmax_drop = .*\n", rules, config.read_text())
            assert "latency_p99_ms = 200.0" in text
            config.write_text(text)
        done = edgeship(*line.split())
        assert done.code == 0, f"edgeship {line}: {done.err}\n{done.out}"
        if line.startswith("check"):
            assert "warning" not in done.out
            assert load(tmp_path / "edgeship.toml").evaluation.classes == NAMES
    assert "red" in done.out
    assert "SHIP" in (tmp_path / "edgeship-out" / "summary.md").read_text()
