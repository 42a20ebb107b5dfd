"""Is this bundle whole, unchanged and from whom it should be? Plain Python; nothing in it is parsed by an engine.

Every file is hostile until its hash matches the manifest, and with a key the manifest itself until its signature
does.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edgeship.bundle import sign
from edgeship.bundle.manifest import GET_AGAIN, MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES, SIGNATURE, Manifest, parse
from edgeship.bundle.unpack import unpack
from edgeship.errors import BundleError, UnsafeFile
from edgeship.files import CHUNK, open_outside, read_bytes

MAX_DEPTH = 16


@dataclass(frozen=True)
class Verified:
    """A bundle that was checked, unpacked at ``folder``."""

    folder: Path
    manifest: Manifest
    signed: bool
    """Whether a signature was asked for and matched."""


def verify(path: Path, key: Path | None = None) -> Manifest:
    """Check a bundle: a folder, or a zip.

    Args:
        path: The bundle.
        key: An Ed25519 public key; given, an absent or wrong signature is refused.

    Raises:
        BundleError: Any file is changed, missing, extra, a link, out of bounds or badly signed.
    """
    with opened(path, key) as verified:
        return verified.manifest


@contextmanager
def opened(path: Path, key: Path | None = None) -> Iterator[Verified]:
    """A verified bundle as a folder. A zip is unpacked to a private temporary folder that vanishes at the end.

    Raises BundleError as :func:`verify` does.
    """
    if path.is_dir():
        yield Verified(path, _verify_folder(path, key), key is not None)
        return
    with tempfile.TemporaryDirectory(prefix="edgeship-bundle-") as name:
        folder = Path(name)
        unpack(path, folder, key)
        yield Verified(folder, _verify_folder(folder, key), key is not None)


def _verify_folder(folder: Path, key: Path | None) -> Manifest:
    try:
        return _verified(folder, key)
    except OSError as error:  # not readable, or it vanished or became a link while it was checked
        _refuse(folder, f"{error.filename} cannot be read: {error.strerror}")


def _verified(folder: Path, key: Path | None) -> Manifest:
    sizes = _walk(folder)
    if MANIFEST not in sizes:
        _refuse(folder, f"{MANIFEST} is missing")
    data = _bytes(folder, MANIFEST, MAX_MANIFEST_BYTES)
    if key is not None:
        if SIGNATURE not in sizes:
            _refuse(folder, f"it is not signed ({SIGNATURE} is missing)", expected=f"a signature by the key in {key}")
        sign.check(data, _bytes(folder, SIGNATURE, sign.SIGNATURE_BYTES), key, str(folder))
    manifest = parse(data, str(folder))
    _compare(folder, sizes, manifest)
    return manifest


def _refuse(folder: Path, found: str, *, expected: str | None = None) -> NoReturn:
    raise BundleError(
        f"{folder}: {found}",
        expected=expected or "the files that the manifest names, whole and unchanged, and nothing else",
        do=GET_AGAIN,
    )


def _walk(folder: Path) -> dict[str, int]:
    """Relative path → size of every regular file. Links and special files are refused, never followed."""
    sizes: dict[str, int] = {}
    waiting: list[tuple[str, int]] = [("", 0)]
    while waiting:
        prefix, depth = waiting.pop()
        if depth > MAX_DEPTH:
            _refuse(folder, f"folders are nested deeper than {MAX_DEPTH}")
        with os.scandir(folder / prefix) as items:
            for item in items:
                name = f"{prefix}{item.name}"
                mode = item.stat(follow_symlinks=False)
                if stat.S_ISDIR(mode.st_mode):
                    waiting.append((f"{name}/", depth + 1))
                elif stat.S_ISREG(mode.st_mode):
                    sizes[name] = mode.st_size
                else:
                    _refuse(folder, f"{name!r} is a link or another special file")
                if len(sizes) + len(waiting) > MAX_FILES + 2:
                    _refuse(folder, f"it holds more than {MAX_FILES} files")
    return sizes


def _bytes(folder: Path, name: str, limit: int) -> bytes:
    try:
        return read_bytes(folder / name, limit, follow=False)
    except UnsafeFile:
        _refuse(folder, f"{name} is over {limit} bytes, or is not a regular file")


def _compare(folder: Path, sizes: dict[str, int], manifest: Manifest) -> None:
    listed = {MANIFEST, SIGNATURE, *manifest.files}
    extra = sorted(set(sizes) - listed)
    missing = sorted(set(manifest.files) - set(sizes))
    found = [f"{name!r} is missing" for name in missing] + [f"{name!r} is not in the manifest" for name in extra]
    found += [
        f"{name!r} has {sizes[name]} bytes, the manifest says {entry.size_bytes}"
        for name, entry in manifest.files.items()
        if name in sizes and sizes[name] != entry.size_bytes
    ]
    if not found:
        found = [
            f"{name!r} has changed: its sha256 is not the manifest's"
            for name, entry in manifest.files.items()
            if _sha256(folder / name) != entry.sha256
        ]
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        _refuse(folder, "; ".join(found[:5]) + more)


def _sha256(path: Path) -> str:
    """Hash without following a link that appeared since the walk."""
    digest = hashlib.sha256()
    with open_outside(path, follow=False) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
