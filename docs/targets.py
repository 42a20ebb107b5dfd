"""The page of the benchmarks' targets: every recorded run with targets, side by side by kind of machine."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
INTRODUCTION = """What the scripts in `benchmarks/` were to reach, and what the last recorded run of each reached: one
file of `benchmarks/results/` is one run, with every round in it; nothing is kept of an earlier one. `make bench`
records those that need one CPU again. A target that was missed stands here as missed.

A column is a kind of machine. Two columns are two runs, often of two commits, which the last table tells: they are no
race. *Load* is the number of processes that wanted a core, before and after the run. Where it is above the number of
cores, other work made times too long, and only ratios of what took turns in the run tell something."""
CALIBRATION = """{kind}: every contender calibrates on the same {frames} frames of ResNet-18 at 224 in a process of its
own, turn by turn, with the settings that its own pages recommend; medians of the rounds. *Counting alone* is one pass
with the thresholds of four methods; *all four methods* also compares where Q/DQ pairs go; *auto* also compares the
methods on frames held out."""
SAMPLING = """Why every value is counted: thresholds that leave their bin where every fourth value is counted, positions
rotating by frame."""
SEARCH = """{kind}: {scenes:,} scenes, a drop of at most 0.02 in mAP50, no rule of latency, so that the search itself is
seen. Ranking {groups} groups on {ranking_frames} frames took {ranking_s:.1f} s, the whole search {seconds:.0f} s and
{trials} trials of {trials_allowed} (`benchmarks/search.py`). *Plans* that keep the first groups of the ranking stand
beside what search chose; times are turn by turn."""
SCALE = """Images: a small classifier evaluated on so many PNG files, in a process of its own. Classes: the metrics of
2,000 images and 200 resamples. Nodes: shape inference and the INT8 graph of a chain. Candidates: the gate over 2,000
images each. A slope is the power of the size by which the time grows: 1 is in proportion (`benchmarks/scale.py`)."""
RUN = ("run", "machine", "load before, after", "commit", "day", "versions")


def page() -> list[str]:
    """The lines of docs/reference/benchmarks.md."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    runs = {name: found for name, found in runs.items() if "isa" in found.get("machine", {})}
    kinds = sorted({kind(found["machine"]) for found in runs.values() if found.get("targets")})
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for name, found in runs.items():
        for item in found.get("targets") or ():
            limit = f"{'≥' if item['at_least'] else '≤'} {number(item['limit'])}"
            seen = number(item["seen"]) + ("" if item["reached"] else " **missed**")
            cells.setdefault((f"`{_script(name)}`", item["what"], limit), {})[kind(found["machine"])] = seen
    rows = [(*key, *(seen.get(one, "") for one in kinds)) for key, seen in cells.items()]
    lines = ["# Targets of the benchmarks", "", INTRODUCTION, *table(("run", "target", "limit", *kinds), rows)]
    lines += _calibration(runs) + _search(runs) + _scale(runs)
    return [*lines, "", "## The runs", *table(RUN, [_run(*item) for item in runs.items()])]


def _script(name: str) -> str:
    """A run's name without the cores of another machine: ``calibration-16`` is ``calibration`` on sixteen."""
    return re.sub(r"-\d+$", "", name)


def kind(machine: dict[str, Any]) -> str:
    """The kind of a machine: the instruction sets that INT8 depends on or the GPU, and the cores."""
    vnni = any("vnni" in name for name in machine["isa"])
    gpu = machine.get("gpu", {}).get("name", "")
    return f"{gpu or ('VNNI' if vnni else 'AVX2')}, {machine['cores']} cores"


def number(value: float) -> str:
    """A figure at three significant digits."""
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table, and the empty line before it."""
    lines = [heads, ("---",) * len(heads), *rows]
    return ["", *("| " + " | ".join(line) + " |" for line in lines)]


def _calibration(runs: dict[str, dict[str, Any]]) -> list[str]:
    found = [run for name, run in runs.items() if _script(name) == "calibration"]
    lines = ["", "## Calibration beside its peers"] if found else []
    for run in found:
        walls = run["median_wall_s"]
        peaks = {
            name: statistics.median(one[name]["peak_mib"] for one in run["rounds"] if name in one) for name in walls
        }
        beside = [
            (name, f"{wall:.2f}", f"{wall / walls['forward']:.2f}", f"{peaks[name]:.0f}")
            for name, wall in walls.items()
        ]
        moved = [
            (method, *(number(row[name]) for name in ("tensors", "beyond_a_bin", "median_bins")))
            for method, row in run["sampling"].items()
        ]
        lines += ["", CALIBRATION.format(kind=kind(run["machine"]), **run)]
        lines += table(("contender", "wall s", "of the forward pass", "peak MiB"), beside)
        lines += ["", SAMPLING, *table(("method", "thresholds", "beyond their bin", "median distance, bins"), moved)]
    return lines


def _search(runs: dict[str, dict[str, Any]]) -> list[str]:
    found = [run for run in runs.values() if run.get("piece") == "yolox"]
    lines = ["", "## The search on YOLOX-Nano", ""] if found else []
    for run in found:
        rows = [
            (
                row["candidate"],
                str(row["nodes_kept"]),
                *(
                    number(value) if value is not None else "–"
                    for value in (row["drop"], (row["drop_interval"] or [None])[-1])
                ),
                row["outcome"],
                f"{row['turn_by_turn_ms']:.2f}",
                "chosen" if row["candidate"] == run["chosen"] else "",
            )
            for row in run["sweep"]
        ]
        heads = ("plan", "nodes kept", "drop of mAP50", "upper bound", "rule", "ms, turn by turn", "")
        lines += [SEARCH.format(kind=kind(run["machine"]), **run), *table(heads, rows)]
    return lines


def _scale(runs: dict[str, dict[str, Any]]) -> list[str]:
    found = [run for name, run in runs.items() if _script(name) == "scale"]
    lines = ["", "## How it grows", "", SCALE] if found else []
    for run in found:
        rows = [
            (
                name,
                ", ".join(f"{number(row['size'])}: {number(row['seconds'])}" for row in sizes),
                ", ".join(f"{row['peak_mib']:.0f}" for row in sizes if "peak_mib" in row) or "–",
                f"{run['slopes'][name]:.2f}",
            )
            for name, sizes in run["sizes"].items()
        ]
        heads = ("grows with", "seconds at each size", "peak MiB at each", "slope of the last step")
        lines += ["", f"{kind(run['machine'])}:", *table(heads, rows)]
    return lines


def _run(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    machine = found["machine"]
    load = f"{machine['load_before']:g}, {machine['load_after']:g}" if "load_after" in machine else "not recorded"
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    return f"`{name}`", kind(machine), load, f"`{machine['commit']}`", machine["day"], versions
