"""The tutorial, typed as it stands, against a real sshd; and the security page's OpenSSL command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sshd_support import device

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def commands(text: str) -> list[str]:
    """What follows a dollar sign in the console blocks, in order; installing is left to the machine."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    typed = "".join(blocks).replace("\\\n", " ")
    left = ("pip install", "pip wheel", ".whl")
    return [line[2:] for line in typed.splitlines() if line.startswith("$ ") and not any(word in line for word in left)]


def desk(folder: Path, config: Path) -> dict[str, str]:
    """A desk whose ``ssh`` and ``scp`` know the host ``device``."""
    tools = folder / "bin"
    tools.mkdir()
    for name, extra in (("ssh", ""), ("scp", "-O ")):
        script = tools / name
        script.write_text(f'#!/bin/sh\nexec {shutil.which(name)} {extra}-F {config} "$@"\n')
        script.chmod(0o755)
    return os.environ | {"PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_the_tutorial_from_ship_to_run_on_the_device(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "edgeship").symlink_to(sys.prefix)
    example = tmp_path / "desk" / "examples" / "fashion"
    shutil.copytree(ROOT / "examples" / "fashion", example, ignore=shutil.ignore_patterns("edgeship-out"))
    config = (example / "edgeship.toml").read_text()
    lines = re.findall(r"^(?:host|python|remote_dir) .*$", TUTORIAL, re.MULTILINE)
    assert len(lines) == 3
    config = config.replace("[target]\n", "[target]\n" + "\n".join(lines) + "\n")
    (example / "edgeship.toml").write_text(re.sub(r"(latency_p\d\d_ms) = [\d.]+", r"\1 = 5000.0", config))
    with device(tmp_path / "sshd") as host:
        with (host.folder / "sshd_config").open("a") as settings:
            settings.write(f'ForceCommand cd {home} && HOME={home} && export HOME && eval "$SSH_ORIGINAL_COMMAND"\n')
        host.restart()
        environment = desk(tmp_path, host.config)
        said = {}
        for command in commands(TUTORIAL):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path / "desk",
                env=environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            said[command] = done.stdout
    ran = next(text for command, text in said.items() if "edgeship run" in command)
    assert "Bag" in ran and "frames missed it" in ran
    assert "SHIP" in next(text for command, text in said.items() if "edgeship ship" in command)
    assert "matches" in next(text for command, text in said.items() if "verify" in command)
    assert (home / "edgeship-trials" / "blobs").is_dir()
    assert (home / "fashion-here" / "bundle" / "manifest.json").is_file()

    bundle = example / "edgeship-out" / "bundle"
    shutil.copytree(bundle, tmp_path / "desk" / "bundle")
    check = next(command for command in commands(SECURITY) if "pkeyutl" in command)
    done = subprocess.run(["bash", "-c", check], cwd=tmp_path / "desk", capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Verified" in done.stdout, done.stderr
