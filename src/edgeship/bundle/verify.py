"""Is this bundle whole, unchanged and from whom it should be? Plain Python; nothing in it is parsed by an engine.

Every file is hostile until its hash matches the manifest, and with a key the manifest itself until its signature
does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edgeship.bundle.envelope import check_envelopes
from edgeship.bundle.manifest import (
    ENVELOPE_BYTES,
    GET_AGAIN,
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURES,
    SIGNATURE_BYTES,
    STATEMENT,
    Manifest,
    is_envelope,
    is_signature,
    is_unlisted,
    parse,
)
from edgeship.bundle.trust import Trust, check_release, check_signatures, trust_in
from edgeship.bundle.unpack import unpack
from edgeship.engines import onnx_policy
from edgeship.errors import BundleError, ModelError, UnsafeFile
from edgeship.files import CHUNK, open_outside, open_own, read_bytes

MAX_DEPTH = 16
UNPACKED = "edgeship-bundle-"
ONNX_ENGINES = ("onnxruntime", "openvino", "onnxruntime-rtx")
"""Engines whose engine file is an ONNX model."""


@dataclass(frozen=True)
class Verified:
    """A bundle that was checked, unpacked at ``folder``."""

    folder: Path
    manifest: Manifest
    data: bytes
    """The bytes of the manifest that were checked: what a signature is made over."""
    signed: bool
    """Whether a signature was asked for and matched."""
    signatures: tuple[str, ...] = ()
    """The signature files that lie in the bundle, whether or not they were checked."""
    attested: tuple[str, ...] = ()
    """Ids of the given keys whose signed envelope of the provenance statement is there and was checked."""


def verify(path: Path, key: Trust | Path | None = None) -> Manifest:
    """Check a bundle: a folder, or a zip.

    Args:
        path: The bundle.
        key: An Ed25519 public key, or a :class:`Trust`; given, absent or wrong signatures are refused.

    Raises:
        BundleError: Any file is changed, missing, extra, a link, out of bounds or badly signed; a model keeps weights
            outside its file; the bundle has expired or is not of the release or model that is trusted.
    """
    with opened(path, key) as verified:
        return verified.manifest


@contextmanager
def opened(path: Path, key: Trust | Path | None = None) -> Iterator[Verified]:
    """A verified bundle as a folder. A zip is unpacked to a private temporary folder that vanishes at the end.

    Raises BundleError as :func:`verify` does.
    """
    trust = trust_in(key)
    if path.is_dir():
        yield _verify_folder(path, trust)
        return
    with _private_folder() as folder:
        unpack(path, folder, trust)
        yield _verify_folder(folder, trust)


def require_ship(manifest: Manifest, where: str, *, allow: bool = False) -> None:
    """Refuse a bundle whose verdict is not SHIP, unless ``allow`` is set.

    Raises:
        BundleError: It is NO-SHIP or INCONCLUSIVE.
    """
    if manifest.verdict != "SHIP" and not allow:
        raise BundleError(
            f"{where}: its verdict is {manifest.verdict}: {manifest.sentence}",
            expected="a bundle that ships",
            do="make one that passes its gate; --allow-no-ship (allow_no_ship=True) takes it all the same",
        )


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A temporary folder for one bundle. Those whose process was killed are removed on the way."""
    for left in Path(tempfile.gettempdir()).glob(f"{UNPACKED}*"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=UNPACKED) as name, open_own(Path(name, "held")) as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        folder = Path(name, "bundle")
        folder.mkdir(mode=0o700)
        yield folder


def _remove_if_left(folder: Path) -> None:
    """Remove an unpacked bundle of ours that no process holds. One that is just being made has no ``held`` yet."""
    try:
        if folder.lstat().st_uid != os.geteuid():
            return
        with open_own(folder / "held", create=False) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, UnsafeFile):
        return


def _verify_folder(folder: Path, trust: Trust) -> Verified:
    try:
        return _verified(folder, trust)
    except OSError as error:  # not readable, or it vanished or became a link while it was checked
        _refuse(folder, f"{error.filename} cannot be read: {error.strerror}")


def _verified(folder: Path, trust: Trust) -> Verified:
    sizes = _walk(folder)
    if MANIFEST not in sizes:
        _refuse(folder, f"{MANIFEST} is missing")
    data = _bytes(folder, MANIFEST, MAX_MANIFEST_BYTES)
    signatures = {name: _bytes(folder, name, SIGNATURE_BYTES) for name in sizes if is_signature(name)}
    check_signatures(data, signatures, trust, str(folder))
    manifest = parse(data, str(folder))
    check_release(manifest, trust, str(folder))
    _compare(folder, sizes, manifest)
    _check_models(folder, manifest)
    attested = _attested(folder, sizes, manifest, trust)
    return Verified(folder, manifest, data, bool(trust.keys), tuple(sorted(signatures)), attested)


def _attested(folder: Path, sizes: dict[str, int], manifest: Manifest, trust: Trust) -> tuple[str, ...]:
    """Ids of the keys whose envelopes of the statement were checked; the statement's hash matched before."""
    names = [name for name in sizes if is_envelope(name)]
    if len(names) > MAX_SIGNATURES:
        _refuse(folder, f"it holds {len(names)} envelopes of its provenance; at most {MAX_SIGNATURES} may be")
    if not trust.keys or not names:
        return ()
    envelopes = {name: _bytes(folder, name, ENVELOPE_BYTES) for name in names}
    statement = _bytes(folder, STATEMENT, ENVELOPE_BYTES) if STATEMENT in manifest.files else None
    return check_envelopes(statement, envelopes, trust.keys, str(folder))


def _check_models(folder: Path, manifest: Manifest) -> None:
    try:
        check_models(folder, manifest)
    except ModelError as error:
        _refuse(folder, error.found, expected=error.expected)


def check_models(folder: Path, manifest: Manifest) -> None:
    """Check every ONNX file of a bundle, whatever its name.

    Raises:
        ModelError: One keeps weights outside the bundle's files, or holds operators that nobody knows.
    """
    names = {manifest.model, *(name for name in manifest.files if name.endswith(".onnx"))}
    names |= {manifest.engine} if manifest.identity.engine in ONNX_ENGINES else set()
    for name in sorted(names):
        beside = f"{name}.data" if name != manifest.engine and f"{name}.data" in manifest.files else None
        onnx_policy.check_file(folder / name, plugins=bool(manifest.target.plugins), beside=beside)


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
                if len(sizes) + len(waiting) > MAX_FILES + MAX_SIGNATURES:
                    _refuse(folder, f"it holds more than {MAX_FILES} files")
    return sizes


def _bytes(folder: Path, name: str, limit: int) -> bytes:
    try:
        return read_bytes(folder / name, limit, follow=False)
    except UnsafeFile:
        _refuse(folder, f"{name} is over {limit} bytes, or is not a regular file")


def _compare(folder: Path, sizes: dict[str, int], manifest: Manifest) -> None:
    extra = sorted(name for name in set(sizes) - {MANIFEST, *manifest.files} if not is_unlisted(name))
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
