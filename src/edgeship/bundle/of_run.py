"""Whether the bundle in a work folder is still the one that its run wrote, asked before it is released or signed.

A bundle's own hashes cannot show it: who changes a file in the work folder can change its hash in the manifest too.
"""

from __future__ import annotations

from pathlib import Path

from edgeship.bundle.manifest import Manifest
from edgeship.bundle.trust import Trust
from edgeship.bundle.verify import opened
from edgeship.errors import BundleError
from edgeship.files import sha256_json
from edgeship.results import Result, read
from edgeship.results.seal import require_sealed

BUNDLES = "stages/bundles.json"
"""A :class:`Written` in a run's folder, under the run's seal."""
GIVEN = frozenset(("created", "release", "model_id", "expires"))
"""What a bundle is given after its run wrote it."""


class Written(Result):
    """The bundles that a run wrote."""

    bundles: dict[str, str]
    """Name of the folder → :func:`content_digest`."""


def content_digest(manifest: Manifest) -> str:
    """SHA-256 over all that a run says in a manifest, and so over the hash of every file of the bundle."""
    return sha256_json(manifest.model_dump(mode="json", exclude=set(GIVEN)))


def require_of_run(run: Path, folder: Path) -> None:
    """Refuse a bundle that is not as the run in ``run`` wrote it; the folder of a rebuilt engine is no run's.

    Raises:
        ArtifactError: The run did not end, or its own result is not as it was left.
        BundleError: The bundle is not whole, or says something else than the run wrote.
    """
    if not (run / BUNDLES).parent.is_dir():
        return
    sealed = require_sealed(run, listed_only=True)
    known = read(Written, run / BUNDLES).bundles if BUNDLES in sealed.files else {}
    with opened(folder, Trust(allow_expired=True)) as verified:
        found = content_digest(verified.manifest)
    if known.get(folder.name) != found:
        raise BundleError(
            f"{folder} is not the bundle that the run in {run} wrote",
            expected="its manifest and every file as they were, but for release, model id and expiry",
            do=f"edgeship ship writes it anew; one that was changed on purpose is named by itself: {folder}",
        )
