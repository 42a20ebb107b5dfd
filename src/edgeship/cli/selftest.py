"""``selftest``: every assumption about an engine, proven on this device."""

from __future__ import annotations

from pathlib import Path

import typer

from edgeship.cli.app import app
from edgeship.cli.live import progress_bar
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import engine_name


@app.command()
def selftest(
    engine: str = typer.Option(
        "onnxruntime", "--engine", "-e", help="onnxruntime | openvino | tensorrt | tensorrt-rtx | onnxruntime-rtx"
    ),
    device: str = typer.Option("", help="cpu | cuda:0 | gpu | npu (default: cpu where the engine has it)."),
    out: Path | None = typer.Option(None, "--out", "-o", help="Write the result here as JSON, without private facts."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Prove on this device what edgeship assumes of an engine; exit code 4 where a check fails."""
    from edgeship.results import write
    from edgeship.selftest import selftest as run

    with progress_bar(quiet=as_json) as progress:
        found = run(engine_name(engine), device, progress)
    if out is not None:
        write(found, out)
    failed = [check for check in found.checks if check.outcome == "failed"]

    def lines() -> list[str]:
        shown = [f"{check.outcome:<9} {check.name:<26} {check.said}" for check in found.checks]
        shown += [f"do not trust: {check.distrust} ({check.name} failed)" for check in failed]
        shown.append(
            f"{found.engine} {found.version} on {found.device}: {len(failed)} of {len(found.checks)} checks failed"
        )
        if failed:
            shown.append("send the file of --out with a report")
        return shown

    emit(found.model_dump(mode="json"), as_json=as_json, lines=lines)
    if failed:
        raise typer.Exit(4)
