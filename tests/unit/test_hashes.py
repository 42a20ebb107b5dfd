"""Requirements with hashes: pip installs exactly the files that it saw when they were pinned."""

from __future__ import annotations

import json
import runpy
import zipfile
from pathlib import Path

import pytest

from processes import Ended, python

ROOT = Path(__file__).parents[2]
requirements = runpy.run_path(str(ROOT / ".ci" / "hashes.py"))["requirements"]


def wheel(folder: Path, text: str) -> None:
    """A package of one module."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "pinned-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("pinned.py", text)
        archive.writestr("pinned-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pinned\nVersion: 1.0\n")
        archive.writestr("pinned-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("pinned-1.0.dist-info/RECORD", "")


def pip(*arguments: object) -> Ended:
    return python("-m", "pip", "install", "--no-index", "--disable-pip-version-check", "--quiet", *arguments)


@pytest.mark.slow
def test_a_changed_file_is_not_installed(tmp_path: Path) -> None:
    wheel(tmp_path / "index", "answer = 42\n")
    report, pinned, index = tmp_path / "report.json", tmp_path / "requirements.txt", tmp_path / "index"
    done = pip("--dry-run", "--ignore-installed", "--report", report, "--find-links", index, "pinned")
    assert done.returncode == 0, done.stderr
    lines = requirements(json.loads(report.read_text()))
    pinned.write_text("\n".join(lines) + "\n")
    assert lines[0].startswith("pinned==1.0 --hash=sha256:")
    install = ("--require-hashes", "--find-links", index, "-r", pinned, "--target")
    assert pip(*install, tmp_path / "good").returncode == 0
    wheel(index, "answer = 'another'\n")
    refused = pip(*install, tmp_path / "bad")
    assert refused.returncode != 0 and "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "bad" / "pinned.py").exists()


def test_the_project_itself_is_left_out_and_an_unknown_hash_is_refused() -> None:
    facts = {"name": "a", "version": "1"}
    folder = {"download_info": {"url": "file:///a", "dir_info": {}}, "metadata": facts}
    assert requirements({"install": [folder]}) == []
    unknown = {"download_info": {"url": "https://host/a.whl", "archive_info": {}}, "metadata": facts}
    with pytest.raises(SystemExit, match="pip knows no SHA-256"):
        requirements({"install": [unknown]})
