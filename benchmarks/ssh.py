"""An SSH target against this machine: what a trial costs beyond the local one, and whether kills change its answer.

    python benchmarks/ssh.py [--kills 20] [--json benchmarks/results/ssh.json]

A real sshd is started on a loopback port. Overhead is the wall time of a trial over ssh less that of the same trial
here, turn by turn, after the images have been sent once. Then trials are killed at random moments (the connection, the
supervisor on the device, its worker, the local process) and run again; each must end in the local answer.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import harness

from chaos_support import KINDS, at_work, remote_target, round_of
from edgeship import targets
from edgeship.config import Target
from edgeship.results import Trial, read
from edgeship.targets import link
from sshd_support import Device, device
from vehicle_support import Ground, ground, make_trial


def timed(target: Target, folder: Path) -> float:
    """Seconds of one trial."""
    start = time.perf_counter()
    targets.run(target, folder)
    return time.perf_counter() - start


def overhead(host: Device, made: Ground, root: Path, rounds: int) -> dict[str, Any]:
    """Seconds of trials here and there, in turn."""
    there = remote_target(host)
    timed(there, make_trial(root / "first", made, target=there))
    here_s, there_s = [], []
    for number in range(rounds):
        here_s.append(timed(Target(), make_trial(root / f"here{number}", made)))
        there_s.append(timed(there, make_trial(root / f"there{number}", made, target=there)))
    median_here, median_there = statistics.median(here_s), statistics.median(there_s)
    return {
        "here_s": here_s,
        "there_s": there_s,
        "median_here_s": median_here,
        "median_there_s": median_there,
        "overhead_s": median_there - median_here,
    }


def kills(host: Device, made: Ground, root: Path, count: int, seed: int) -> list[dict[str, object]]:
    """Kill trials at random moments; what became of each."""
    chance = random.Random(seed)
    wanted = read(Trial, root / "here0" / "trial.json").evaluation
    assert wanted is not None
    told = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        moment = chance.uniform(0.2, 2.5)
        folder = make_trial(root / f"kill{number}", made, target=remote_target(host))
        said = round_of(host, folder, kind, moment)
        trial = read(Trial, folder / "trial.json")
        same = trial.failure is None and trial.evaluation is not None and trial.evaluation.metrics == wanted.metrics
        left = at_work(host)
        finished = sum(line.endswith(": done") for line in said)
        told.append({"kind": kind, "moment_s": moment, "same": same, "left_running": left, "finished": finished})
        print(f"{number:3} {kind:<11} at {moment:.2f} s  {'same' if same else 'DIFFERS'}", flush=True)
    return told


def main() -> None:
    """Measure and print."""
    parser = harness.parser(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    before = harness.facts()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        made = ground(root / "ground")
        with device(root / "device") as host:
            os.environ["EDGESHIP_SSH_CONFIG"] = str(host.config)
            cost = overhead(host, made, root, arguments.rounds)
            struck = kills(host, made, root, arguments.kills, arguments.seed)
            link.close_all()
    print(f"trial here {cost['median_here_s']:.2f} s, over ssh {cost['median_there_s']:.2f} s")
    good = sum(bool(item["same"]) and not item["left_running"] for item in struck)
    targets = [
        harness.target("overhead of a trial over ssh, s", cost["overhead_s"], 2.0),
        harness.target("kills that end in the same answer", float(good), float(len(struck)), at_least=True),
    ]
    harness.record(arguments.json, before, overhead=cost, kills=struck, targets=targets)


if __name__ == "__main__":
    main()
