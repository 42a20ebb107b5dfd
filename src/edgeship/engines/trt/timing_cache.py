"""The timing cache: kept between builds, bound to the version and the device that measured it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship.engines.trt.flavour import WARNING, Flavour, Log, said
from edgeship.errors import CacheError
from edgeship.files import sha256_bytes, sha256_file, write_bytes, write_json
from edgeship.results import Identity

if TYPE_CHECKING:
    import tensorrt as trt

SCHEMA_VERSION = 1


def default_path(bound: Identity) -> Path:
    """Where the timing cache of this version and device is kept when the user names none."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{bound.engine}-{bound.version}-{bound.device}-{bound.platform}")
    return base / "edgeship" / "timing" / f"{name}.cache"


def proof_path(path: Path) -> Path:
    """The file beside a timing cache that says what it is bound to."""
    return path.with_name(path.name + ".json")


def attach(flavour: Flavour, config: trt.IBuilderConfig, path: Path, bound: Identity, log: Log) -> bool:
    """Give the builder the cache in ``path``, or an empty one; say whether there was one.

    The default cache, which nobody named, is measured anew where it does not hold: a build that was killed between
    the writing of the cache and of its proof leaves such a pair.

    Raises:
        CacheError: The user's cache belongs to another version or device or has changed; or TensorRT refuses it.
    """
    try:
        data = _read(path, bound)
    except CacheError as error:
        if path != default_path(bound):
            raise
        log.add(WARNING, f"{error.found}; the kernels are measured anew")
        data = b""
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise CacheError(
            f"{flavour.title} refuses the timing cache {path}: {said(log) or 'no reason given'}",
            expected="a cache written by this version on this device",
            do=f"delete {path} and {proof_path(path)}: the next build measures again",
        )
    return bool(data)


def keep(config: trt.IBuilderConfig, path: Path, bound: Identity) -> None:
    """Write what the builder measured, with its proof."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    data = bytes(cache.serialize())
    write_bytes(path, data)
    write_json(proof_path(path), {"sha256": sha256_bytes(data), **binding(bound)})


def binding(bound: Identity) -> dict[str, str | int | None]:
    """What a timing cache is bound to."""
    return {
        "schema_version": SCHEMA_VERSION,
        "engine": bound.engine,
        "version": bound.version,
        "device": bound.device,
        "compute_capability": bound.compute_capability,
    }


def _read(path: Path, bound: Identity) -> bytes:
    if not path.is_file():
        return b""
    proof = proof_path(path)
    advice = f"delete {path}, or name another file in timing_cache"
    try:
        known = json.loads(proof.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CacheError(
            f"the timing cache {path} does not say where it came from: {proof.name} is not beside it",
            expected="a cache written by edgeship",
            do=advice,
        ) from None
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{proof} is malformed: {error}", do=advice) from None
    expected = binding(bound)
    found = known if isinstance(known, dict) else {}
    wrong = [
        f"{key} is {found.get(key)!r}, here it is {value!r}"
        for key, value in expected.items()
        if found.get(key) != value
    ]
    if wrong:
        raise CacheError(f"the timing cache {path} belongs elsewhere: {'; '.join(wrong)}", do=advice)
    if found.get("sha256") != sha256_file(path):
        raise CacheError(f"the timing cache {path} has changed since it was written", do=advice)
    return path.read_bytes()
