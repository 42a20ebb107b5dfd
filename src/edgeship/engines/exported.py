"""Layers of an engine from the files that tools write: trtexec's exports and onnxruntime's profile.

trtexec 10 and 11 write ``--exportLayerInfo`` (what the engine inspector says), ``--exportProfile`` (the time of each
layer) and ``--exportTimes`` (one row an inference).
"""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from edgeship.engines.ort.profile import read_profile
from edgeship.engines.ran import Origins, layer_of
from edgeship.engines.trt.audit import layers_of, parse_inspector
from edgeship.engines.trt.trtexec import read_times
from edgeship.errors import ArtifactError, EngineError
from edgeship.results import EngineLayer, EngineLayers

NAMED = re.compile(r"(graph|layer[-_]?info|layers)(?!.*(graph|layer[-_]?info|layers))", re.IGNORECASE)
"""The word in an export's file name that its neighbours have another word for."""
LARGEST = 256 << 20
"""Bytes of an export that is still read."""


def read_layers(path: Path, profile: Path | None = None, times: Path | None = None) -> EngineLayers:
    """The layers of an engine from an exported file.

    Args:
        path: trtexec's ``--exportLayerInfo``, or onnxruntime's profile.
        profile: trtexec's ``--exportProfile``; None: the file beside ``path`` that is named alike, if there is one.
        times: trtexec's ``--exportTimes``; None: likewise.

    Raises:
        ArtifactError: A file is absent, is not such an export, or the profile is of another engine.
        EngineError: The engine tells only the names of its layers.
    """
    value = _json(path)
    if isinstance(value, list):
        return _from_onnxruntime(path)
    layers = layers_of(parse_inspector(json.dumps(value), {}))
    if not layers:
        raise ArtifactError(f"{path} names no layer", expected="trtexec's --exportLayerInfo")
    profile = profile or _beside(path, ("profile", "Profile"))
    times = times or _beside(path, ("times", "timing", "time"))
    source = "trtexec's layer information" + (" and profile" if profile is not None else "")
    if profile is not None:
        layers = with_times(layers, profile)
    whole = statistics.median(read_times(_text(times)).device) if times is not None else None
    return EngineLayers(title=title_of(path), source=source, layers=layers, whole_ms=whole)


def with_times(layers: tuple[EngineLayer, ...], profile: Path) -> tuple[EngineLayer, ...]:
    """The layers with the times of trtexec's ``--exportProfile``; several of one name are matched in order.

    Raises:
        ArtifactError: The file is not such a profile, or none of its layers is one of these.
    """
    rows = _json(profile)
    if not isinstance(rows, list):
        raise ArtifactError(f"{profile} is not a profile", expected="trtexec's --exportProfile: a list of layers")
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if isinstance(row, dict) and "name" in row:
            time = row.get("medianMs", row.get("averageMs"))
            if not isinstance(time, (int, float)):
                raise ArtifactError(f"{profile}: {row['name']!r} has no time", expected="medianMs or averageMs")
            found[str(row["name"])].append(float(time))
    if not any(layer.name in found for layer in layers):
        raise ArtifactError(
            f"{profile} names no layer of the engine",
            expected="the profile of the same engine",
            do="export both in one run: trtexec --exportLayerInfo=… --exportProfile=… --separateProfileRun",
        )
    timed = []
    for layer in layers:
        own = found.get(layer.name)
        timed.append(layer.model_copy(update={"ms": own.pop(0)}) if own else layer)
    return tuple(timed)


def _from_onnxruntime(path: Path) -> EngineLayers:
    try:
        ran = read_profile(path)
    except EngineError as error:
        raise ArtifactError(
            f"{path} is a list without a node that ran",
            expected="trtexec's --exportLayerInfo or onnxruntime's profile",
        ) from error
    origins = Origins(())
    layers = tuple(layer_of(item, origins.of(item)) for item in ran)
    return EngineLayers(title=title_of(path), source="onnxruntime's profile", layers=layers)


def title_of(path: Path) -> str:
    """What an export is called: its file's name without the word for what it is."""
    return NAMED.sub("", path.stem).strip("_-. ") or path.stem


def _beside(path: Path, words: tuple[str, ...]) -> Path | None:
    """The export beside ``path`` whose name differs in that word only."""
    for word in words:
        place = path.with_name(NAMED.sub(word, path.name))
        if place != path and place.is_file():
            return place
    return None


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        expected = "trtexec's export or onnxruntime's profile"
        raise ArtifactError(f"{path} is not JSON: {error}", expected=expected) from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist", expected="a file that trtexec or onnxruntime exported")
    if path.stat().st_size > LARGEST:
        raise ArtifactError(f"{path} is larger than {LARGEST >> 20} MiB", expected="an export of layers")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not text: {error}") from None
