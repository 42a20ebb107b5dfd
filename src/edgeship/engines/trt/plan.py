"""The first bytes of a TensorRT plan: whose it is and which version wrote it. Reads bytes, loads nothing.

Both flavours write a four-byte tag, the plan's size, and the version as four bytes at offset 24 (trtexec's
``--getPlanVersionOnly`` reads the same place).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeship.config import EngineName
from edgeship.errors import ArtifactError, EngineMismatch, UnsafeFile
from edgeship.files import open_outside

HEADER_BYTES = 64
TAGS: dict[bytes, EngineName] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
SEARCH_BYTES = 1 << 20
TITLES: dict[EngineName, str] = {
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "onnxruntime-rtx": "TensorRT-RTX in onnxruntime",
}


@dataclass(frozen=True)
class Plan:
    """What the header of a plan says."""

    engine: EngineName
    version: str
    size_bytes: int
    """The size the header names; the file's own size for flavours that do not tell."""


def read_plan(path: Path) -> Plan:
    """Read the header of a plan file.

    Raises:
        ArtifactError: Not a plan, truncated, or behind a foreign header.
    """
    try:
        with open_outside(path) as stream:
            head = stream.read(SEARCH_BYTES)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", expected="an engine file", do="edgeship build") from None
    except UnsafeFile:
        if not path.is_dir():
            raise
        raise ArtifactError(f"{path} is a folder", expected="an engine file; for a bundle: edgeship run") from None
    return parse_plan(head, path.stat().st_size, str(path))


def parse_plan(head: bytes, size: int, where: str) -> Plan:
    """Read the header of a plan whose first bytes are ``head`` and whose whole length is ``size`` bytes.

    Raises:
        ArtifactError: Not a plan, truncated, or behind a foreign header.
    """
    engine = TAGS.get(head[:4])
    if engine is None:
        raise _no_plan(head, where)
    if len(head) < HEADER_BYTES:
        raise ArtifactError(f"{where} is truncated: {size} bytes", expected="a whole engine file", do="copy it again")
    named = int.from_bytes(head[16:24], "little")
    if engine == "tensorrt-rtx" and named != size:
        state = "truncated" if size < named else "followed by foreign bytes"
        raise ArtifactError(
            f"{where} is {state}: it has {size} bytes and its header names {named}",
            expected="a whole engine file",
            do="copy it again and compare the hashes, or build it again",
        )
    version = ".".join(str(byte) for byte in head[24:28])
    return Plan(engine, version, named if engine == "tensorrt-rtx" else size)


def require_flavour(plan: Plan, engine: EngineName, where: str) -> None:
    """Refuse a plan of another flavour.

    Raises:
        EngineMismatch: ``where`` was built by the other flavour.
    """
    if plan.engine != engine:
        raise EngineMismatch(
            [f"{where} is a {TITLES[plan.engine]} {plan.version} plan; it was opened with {TITLES[engine]}"],
            do=f"open it with --engine {plan.engine}, or build the ONNX again with --engine {engine}",
        )


def plan_within(head: bytes) -> re.Match[bytes] | None:
    """Where a plan begins in the first bytes of a file: some exporters write metadata in front. None: nowhere."""
    return re.search(b"(?:ftrt|vtrt)\x00{4}", head)


def _no_plan(head: bytes, where: str) -> ArtifactError:
    if not head:
        return ArtifactError(f"{where} is empty", expected="an engine file", do="build it again")
    inside = plan_within(head)
    if inside is not None:
        return ArtifactError(
            f"{where} has {inside.start()} foreign bytes in front of a {TITLES[TAGS[inside[0][:4]]]} plan "
            "(some exporters write their own metadata there)",
            expected="the raw plan, as the builder wrote it",
            do=f"remove them: tail -c +{inside.start() + 1} {where} > raw.engine",
        )
    if head[:1] == b"\x08" and b"onnx" in head[:4096].lower():
        return ArtifactError(
            f"{where} looks like an ONNX model", expected="an engine file", do=f"edgeship build {where}"
        )
    return ArtifactError(
        f"{where} is not a TensorRT plan: it begins with {head[:4]!r}",
        expected="b'ftrt' (TensorRT) or b'vtrt' (TensorRT-RTX)",
        do="build it again; a file from git-lfs or a web page is often a stand-in of text",
    )
