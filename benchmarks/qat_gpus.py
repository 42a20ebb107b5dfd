"""Distillation of ResNet-50 with the rounding in it, on one GPU and on several of one machine: ``qat.py gpus``.

The same batch a GPU on both sides, from host memory, with Adam, FP16 autocast and a scaled loss. A step is from one
loss that is known on the host to the next, in the first process; medians. Each process is started by
``torch.distributed.run``, as ``torchrun -m edgeship qat`` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import qat_gpu

LEAST_SHARE = 0.8
"""Of as many times one GPU's throughput as there are GPUs."""


def measure(gpus: int, steps: int, batch: int) -> dict[str, Any]:
    """Start the processes, and read what the first one wrote."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "rows.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
        subprocess.run([*launcher, __file__, str(steps), str(batch), str(out)], check=True)
        found: dict[str, Any] = json.loads(out.read_text())
    one, several = found["rows"]
    several["times_one"] = several["images_s"] / one["images_s"]
    what = f"{gpus} GPUs / one, throughput"
    reached = harness.target(what, several["times_one"], LEAST_SHARE * gpus, at_least=True)
    return {"batch": batch, "steps": steps, "gpus": gpus, **found, "targets": [reached]}


def process(steps: int, batch: int, out: Path) -> None:
    """One process: the first trains alone, then all train together."""
    from edgeship.qat.launched import place
    from edgeship.qat.team import Point, Team, joined

    where = place()
    if where is None:
        raise SystemExit("start it by benchmarks/qat.py gpus")
    with tempfile.TemporaryDirectory() as scratch, joined(where, "cuda:0") as team:
        request = qat_gpu.request(Path(scratch), steps, batch)
        rows = [_row(replace(request, team=Team()), "alone", "1 GPU")] if team.rank == 0 else []
        team.exchange(Point.READY)
        rows.append(_row(replace(request, team=team), "together", f"{team.size} GPUs"))
    if team.rank == 0:
        out.write_text(json.dumps({"rows": rows}))


def _row(request: Any, folder: str, what: str) -> dict[str, Any]:
    """What a training took; its batch is each GPU's own."""
    from edgeship.qat.qat import learn

    place = request.root / folder
    place.mkdir()
    curve: list[float] = []

    def side() -> list[float]:
        stamps: dict[int, float] = {}

        def progress(step: int, _: int | None, said: str) -> None:
            if said.startswith("training, loss"):
                stamps[step] = time.perf_counter()

        curve.extend(point.held_out for point in learn(request, place, progress).state.curve)
        return qat_gpu.between(list(stamps.values()))

    row = qat_gpu.timed(side, request.settings.batch * request.team.size)
    return {"what": what, **row, "held_out": [curve[0], curve[-1]]}


if __name__ == "__main__":
    process(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
