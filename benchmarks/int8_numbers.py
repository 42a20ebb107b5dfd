"""INT8 by edgeship and by its peers on nine networks of different kinds: task accuracy, agreement, signal-to-noise.

    python benchmarks/int8_numbers.py --packages DIR [--nncf DIR] [--only vit --only gru] [--json FILE]

DIR holds ``pip install --no-deps --target DIR`` of examples/efficientnet_lite0/requirements.txt,
examples/yolox_nano/requirements.txt and benchmarks/int8_packages.txt; the DIR of ``--nncf`` holds NNCF with what it
needs. Everyone calibrates on the same frames of the same simplified graph, by the settings that the peer's own pages
recommend, and is judged in exact arithmetic on the same other images. The target: nowhere is the best peer's figure
surely better, by the gate's own paired bounds (:mod:`int8_paired`). ``--json`` keeps what an earlier run with the same
versions on this processor recorded, peer by peer, so that one machine may go through them in pieces; what is there is
not measured again.
``docs/generate.py`` makes the docs' table of ``results/int8_numbers.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import int8_networks
import int8_paired
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
        print(json.dumps(by_peer(*given.child)))
        return
    before = harness.facts()
    if given.nncf:
        before["versions"]["nncf"] = next(given.nncf.glob("nncf-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    names = [name for name in PEERS if given.nncf or not name.startswith("NNCF")]
    kept = known(given.json, before)
    for name in given.only or int8_networks.NETWORKS:
        missing = tuple(one for one in names if one not in rows_of(kept.get(name)))
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            network = int8_networks.build(name, Path(folder), given.packages.resolve())
            for found in measured(network, Path(folder), missing, given.nncf):
                kept = known(given.json, before) or kept  # another process may record other networks
                rows = rows_of(kept.get(name)) | rows_of(found)
                ordered = [rows[one] for one in ("FP32", OURS, *PEERS) if one in rows]
                kept = kept | {name: found | {"rows": ordered}}
                harness.record(given.json, before, networks=kept)
    print(table(kept))
    for found in kept.values():
        best = best_peer(found["rows"])
        told = best["paired"]
        print(f"{found['name']}: {told['verdict']}, {-told['drop']:+.4f} beside {best['what']}")
        harness.target(f"{found['name']}: surely worse than {best['what']} by", max(0.0, told["lower"]), 0.0)


def rows_of(found: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The rows of one network by contender."""
    return {row["what"]: row for row in found["rows"]} if found is not None else {}


def best_peer(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the peer with the best figure."""
    peers_only: list[dict[str, Any]] = [row for row in rows if row["what"] in PEERS and row["score"] is not None]
    return max(peers_only, key=lambda row: float(row["score"]))


def known(path: Path | None, before: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run on this machine recorded, where its versions are the same."""
    if path is None or not path.is_file():
        return {}
    told = json.loads(path.read_text())
    same = all(told["machine"][key] == before[key] for key in ("cpu", "isa", "versions"))
    found: dict[str, Any] = told["networks"] if same else {}
    return found


def measured(network: Network, folder: Path, missing: tuple[str, ...], nncf: Path | None) -> Iterator[dict[str, Any]]:
    """One network by edgeship and the ``missing`` peers: all that is known after each peer."""
    np.save(folder / "frames.npy", network.frames)
    wanted, count = run(network, network.model, written=False), len(network.images)
    rows = [row("FP32", network.score(wanted, wanted).of(count), wanted, wanted)]
    start = time.perf_counter()
    said = ours(network, place(folder, OURS))
    seconds = time.perf_counter() - start
    found = run(network, place(folder, OURS), written=False)
    mine = network.score(found, wanted)
    rows.append(row(OURS, mine.of(count), found, wanted) | {"said": said, "seconds": seconds, "paired": None})
    for name, made in theirs(network, folder, missing, nncf):
        if place(folder, name).is_file():
            found = run(network, place(folder, name), written=name.startswith(WRITTEN_AS))
            figure = network.score(found, wanted)
            paired = int8_paired.drop(mine, figure, network)
            rows.append(row(name, figure.of(count), found, wanted) | made | {"paired": paired})
        else:
            rows.append({"what": name, **dict.fromkeys(("score", "agreement", "snr_db", "paired"))} | made)
        print(network.name, rows[-1], file=sys.stderr, flush=True)
        yield {
            "name": network.name, "figure": network.figure, "frames": len(network.frames), "images": count,
            "independent": network.independent, "commit": harness.commit(), "rows": rows,
        }  # fmt: skip


def row(what: str, score: float, found: list[Array], wanted: list[Array]) -> dict[str, Any]:
    """The figures of one contender."""
    signal = sum(float((one.astype(np.float64) ** 2).sum()) for one in wanted)
    noise = sum(float(((one.astype(np.float64) - other) ** 2).sum()) for one, other in zip(wanted, found, strict=True))
    axes = [1 if one.ndim == 4 else -1 for one in wanted]  # a class map has its classes before its rows
    same = [
        float(np.mean(a.argmax(axis=axis) == b.argmax(axis=axis)))
        for a, b, axis in zip(wanted, found, axes, strict=True)
    ]
    return {
        "what": what, "score": score, "agreement": min(same),
        "snr_db": 10 * float(np.log10(signal / noise)) if noise else None, **changed(found, wanted),
    }  # fmt: skip


def changed(found: list[Array], wanted: list[Array]) -> dict[str, Any]:
    """Of a classifier: the images that are answered otherwise than by FP32, and how unsure FP32 was of them.

    ``changed_within`` is the share of all images whose margin (first less second logit) in FP32 is at most the largest
    of a changed one: 0.05 says that all changes lie among the twentieth of which FP32 is least sure.
    """
    if len(wanted) > 1 or wanted[0].ndim != 2:
        return {}
    others = np.flatnonzero(found[0].argmax(axis=1) != wanted[0].argmax(axis=1))
    second, first = np.sort(wanted[0], axis=1)[:, -2:].T
    margin = first - second
    within = float(np.mean(margin <= margin[others].max())) if len(others) else 0.0
    return {"changed": others.tolist(), "changed_within": within}


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


def theirs(
    network: Network, folder: Path, missing: tuple[str, ...], nncf: Path | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The peers' graphs, each made in a process of its own: what it said where it failed, and seconds."""
    for name in missing:
        paths = [str(nncf.resolve())] if name.startswith("NNCF") and nncf is not None else []
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        command = [sys.executable, "-W", "ignore", __file__, "--packages", ".", "--child", name]
        done = subprocess.run(
            [*command, str(network.model), str(folder)],
            capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{name} on {network.name}: {done.stderr[-2000:]}")
        yield name, json.loads(done.stdout.splitlines()[-1])


def by_peer(name: str, model: str, folder: str) -> dict[str, Any]:
    """One peer's graph, made in this process."""
    stack = np.load(Path(folder) / "frames.npy")
    start, said = time.perf_counter(), ""
    try:
        peers.quantize(name, Path(model), stack, place(Path(folder), name))
    except Exception as error:  # noqa: BLE001 - a peer that stops is a figure of the table
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return {"said": said, "seconds": time.perf_counter() - start}


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
