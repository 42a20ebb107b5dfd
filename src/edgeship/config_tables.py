"""Tables that stand apart in edgeship.toml and belong together in :class:`edgeship.config.Config`.

``[inputs.NAME]`` is ``preprocess.inputs.NAME``; of ``[frames]``, the layout of raw dumps is ``preprocess.raw``;
``[state]`` is ``preprocess.state``, and ``[preprocess.NAME]`` holds
the steps of one camera: those of ``[preprocess]`` with its own in their place. ``[evaluation.NAME]`` is one of several
tasks, ``evaluation.tasks.NAME``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeship.config import Evaluation, FrameStreams, Preprocess, RawFrames

PARTS = ("inputs", "state")
"""Tables at the top of the file that are fields of ``[preprocess]``."""
LIMITS = ("max_drop", "min", "critical", "critical_min")
"""Tables of ``[gate]`` whose names may have parts: ``boxes.map``."""


def gathered(raw: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The tables of a file with those that stand apart where the models have them.

    Args:
        raw: The file as it was read.
        problems: Receives a sentence for each table that belongs nowhere.
    """
    found = dict(raw)
    if isinstance(found.get("evaluation"), dict):
        found["evaluation"] = _with_tasks(found["evaluation"])
    if isinstance(found.get("gate"), dict):
        found["gate"] = {key: _dotted(value) if key in LIMITS else value for key, value in found["gate"].items()}
    if isinstance(found.get("frames"), dict):
        found["frames"], layout = _with_layout(found["frames"])
        if layout and isinstance(found.get("preprocess"), dict):
            found["preprocess"] = {**found["preprocess"], "raw": layout}
        elif layout and "preprocess" not in found:
            problems.append("preprocess: missing; through it the raw dumps of [frames] become the network's input")
    steps = found.get("preprocess")
    parts = {name: found.pop(name) for name in PARTS if name in found}
    if not isinstance(steps, dict):
        if parts and steps is None:
            problems.append(f"preprocess: missing; [{next(iter(parts))}] stands beside an image and its [preprocess]")
        return found
    known = set(Preprocess.model_fields)
    cameras = {name: table for name, table in steps.items() if isinstance(table, dict) and name not in known}
    common = {name: value for name, value in steps.items() if name not in cameras}
    common |= parts
    if cameras:
        common = _with_cameras(common, cameras, problems)
    return {**found, "preprocess": common}


def _with_tasks(table: dict[str, Any]) -> dict[str, Any]:
    """``[evaluation]`` with each ``[evaluation.NAME]`` among its tasks, the common settings in it."""
    known = set(Evaluation.model_fields)
    tasks = {name: own for name, own in table.items() if isinstance(own, dict) and name not in known}
    if not tasks:
        return table
    common = {name: value for name, value in table.items() if name not in tasks}
    return {**common, "tasks": {name: {**common, **own} for name, own in tasks.items()}}


def _with_layout(table: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``[frames]`` says of recordings, and what of raw dumps; a strange key belongs where the others do."""
    stream = {name: value for name, value in table.items() if name in FrameStreams.model_fields}
    rest = {name: value for name, value in table.items() if name not in stream}
    return (stream, rest) if rest.keys() & RawFrames.model_fields.keys() else (table, {})


def _dotted(limits: Any) -> Any:
    """Limits by dotted names: TOML reads ``{ boxes.map = 0.01 }`` as a table in a table."""
    if not isinstance(limits, dict):
        return limits
    found: dict[str, Any] = {}
    for name, value in limits.items():
        inner = _dotted(value)
        found |= {f"{name}.{key}": item for key, item in inner.items()} if isinstance(inner, dict) else {name: value}
    return found


def _with_cameras(common: dict[str, Any], cameras: dict[str, dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    """``[preprocess]`` with each camera's steps in its ``[inputs.NAME]``; the camera that has none takes the images."""
    inputs = common.get("inputs")
    inputs = dict(inputs) if isinstance(inputs, dict) else {}
    shared = {name: value for name, value in common.items() if name not in (*PARTS, "input")}
    alone = [name for name in cameras if name not in inputs]
    for name, own in cameras.items():
        if isinstance(inputs.get(name), dict):
            inputs[name] = {**inputs[name], "preprocess": {**shared, **own, "input": name}}
    if len(alone) > 1 or (alone and common.get("input") not in (None, alone[0])):
        wrong = [name for name in alone if name != common.get("input")][-1]
        problems.append(
            f"preprocess.{wrong}: nothing says where its images are; add [inputs.{wrong}] with "
            'from = "images" and their folders, calibration and evaluation'
        )
    elif alone:
        common = {**common, **cameras[alone[0]], "input": alone[0]}
    return {**common, "inputs": inputs} if inputs else common


def as_written(location: Sequence[str]) -> list[str]:
    """Where the file has what the models hold at ``location``: ``preprocess.inputs.left`` is ``inputs.left``."""
    parts = list(location)
    if parts[:1] == ["preprocess"] and len(parts) > 1 and parts[1] in PARTS:
        parts = parts[1:]
        if len(parts) > 2 and parts[2] == "preprocess":
            parts = ["preprocess", parts[1], *parts[3:]]
    if parts[:2] == ["preprocess", "raw"]:
        parts = ["frames", *parts[2:]]
    if parts[:2] == ["evaluation", "tasks"]:
        parts = ["evaluation", *parts[2:]]
    return parts
