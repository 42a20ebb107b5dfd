"""Unpack a zipped bundle, every entry checked against the manifest before it is written."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

from edgeship.bundle.manifest import (
    ENVELOPE_BYTES,
    GET_AGAIN,
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURES,
    MODEL_SIGNATURE,
    MODEL_SIGNATURE_BYTES,
    SIGNATURE_BYTES,
    Manifest,
    check_path,
    is_envelope,
    is_signature,
    is_unlisted,
    parse,
)
from edgeship.bundle.trust import Trust, check_signatures
from edgeship.errors import BundleError, StorageError, UnsafeFile
from edgeship.files import CHUNK, open_outside

MAX_RATIO = 200
FREE_BYTES = 16 << 20
"""What any bundle may unpack to, whatever its ratio."""
_BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError, zlib.error)


def unpack(path: Path, into: Path, trust: Trust) -> Manifest:
    """Unpack a zipped bundle into the empty folder ``into``, checking everything on the way.

    The manifest is read and its signature checked before anything else is unpacked; each file is then written with
    its size bounded by the manifest. Hashes are checked by the caller's :func:`verify` of the folder.

    Raises:
        BundleError: Not a zip, or any entry that the manifest does not allow.
    """
    try:
        with open_outside(path) as stream, zipfile.ZipFile(stream) as archive:
            entries = _entries(archive, path)
            data = _read(archive, entries, MANIFEST, MAX_MANIFEST_BYTES, path)
            manifest = parse(data, str(path))
            (into / MANIFEST).write_bytes(data)
            signatures = {
                name: _read(archive, entries, name, SIGNATURE_BYTES, path) for name in entries if is_signature(name)
            }
            check_signatures(data, signatures, trust, str(path))
            for name, signature in signatures.items():
                (into / name).write_bytes(signature)
            if MODEL_SIGNATURE in entries:
                data = _read(archive, entries, MODEL_SIGNATURE, MODEL_SIGNATURE_BYTES, path)
                (into / MODEL_SIGNATURE).write_bytes(data)
            envelopes = [name for name in entries if is_envelope(name)]
            if len(envelopes) > MAX_SIGNATURES:
                _refuse(path, f"it holds {len(envelopes)} envelopes of its provenance; at most {MAX_SIGNATURES} may be")
            for name in envelopes:
                (into / name).write_bytes(_read(archive, entries, name, ENVELOPE_BYTES, path))
            _sizes(path, entries, manifest, into)
            for name in manifest.files:
                _extract(archive, entries[name], into / name, path)
    except _BROKEN as error:
        raise BundleError(f"{path} is not a readable zip: {error}", expected="a bundle", do=GET_AGAIN) from None
    except UnsafeFile as error:
        raise BundleError(error.found, expected="a bundle: a folder or a zip file", do="check the path") from None
    except FileNotFoundError:
        raise BundleError(
            f"{path} does not exist",
            expected="a bundle",
            do="check the path; edgeship ship and edgeship bundle write bundles",
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"no space left while unpacking {path}", do="free some space, or set TMPDIR") from None
        raise BundleError(f"{path} cannot be read: {error}", expected="a bundle", do=GET_AGAIN) from None
    return manifest


def _refuse(path: Path, found: str) -> NoReturn:
    raise BundleError(f"{path}: {found}", expected="the files that the manifest names, and nothing else", do=GET_AGAIN)


def _entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_FILES + MAX_SIGNATURES:
        _refuse(path, f"the zip has {len(infos)} entries; at most {MAX_FILES} are allowed")
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            _refuse(path, f"{info.filename[:80]!r} is a link or another special file")
        try:
            check_path(info.filename)
        except ValueError as error:
            _refuse(path, str(error))
        if info.filename in entries:
            _refuse(path, f"{info.filename!r} is there twice")
        if info.flag_bits & 0x1:
            _refuse(path, f"{info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _refuse(path, f"{info.filename!r} is packed by method {info.compress_type}")
        entries[info.filename] = info
    return entries


def _read(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str, limit: int, path: Path) -> bytes:
    if name not in entries:
        _refuse(path, f"{name} is missing")
    with archive.open(entries[name]) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        _refuse(path, f"{name} is over {limit} bytes")
    return data


def _sizes(path: Path, entries: dict[str, zipfile.ZipInfo], manifest: Manifest, into: Path) -> None:
    extra = sorted(name for name in set(entries) - {MANIFEST, *manifest.files} if not is_unlisted(name))
    missing = sorted(set(manifest.files) - set(entries))
    if extra or missing:
        found = [f"{name} is missing" for name in missing[:5]] + [
            f"{name} is not in the manifest" for name in extra[:5]
        ]
        _refuse(path, "; ".join(found))
    for name, entry in manifest.files.items():
        if entries[name].file_size != entry.size_bytes:
            _refuse(path, f"{name} unpacks to {entries[name].file_size} bytes, the manifest says {entry.size_bytes}")
    total = sum(entry.size_bytes for entry in manifest.files.values())
    packed = path.stat().st_size
    if total > MAX_RATIO * packed + FREE_BYTES:
        _refuse(path, f"{packed} bytes would unpack to {total}: a zip bomb")
    free = shutil.disk_usage(into).free
    if total > free:
        raise StorageError(
            f"unpacking {path} needs {total} bytes, {free} are free", do="free some space, or set TMPDIR"
        )


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, place: Path, path: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    left = info.file_size
    with archive.open(info) as source, place.open("xb") as sink:
        while chunk := source.read(min(CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                _refuse(path, f"{info.filename} unpacks to more than it says")
            sink.write(chunk)
