"""Photograph a report for the README: ``python docs/images/take.py RUN/report.html docs/images/report.png``.

Needs Chromium. The picture shows the verdict and the rules, in light colours.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from browser_support import browser

WIDTH, HEIGHT = 1200, 1140


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        parser.error("no Chromium on the PATH")
    with browser(executable) as page:
        page.show(WIDTH, HEIGHT)
        page.open(arguments.report.resolve())
        page.screenshot(arguments.picture)


if __name__ == "__main__":
    main()
