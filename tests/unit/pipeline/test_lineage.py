"""The commit that a model's folder stands at, by a real git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgeship.commit import commit_of


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=T", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == ("", False)
    assert commit_of(tmp_path / "gone") == ("", False)
    git(tmp_path, "init", "-q")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.py").write_text("one")
    (tmp_path / "other.py").write_text("one")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "One")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path / "model") == (commit, False)
    (tmp_path / "other.py").write_text("two")
    (tmp_path / "model" / "edgeship-out").mkdir()
    assert commit_of(tmp_path / "model") == (commit, False)
    (tmp_path / "model" / "model.py").write_text("two")
    assert commit_of(tmp_path / "model") == (commit, True)
