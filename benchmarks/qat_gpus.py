"""Distillation of ResNet-50 with the rounding in it, on one GPU and on several of one machine: ``qat.py gpus``.

The same batch a GPU on both sides, from host memory, with Adam, FP16 autocast and a scaled loss. A step is from one
loss that is known on the host to the next, in the first process; medians, and beside them the whole training, with
looks at the held-out frames and checkpoints. One GPU is trained on by a process of its own with all cores, as
``edgeship qat`` is started; several by ``torch.distributed.run``, as ``torchrun -m edgeship qat`` is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import qat_gpu

LEAST_SHARE = 0.8
"""Of as many times one GPU's throughput as there are GPUs."""


def measure(gpus: int, steps: int, batch: int) -> dict[str, Any]:
    """Prepare once, train in a process alone and then in several, and read what they wrote."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        qat_gpu.prepare(folder)
        for number, start in enumerate(([sys.executable], launcher)):
            out = folder / f"row{number}.json"
            subprocess.run([*start, __file__, scratch, str(steps), str(batch), str(out)], check=True)
            rows.append(json.loads(out.read_text()))
    one, several = rows
    several["times_one"] = several["images_s"] / one["images_s"]
    what = f"{gpus} GPUs / one, throughput"
    reached = harness.target(what, several["times_one"], LEAST_SHARE * gpus, at_least=True)
    return {"batch": batch, "steps": steps, "gpus": gpus, "rows": rows, "targets": [reached]}


def process(folder: Path, steps: int, batch: int, out: Path) -> None:
    """One process: alone, or with the others that were started with it."""
    from edgeship.qat.launched import place
    from edgeship.qat.team import Team, joined

    where = place()
    with nullcontext(Team()) if where is None else joined(where, "cuda:0") as team:
        row = _row(replace(qat_gpu.request(folder, steps, batch), team=team))
    if team.rank == 0:
        out.write_text(json.dumps(row))


def _row(request: Any) -> dict[str, Any]:
    """What a training took; its batch is each GPU's own."""
    from edgeship.qat.qat import learn

    gpus = request.team.size
    place = request.root / f"trained{gpus}"
    place.mkdir(exist_ok=True)
    found: dict[str, Any] = {}

    def side() -> list[float]:
        stamps: dict[int, float] = {}

        def progress(step: int, _: int | None, said: str) -> None:
            if said.startswith("training, loss"):
                stamps[step] = time.perf_counter()

        state = learn(request, place, progress).state
        found["training_s"] = state.seconds
        found["held_out"] = [state.curve[0].held_out, state.curve[-1].held_out]
        return qat_gpu.between(list(stamps.values()))

    row = qat_gpu.timed(side, request.settings.batch * gpus)
    return {"what": f"{gpus} GPU{'s' * (gpus > 1)}", **row, **found}


if __name__ == "__main__":
    process(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
