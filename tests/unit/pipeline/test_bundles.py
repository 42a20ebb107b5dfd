"""What a run leaves behind of an earlier one's bundles."""

from __future__ import annotations

from pathlib import Path

from edgeship.pipeline.bundles import remove_bundles


def test_bundles_of_an_earlier_verdict_are_removed(tmp_path: Path) -> None:
    for name in ("bundle", "bundle-orin", "bundle-desk", "bundles of mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "bundle-notes").mkdir()
    remove_bundles(tmp_path, {tmp_path / "bundle-orin"})
    assert {path.name for path in tmp_path.iterdir()} == {"bundle-orin", "bundle-notes", "bundles of mine"}
