"""``hand-over``: a bundle as the files of Triton, DeepStream, ROS 2 or C++."""

from __future__ import annotations

from pathlib import Path

import typer

from edgeship.cli.app import app
from edgeship.cli.live import working
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.cli.settings import KEY_OPTION, NO_SHIP_OPTION


@app.command(name="hand-over")
def hand_over(
    bundle: Path = typer.Argument(..., metavar="BUNDLE", help="A bundle (folder or zip), or the work folder of a run."),
    kind: str = typer.Option(..., "--for", help="triton | deepstream | ros2 | cpp"),
    out: Path = typer.Option(..., "--out", "-o", help="A new folder."),
    key: list[Path] = KEY_OPTION,
    allow_no_ship: bool = NO_SHIP_OPTION,
    as_json: bool = JSON_OPTION,
) -> None:
    """Write what another runtime takes of a bundle: configuration, engine, labels, preprocessing and decoding."""
    from edgeship.bundle import Trust
    from edgeship.bundle.find import find_bundle
    from edgeship.handover import hand_over as write

    with working("verifying and writing", quiet=as_json):
        files, notes = write(find_bundle(bundle), kind, out, trust=Trust(tuple(key)), allow_no_ship=allow_no_ship)
    told = {"for": kind, "out": str(out), "files": list(files), "notes": list(notes)}
    emit(told, as_json=as_json, lines=lambda: [f"wrote {len(files)} files to {out}", *files, *notes])
