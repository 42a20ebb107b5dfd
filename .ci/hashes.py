"""Requirements with hashes from pip's report of what it would install, for this platform and Python.

python -m pip install --dry-run --ignore-installed --report report.json … && python .ci/hashes.py report.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def requirements(report: dict[str, Any]) -> list[str]:
    """``name==version --hash=sha256:…`` of everything that pip would download; the project itself is a folder.

    Raises:
        SystemExit: pip would install something whose hash it does not know.
    """
    lines = []
    for item in report["install"]:
        told, facts = item["download_info"], item["metadata"]
        if "dir_info" in told:
            continue
        digest = told.get("archive_info", {}).get("hashes", {}).get("sha256")
        if digest is None:
            raise SystemExit(f"{facts['name']} {facts['version']}: pip knows no SHA-256 of {told['url']}")
        lines.append(f"{facts['name']}=={facts['version']} --hash=sha256:{digest}")
    return sorted(lines, key=str.lower)


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))) + "\n")
