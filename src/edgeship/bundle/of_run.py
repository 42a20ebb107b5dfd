"""Whether the bundle in a work folder is still the one that its run wrote, asked before it is released or signed.

A bundle's own hashes cannot show it: who changes a file in the work folder can change its hash in the manifest too.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgeship.bundle.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, is_unlisted, parse
from edgeship.bundle.trust import Trust
from edgeship.bundle.verify import opened
from edgeship.errors import BundleError, EdgeshipError
from edgeship.files import read_bytes, sha256_json
from edgeship.results import Result, read
from edgeship.results.seal import Hash, require_sealed

BUNDLES = "stages/bundles.json"
"""A :class:`Written` in a run's folder, under the run's seal."""
GIVEN = frozenset(("created", "release", "model_id", "expires"))
"""What a bundle is given after its run wrote it."""


class Written(Result):
    """The bundles that a run wrote."""

    bundles: dict[str, str]
    """Name of the folder → :func:`content_digest`."""
    made_of: dict[str, str] = Field(default_factory=dict)
    """Name of the folder → a hash of all that the run put into it: while that is the same, it is not written again."""


def content_digest(manifest: Manifest) -> str:
    """SHA-256 over all that a run says in a manifest, and so over the hash of every file of the bundle."""
    return sha256_json(manifest.model_dump(mode="json", exclude=set(GIVEN)))


def stands(folder: Path, digest: str, hash_of: Hash) -> bool:
    """Whether the bundle in ``folder`` is whole, with the :func:`content_digest` that its run noted.

    Args:
        folder: Where the bundle is.
        digest: Of the manifest, as :class:`Written` has it.
        hash_of: Hashes a file; one that remembers makes an unchanged bundle quick.
    """
    try:
        manifest = parse(read_bytes(folder / MANIFEST, MAX_MANIFEST_BYTES, follow=False), str(folder))
    except (OSError, EdgeshipError):
        return False
    inside = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    strange = {name for name in inside if not is_unlisted(name)} ^ {*manifest.files, MANIFEST}
    if content_digest(manifest) != digest or strange or any(path.is_symlink() for path in folder.rglob("*")):
        return False
    return all(hash_of(inside[name]) == entry.sha256 for name, entry in manifest.files.items())


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
