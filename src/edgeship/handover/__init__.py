"""A bundle as the files that another runtime takes: Triton, DeepStream, ROS 2, C++.

Everything is read from the bundle's manifest: tensor names, shapes, preprocessing, decoder, thresholds, classes. What a
runtime cannot express is refused with the remedy, never approximated.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from edgeship.bundle.trust import Trust
from edgeship.bundle.verify import opened, require_ship
from edgeship.errors import UserInputError
from edgeship.files import storage_errors, write_bytes
from edgeship.handover.source import Source

Kind = Literal["triton", "deepstream", "ros2", "cpp"]
WRITERS: dict[Kind, str] = {
    "triton": "edgeship.handover.triton",
    "deepstream": "edgeship.handover.deepstream",
    "ros2": "edgeship.handover.ros2",
    "cpp": "edgeship.handover.cpp_library",
}
Files = dict[str, bytes]
"""Path inside the folder → content."""


def hand_over(
    bundle: Path, kind: str, out: Path, *, trust: Trust | Path | None = None, allow_no_ship: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write what ``kind`` takes of a bundle into the folder ``out``.

    Returns:
        The files, and what the reader must know about them.

    Raises:
        UserInputError: No such kind, or the folder is not empty.
        BundleError: The bundle is not whole, not trusted, or its verdict is not SHIP.
        DataError: The runtime cannot express what the bundle says; the message names the remedy.
    """
    if kind not in get_args(Kind):
        raise UserInputError(f"--for {kind!r} is not a runtime", expected=" | ".join(get_args(Kind)))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserInputError(f"{out} is not an empty folder", do="name a new one with --out")
    write: Callable[[Source], tuple[Files, list[str]]] = importlib.import_module(WRITERS[kind]).files  # type: ignore[index]
    with opened(bundle, trust) as verified:
        require_ship(verified.manifest, str(bundle), allow=allow_no_ship)
        made, notes = write(Source(verified.manifest, verified.folder))
        with storage_errors(out):
            for name, content in made.items():
                place = out / name
                place.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(place, content)
    return tuple(made), tuple(notes)
