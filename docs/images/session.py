"""Record ``edgeship check`` and ``edgeship ship`` in a terminal of 80 columns, as session.svg.

Needs tmux. Works on a copy of the Fashion-MNIST example.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
FASHION = HERE.parents[1] / "examples" / "fashion"
COMMANDS = ("edgeship check edgeship.toml", "edgeship ship edgeship.toml")
LIMIT_S = 600


def tmux(*arguments: str) -> str:
    """Run tmux on a server of its own."""
    done = subprocess.run(["tmux", "-L", "edgeship-docs", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def record(folder: Path) -> str:
    """What the terminal shows after the commands, with its colours."""
    path = f"PATH={Path(sys.executable).parent}:$PATH"
    tmux("new-session", "-d", "-x", "80", "-y", "60", "-c", str(folder), f"env PS1='$ ' {path} bash --norc --noprofile")
    try:
        for command in COMMANDS:
            tmux("send-keys", command, "Enter")
            end = time.monotonic() + LIMIT_S
            time.sleep(3)
            while not tmux("capture-pane", "-p").rstrip().endswith("\n$") and time.monotonic() < end:
                time.sleep(1)
        return tmux("capture-pane", "-p", "-e").rstrip().removesuffix("$").rstrip()
    finally:
        tmux("kill-server")


def main() -> None:
    """Write session.svg."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "fashion"
        shutil.copytree(FASHION, folder, ignore=shutil.ignore_patterns("edgeship-out"))
        screen = record(folder)
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen))
    console.save_svg(str(HERE / "session.svg"), title="edgeship", unique_id="session")


if __name__ == "__main__":
    main()
