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


def wheel(folder: Path, text: str, name: str = "pinned", more: str = "") -> None:
    """A package of one module; ``more``: further lines of its metadata."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", text)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{more}")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


def pip(*arguments: object) -> Ended:
    return python("-m", "pip", "install", "--no-index", "--disable-pip-version-check", "--quiet", *arguments)


@pytest.mark.slow
def test_a_changed_file_is_not_installed(tmp_path: Path) -> None:
    wheel(tmp_path / "index", "answer = 42\n", more="Requires-Dist: needed[more] >=1\n")
    wheel(tmp_path / "index", "", "needed", "Provides-Extra: more\n")
    report, pinned, index = tmp_path / "report.json", tmp_path / "requirements.txt", tmp_path / "index"
    done = pip("--dry-run", "--ignore-installed", "--report", report, "--find-links", index, "pinned")
    assert done.returncode == 0, done.stderr
    lines = requirements(json.loads(report.read_text()))
    pinned.write_text("\n".join(lines) + "\n")
    assert [line.partition(" ")[0] for line in lines] == ["needed==1.0", "pinned==1.0"]
    install = ("--no-deps", "--require-hashes", "--find-links", index, "-r", pinned, "--target")
    assert pip(*install, tmp_path / "good").returncode == 0
    wheel(index, "answer = 'another'\n", more="Requires-Dist: needed[more] >=1\n")
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
