"""The certificate of a local cluster: made for one run, readable by this user alone, and gone with it."""

from __future__ import annotations

from pathlib import Path

from edgeship.errors import MissingExtra
from edgeship.targets.access import library


def make(folder: Path) -> tuple[Path, Path]:
    """One certificate and its key for every side of a cluster on this machine; nobody else may read the folder.

    Raises:
        MissingExtra: distributed or cryptography is not installed.
    """
    distributed = library()
    try:
        made = distributed.Security.temporary()
    except ImportError:
        raise MissingExtra("a fleet's local cluster", "cryptography", "fleet") from None
    folder.chmod(0o700)
    places = folder / "cert.pem", folder / "key.pem"
    for place, text in zip(places, (made.tls_scheduler_cert, made.tls_scheduler_key), strict=True):
        place.touch(mode=0o600)
        place.write_text(text, encoding="ascii")
    return places
