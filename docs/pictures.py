"""Record a terminal of 80 columns and photograph the report of what it shipped. Run by ``make pictures``.

``edgeship check`` and ``edgeship ship`` on a copy of the Fashion-MNIST example give images/session.svg, their report
images/report.png. Needs tmux and Chromium.
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
sys.path.insert(0, str(HERE.parent / "tests"))

from browser_support import browser  # noqa: E402

IMAGES = HERE / "images"
FASHION = HERE.parent / "examples" / "fashion"
COMMANDS = ("edgeship check edgeship.toml", "edgeship ship edgeship.toml")
LIMIT_S = 600
WIDTH, HEIGHT = 1200, 1140


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


def photograph(report: Path) -> None:
    """The verdict and the rules, in light colours, as report.png."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        sys.exit("no Chromium on the PATH")
    with browser(executable) as page:
        page.show(WIDTH, HEIGHT)
        page.open(report)
        page.screenshot(IMAGES / "report.png")


def main() -> None:
    """Write session.svg and report.png."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "fashion"
        shutil.copytree(FASHION, folder, ignore=shutil.ignore_patterns("edgeship-out"))
        screen = record(folder)
        photograph(folder / "edgeship-out" / "report.html")
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(screen))
    console.save_svg(str(IMAGES / "session.svg"), title="edgeship", unique_id="session")


if __name__ == "__main__":
    main()
