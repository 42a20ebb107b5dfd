"""INT8 by edgeship and by its peers on nine networks of different kinds: task accuracy, agreement, signal-to-noise.

    python benchmarks/int8_numbers.py --packages DIR [--nncf DIR] [--only vit --only gru] [--json FILE]

DIR holds ``pip install --no-deps --target DIR`` of examples/efficientnet_lite0/requirements.txt,
examples/yolox_nano/requirements.txt and benchmarks/int8_packages.txt; the DIR of ``--nncf`` holds NNCF with what it
needs. Everyone calibrates on the same frames of the same simplified graph, by the settings that the peer's own pages
recommend, and is judged in exact arithmetic on the same other images. The target is the best peer's figure, or FP32's
where a peer has more: INT8 is better than FP32 by chance alone. ``--json`` keeps what an earlier run with the
same versions on this processor recorded of other networks, so that one machine may go through them in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import int8_networks
import numpy as np
import peers
from int8_networks import Array, Network

OURS = "edgeship"
PEERS = (
    "onnxruntime MinMax",
    "onnxruntime Entropy",
    "onnxruntime Percentile",
    "ModelOpt entropy",
    "ModelOpt max",
    "NNCF quantize",
)
WRITTEN_AS = ("ModelOpt", "NNCF")
"""Graphs for other engines: run as they are written, so that onnxruntime's rewriting changes nothing."""


