"""What an ONNX file or an engine file holds, without opening an engine that is not for this machine."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgeship.engines import OpenOptions, cuda
from edgeship.engines.file_kind import other_kind
from edgeship.engines.onnx_file import read_inputs, read_nodes
from edgeship.engines.trt.plan import SEARCH_BYTES, TAGS, TITLES, Plan, plan_within, read_plan
from edgeship.errors import ArtifactError, EdgeshipError, EngineMismatch, ModelError
from edgeship.files import sha256_file
from edgeship.results import Build, Result, TensorInfo, read

Profiles = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


class Described(Result):
    """A file's names, shapes, types and profiles."""

    kind: str
    """onnx, engine or bundle."""
    what: str
    inputs: tuple[TensorInfo, ...] = ()
    outputs: tuple[TensorInfo, ...] = ()
    profiles: Profiles = Field(default_factory=dict)
    facts: dict[str, str] = Field(default_factory=dict)


def sidecar(engine: Path) -> Path:
    """The file beside an engine that ``edgeship build`` writes: what was built, from what, for what."""
    return engine.with_name(f"{engine.name}.json")


def require_fit(path: Path, device: str) -> None:
    """Refuse an engine that the record beside it, if there is one, does not allow to be opened on ``device``.

    Raises:
        ArtifactError: The record is about another file.
        EngineMismatch: It was built for another flavour, version, GPU, driver or CUDA.
    """
    from edgeship.engines import get

    place = sidecar(path)
    if not place.is_file():
        return
    built = read(Build, place)
    if built.engine.sha256 != sha256_file(path):
        raise ArtifactError(
            f"{path} is not the file that {place.name} describes: its hash differs",
            expected="the engine as edgeship build wrote it",
            do=f"build it again, or remove {place} if the engine comes from elsewhere",
        )
    misfits = get(built.identity.engine).misfits(built.identity, device)
    if misfits:
        raise EngineMismatch(
            misfits, do=f"build it here again: edgeship build MODEL.onnx --engine {built.identity.engine} --out {path}"
        )


def describe(path: Path, plugins: tuple[Path, ...] = ()) -> Described:
    """Describe an ONNX file or an engine. ``plugins`` are loaded where the engine must be opened for it.

    Raises:
        ArtifactError: Neither of the two, damaged, or behind a foreign header.
    """
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist", expected="an .onnx file, an engine or a bundle's folder", do="check the path"
        )
    with path.open("rb") as stream:
        head = stream.read(SEARCH_BYTES)
    tagged = head[:4] in TAGS
    other = other_kind(path) if not tagged and plan_within(head) is None else None
    if other is not None:
        raise ArtifactError(
            f"{path} is {other.what}", expected="an .onnx file, an engine or a bundle's folder", do=other.do
        )
    if path.suffix == ".onnx" and not tagged:
        return _onnx(path)
    try:
        return _engine(path, read_plan(path), plugins)
    except ArtifactError:
        if head[:1] != b"\x08":
            raise
    try:
        return _onnx(path)
    except ModelError as error:
        raise ArtifactError(f"{path} is neither a TensorRT plan nor ONNX: {error.found}") from None


def _onnx(path: Path) -> Described:
    inputs, outputs = read_inputs(path)
    nodes = read_nodes(path)
    kinds: dict[str, int] = {}
    for node in nodes:
        kinds[node.operator] = kinds.get(node.operator, 0) + 1
    quantized = kinds.get("QuantizeLinear", 0)
    common = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])[:8])
    return Described(
        kind="onnx",
        what=f"{path.name}, {len(nodes)} nodes" + (f", {quantized} of them QuantizeLinear" if quantized else ""),
        inputs=inputs,
        outputs=outputs,
        facts={"operators": common},
    )


def _engine(path: Path, plan: Plan, plugins: tuple[Path, ...]) -> Described:
    what = f"{TITLES[plan.engine]} {plan.version}, {plan.size_bytes / 2**20:.1f} MiB"
    beside = _beside(path)
    if beside is not None:
        bound = beside.identity
        facts = {"built for": bound.device, "by": f"{bound.engine} {bound.version} on {bound.platform}"}
        if beside.reason:
            facts["state"] = f"built, not run: {beside.reason}"
        return Described(
            kind="engine",
            what=what,
            inputs=beside.inputs,
            outputs=beside.outputs,
            profiles=beside.profiles,
            facts=facts,
        )
    if not cuda.cuda().gpus:
        why = f"its names and profiles can be read only where it runs ({cuda.cuda().reason})"
        return Described(kind="engine", what=what, facts={"note": why})
    return _opened(path, plan, what, plugins)


def _opened(path: Path, plan: Plan, what: str, plugins: tuple[Path, ...]) -> Described:
    from edgeship.engines import get

    try:
        with get(plan.engine).open(path, OpenOptions(device="cuda:0", plugins=plugins)) as runner:
            return Described(kind="engine", what=what, inputs=runner.inputs, outputs=runner.outputs)
    except EdgeshipError as error:
        return Described(kind="engine", what=what, facts={"does not open here": str(error)})


def _beside(path: Path) -> Build | None:
    """The build record beside an engine, if it is there and is about this very file."""
    for place in (sidecar(path), path.with_name("build.json")):
        if place.is_file():
            try:
                built = read(Build, place)
            except ArtifactError:
                continue
            if built.engine.sha256 == sha256_file(path):
                return built
    return None
