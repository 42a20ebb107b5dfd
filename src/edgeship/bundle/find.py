"""Where the bundle is: a bundle itself, or the work folder of the run that made it."""

from __future__ import annotations

from pathlib import Path

from edgeship.bundle.manifest import MANIFEST
from edgeship.errors import BundleError


def find_bundle(path: Path) -> Path:
    """The bundle that ``path`` names: itself, or the one in a work folder (``bundle``, ``bundle-TARGET``).

    Raises:
        BundleError: A folder that is not a bundle and holds none, or holds one for each of several targets.
    """
    if not path.is_dir() or (path / MANIFEST).is_file():
        return path
    found = sorted(item.parent for item in path.glob(f"bundle*/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    if found:
        raise BundleError(
            f"{path} holds a bundle for each of {len(found)} targets: {', '.join(item.name for item in found)}",
            expected="one bundle",
            do=f"name one of them, for instance {found[0]}",
        )
    raise BundleError(
        f"there is no bundle in {path}",
        expected="a bundle (a folder with manifest.json, or a zip), or the work folder of a run that ended in SHIP",
        do="edgeship ship edgeship.toml",
    )