def main() -> None:
    """Quantize every network by every contender, and judge."""
    parser = harness.parser(__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--nncf", type=Path, help="a folder with NNCF; left out without it")
    parser.add_argument("--only", action="append", choices=list(int8_networks.NETWORKS), default=[])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(by_library(*given.child)))
        return
    before = harness.facts()
    if given.nncf:
        before["versions"]["nncf"] = next(given.nncf.glob("nncf-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    kept = known(given.json, before)
    for name in given.only or int8_networks.NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            network = int8_networks.build(name, Path(folder), given.packages.resolve())
            kept[name] = measured(network, Path(folder), given.nncf)
        harness.record(given.json, before, networks=kept)
    print(table(kept))
    for found in kept.values():
        scores = {entry["what"]: entry["score"] for entry in found["rows"] if entry["score"] is not None}
        best = min(scores["FP32"], max((scores[name] for name in PEERS if name in scores), default=0.0))
        harness.target(f"{found['name']}, {found['figure']}", scores[OURS], best, at_least=True)


def known(path: Path | None, before: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run on this machine recorded, where its versions are the same."""
    if path is None or not path.is_file():
        return {}
    told = json.loads(path.read_text())
    same = all(told["machine"][key] == before[key] for key in ("cpu", "isa", "versions"))
    found: dict[str, Any] = told["networks"] if same else {}
    return found


def measured(network: Network, folder: Path, nncf: Path | None) -> dict[str, Any]:
    """One network by all contenders."""
    np.save(folder / "frames.npy", network.frames)
    wanted = run(network, network.model, written=False)
    rows = [row(network, "FP32", wanted, wanted)]
    made = theirs(network, folder, nncf)
    start = time.perf_counter()
    made[OURS] = {"said": ours(network, place(folder, OURS)), "seconds": time.perf_counter() - start}
    for name in (OURS, *PEERS):
        if name not in made:
            continue
        if place(folder, name).is_file():
            found = run(network, place(folder, name), written=name.startswith(WRITTEN_AS))
            rows.append(row(network, name, found, wanted) | made[name])
        else:
            rows.append({"what": name, **dict.fromkeys(("score", "agreement", "snr_db"))} | made[name])
        print(network.name, rows[-1], file=sys.stderr, flush=True)
    return {
        "name": network.name, "figure": network.figure, "frames": len(network.frames), "images": len(network.images),
        "rows": rows,
    }  # fmt: skip


def row(network: Network, what: str, found: list[Array], wanted: list[Array]) -> dict[str, Any]:
    """The figures of one contender."""
    signal = sum(float((one.astype(np.float64) ** 2).sum()) for one in wanted)
    noise = sum(float(((one.astype(np.float64) - other) ** 2).sum()) for one, other in zip(wanted, found, strict=True))
    axes = [1 if one.ndim == 4 else -1 for one in wanted]  # a class map has its classes before its rows
    same = [
        float(np.mean(a.argmax(axis=axis) == b.argmax(axis=axis)))
        for a, b, axis in zip(wanted, found, axes, strict=True)
    ]
    return {
        "what": what, "score": network.score(found, wanted), "agreement": min(same),
        "snr_db": 10 * float(np.log10(signal / noise)) if noise else None,
    }  # fmt: skip


def run(network: Network, model: Path, *, written: bool) -> list[Array]:
    """The outputs for all images, one by one, in exact arithmetic."""
    from edgeship.prepare.running import Running

    running, name = Running(model, optimize=not written, layout=not written), network.input
    answers = [running.run(None, {name: image[None]}) for image in network.images]
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]


def ours(network: Network, out: Path) -> str:
    """What ``edgeship calibrate`` and ``quantize`` do by default; the method and the placement."""
    from edgeship.errors import QuantizeError
    from edgeship.prepare import calibration_cache
    from edgeship.prepare.calibrate import CalibrateOptions, calibrate
    from edgeship.prepare.frame_checks import Batches
    from edgeship.prepare.quantize import QuantizeOptions, quantize

    batches = [([str(number)], {network.input: frame[None]}) for number, frame in enumerate(network.frames)]
    cache = out.with_suffix(".cache")
    done = calibrate(network.model, Batches(batches), cache, CalibrateOptions())
    loaded = calibration_cache.load(cache, calibration_cache.Expected(graph_sha256=done.graph_sha256))
    try:
        quantize(network.model, loaded, out, batches[:8], QuantizeOptions(layers=False))
    except QuantizeError as error:
        import onnx

        names = tuple(value.name for value in onnx.load(str(network.model)).graph.output)
        quantize(network.model, loaded, out, batches[:8], QuantizeOptions(layers=False, allow_noise=names))
        return f"{done.method}, {done.placement}; refused unless allowed by name: {error.found[:120]}"
    return f"{done.method}, {done.placement}"


def place(folder: Path, name: str) -> Path:
    """Where a contender's graph is written."""
    return folder / f"{name.replace(' ', '-')}.onnx"


def theirs(network: Network, folder: Path, nncf: Path | None) -> dict[str, dict[str, Any]]:
    """The peers' graphs, those of each library made in one process: what each said where it failed, and seconds."""
    made: dict[str, dict[str, Any]] = {}
    for library in dict.fromkeys(name.split()[0] for name in PEERS):
        if library == "NNCF" and nncf is None:
            continue
        paths = [str(nncf.resolve())] if library == "NNCF" and nncf is not None else []
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        command = [sys.executable, "-W", "ignore", __file__, "--packages", ".", "--child", library]
        done = subprocess.run(
            [*command, str(network.model), str(folder)],
            capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{library} on {network.name}: {done.stderr[-2000:]}")
        made |= json.loads(done.stdout.splitlines()[-1])
    return made


def by_library(library: str, model: str, folder: str) -> dict[str, dict[str, Any]]:
    """Every method of one library, in this process."""
    stack, made = np.load(Path(folder) / "frames.npy"), {}
    for name in (one for one in PEERS if one.startswith(library)):
        start, said = time.perf_counter(), ""
        try:
            peers.quantize(name, Path(model), stack, place(Path(folder), name))
        except Exception as error:  # noqa: BLE001 - a peer that stops is a figure of the table
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        made[name] = {"said": said, "seconds": time.perf_counter() - start}
    return made


def table(kept: dict[str, Any]) -> str:
    """Networks down, contenders across."""
    names = ("FP32", OURS, *PEERS)
    rows = []
    for found in kept.values():
        by = {entry["what"]: entry["score"] for entry in found["rows"]}
        scores = [f"{by[name]:.4f}" if by.get(name) is not None else None for name in names]
        rows.append((f"{found['name']}, {found['figure']} of {found['images']}", *scores))
    return harness.table(("network", *names), rows)


if __name__ == "__main__":
    main()
