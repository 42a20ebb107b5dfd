"""``preflight``, ``inspect`` and ``doctor``: what a file or this machine is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeship.cli.app import app
from edgeship.cli.live import working
from edgeship.cli.output import JSON_OPTION, emit, native_output_aside
from edgeship.cli.settings import PLUGIN, engine_name

if TYPE_CHECKING:
    from edgeship.cli.output import Lines


@app.command()
def preflight(
    model: Path = typer.Argument(help="The ONNX file."),
    engine: str = typer.Option("", "--engine", "-e", help="The engine whose parser is asked (default: the first)."),
    plugins: list[Path] = PLUGIN,
    as_json: bool = JSON_OPTION,
) -> None:
    """Every node that TensorRT's parser rejects, with the remedies, before anything is built."""
    from edgeship.prepare.preflight import describe
    from edgeship.prepare.preflight import preflight as run

    with working("asking the parser", quiet=as_json), native_output_aside():
        result = run(model, engine=engine_name(engine) if engine else None, plugins=tuple(plugins))

    def lines() -> Lines:
        yield f"asked     {result.parser or 'no parser of TensorRT: none works here'}"
        for problem in result.problems:
            yield f"{problem.level:<9} {describe(problem)}"
            for index, remedy in enumerate(problem.remedies, start=1):
                yield f"            {index}. {remedy}"
        if not result.problems:
            yield "ok        nothing to object to"

    emit(result, as_json=as_json, lines=lines)
    if result.errors:
        raise typer.Exit(2)


@app.command()
def inspect(
    file: Path = typer.Argument(help="An .onnx file, an engine, or a bundle (a folder or a zip)."),
    plugins: list[Path] = PLUGIN,
    as_json: bool = JSON_OPTION,
) -> None:
    """Names, shapes, types and profiles of an ONNX file, an engine or a bundle."""
    from edgeship.engines.inspect import Described, describe

    if file.is_dir() or file.suffix == ".zip":
        from edgeship.bundle.find import find_bundle
        from edgeship.bundle.verify import verify

        manifest = verify(find_bundle(file))
        found = Described(
            kind="bundle",
            what=f"{manifest.name}, {manifest.verdict}, for {manifest.identity.device}",
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            profiles=manifest.profiles,
            facts={"created": manifest.created, "engine": f"{manifest.identity.engine} {manifest.identity.version}"},
        )
    else:
        found = describe(file, tuple(plugins))

    def lines() -> Lines:
        yield f"{found.kind:<9} {found.what}"
        for word, tensors in (("input", found.inputs), ("output", found.outputs)):
            for tensor in tensors:
                yield f"{word:<9} {tensor.name}: {tensor.dtype} [{', '.join(map(str, tensor.shape))}]"
        for name, (low, best, high) in found.profiles.items():
            yield f"profile   {name}: min {low}, opt {best}, max {high}"
        for key, value in found.facts.items():
            yield f"{key:<9} {value}"

    emit(found, as_json=as_json, lines=lines)


@app.command()
def doctor(as_json: bool = JSON_OPTION) -> None:
    """Versions, drivers and engines here, and what does not fit together."""
    from edgeship.doctor import examine

    found = examine()

    def lines() -> Lines:
        for key, value in found.facts.items():
            yield f"{key:<18} {value}"
        for state in found.engines:
            mark = "ready" if state.available else "absent"
            detail = f": {state.reason}" if state.reason else ""
            yield f"{'engine':<18} {state.name} {state.version} {mark}{detail}"
        for misfit in found.misfits:
            yield f"{'misfit':<18} {misfit}"
        if not found.misfits:
            yield "nothing here contradicts anything else"
        yield "edgeship selftest --engine NAME proves on this device what is assumed of an engine"

    emit(found, as_json=as_json, lines=lines)
