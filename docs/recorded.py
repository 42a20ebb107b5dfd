"""The page of recorded figures: how often SHIP is false, INT8 beside its peers, onnx's own suite, the architectures."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
INTRODUCTION = """What the scripts in `benchmarks/` recorded: each table is one run on one machine, and says which."""
FALSE_SHIP = """Share of simulated evaluations of known truth that the gate's own functions passed, at 95 % confidence,
a limit of 0.02 where the row names no other: a true drop at the limit and above it, where at most {allowed:.1%} may
pass (5 % and the Monte Carlo error of {evaluations:,} evaluations), and no drop, where more is better. What is drawn
stands in [the statistics](../explanation/statistics.md#what-was-simulated)."""
SITUATIONS = """The whole gate, on records or calls of known truth. *Without group or likeness*: nothing in the records
tells that frames belong together, so nothing is promised; `evaluation.group` does."""
SUITE = """ONNX's own node tests, {graphs:,} graphs that nobody here wrote, on the suite's own inputs. A refusal is one
sentence; a failure is any other exception, or the end of the process."""
INT8 = """Everyone calibrates on the same frames of the same simplified graph, by the settings that the peer's own pages
recommend, and is judged on the same other images in exact arithmetic; edgeship does what `calibrate` and `quantize` do
by default (`benchmarks/int8_numbers.py`, which one machine may go through in pieces; {versions})."""
PAIRED = """*Difference* is edgeship's figure less the best peer's, with one-sided bounds at 95 %: by the exact paired
test where an image is right or wrong, else by the paired bootstrap, over photographs where images are views of them
(*independent* counts what is resampled). *Worse* and *better* are sure at 95 %; *not told apart* is neither, and then
the lower bound is how much worse edgeship may be. The best peer is named after all were seen, which favours the
peers."""
ALL = """All figures; `+`: edgeship is better than that peer at 95 %, `-`: worse; –: it made no graph; an empty cell
was not run."""
QAT = """Plain INT8, each [repair](../explanation/qat.md) and training on the same network, on images that neither
calibration nor training saw, in exact arithmetic (`benchmarks/qat.py cpu`). *Recovered* is the share of plain INT8's
loss, where that is half a point or more; seconds are those of the repair or the training alone."""
CURVES = """Held-out loss over the training steps; step 0 is calibrated INT8; the state with the least loss was kept:"""
OURS = "edgeship"
HAND = ("export", "int8 onnxruntime", "rtx fp32")
ZOO = """Architectures with random weights, from `torch` to an INT8 engine of TensorRT-RTX, beside the same by hand
(`torch.onnx.export`, onnxslim, `quantize_static`, TensorRT-RTX's parser and builder). Exports by hand of networks whose
`forward` takes `*inputs`, as the zoo's wrapper does, were run once more by themselves: in the first run their axes were
not given as torch takes them."""


EARLIER = "earlier runs, which did not note their machine and commit."


def page() -> list[str]:
    """The lines of docs/reference/recorded.md."""
    zoo = _zoo() if (RESULTS / "zoo.json").is_file() else []
    return ["# Recorded figures", "", INTRODUCTION, *_false_ship(), *_int8(), *_trained(), *_suite(), *zoo]


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def _machine(found: dict[str, Any]) -> str:
    """The machine and the commit of a recorded run, in a sentence."""
    machine = found["machine"]
    vnni = "with VNNI" if any("vnni" in name for name in machine["isa"]) else "without VNNI"
    told = [machine["cpu"], f"{machine['cores']} cores", vnni]
    told += [f"Python {machine['python']}"] if "python" in machine else []
    return f"{', '.join(told)}, commit `{machine['commit']}`, {machine['day']}."


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["", *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _false_ship() -> list[str]:
    found = _read("false_ship.json")
    rows = [
        (kind, images, *(_share(share[column]) for column in ("at", "above", "zero")))
        for kind, sizes in found["rows"].items()
        for images, share in sizes.items()
    ]
    judged = [
        (name, _share(share.get("false", share.get("unpromised"))), _share(share.get("right")))
        for name, share in found["situations"].items()
    ]
    below = [
        (f"p{100 * float(level):g}", calls, correlation, _share(share))
        for level, sizes in found["latency"].items()
        for calls, correlations in sizes.items()
        for correlation, share in correlations.items()
    ]
    return [
        "", "## How often SHIP is false", "", FALSE_SHIP.format(**found), "", _machine(found),
        *_table(("kind", "images", "at the limit", "above it", "at no drop: the power"), rows),
        "", SITUATIONS, *_table(("situation", "false SHIP", "SHIP where it is right"), judged),
        "", "How often the bound of a latency quantile lay below the true quantile:",
        *_table(("quantile", "calls", "correlation of a call with the next", "below the truth"), below),
    ]  # fmt: skip


def _int8() -> list[str]:
    found = _read("int8_numbers.json")
    networks = list(found["networks"].values())
    names = [row["what"] for row in networks[0]["rows"]]
    known = found["machine"]["versions"]
    versions = ", ".join(f"{name} {known[name]}" for name in ("onnxruntime", "nvidia-modelopt", "nncf"))
    scores = [(one["name"], *(_scored(one, name) for name in names)) for one in networks]
    noise = [(one["name"], *(_noise(one, name) for name in names[1:])) for one in networks]
    heads = ("network, figure", "images (independent)", "FP32", OURS, "best peer", "difference", "")
    return [
        "", "## INT8 beside other quantizers", "", INT8.format(versions=versions), "", _machine(found), "", PAIRED,
        *_table(heads, [_beside(one, len(names)) for one in networks]),
        "", ALL, *_table(("network", *names), scores),
        "", "Signal-to-noise over all outputs against FP32, dB:", *_table(("network", *names[1:]), noise),
    ]  # fmt: skip


def _beside(network: dict[str, Any], contenders: int) -> tuple[str, ...]:
    """A network's figure beside that of its best peer."""
    rows = {row["what"]: row for row in network["rows"]}
    peers = [row for name, row in rows.items() if name not in ("FP32", OURS) and row["score"] is not None]
    best = max(peers, key=lambda row: float(row["score"]))
    paired = best["paired"]
    named = best["what"] if len(rows) == contenders else f"{best['what']}, of {len(rows) - 2} that were run"
    return (
        f"{network['name']}, {network['figure']}", f"{network['images']} ({network['independent']})",
        f"{rows['FP32']['score']:.4f}", f"{rows[OURS]['score']:.4f}", f"{best['score']:.4f} {named}",
        f"{0 - paired['drop']:+.4f} ({-paired['upper']:+.4f} to {-paired['lower']:+.4f})", paired["verdict"],
    )  # fmt: skip


def _scored(network: dict[str, Any], name: str) -> str:
    row = next((row for row in network["rows"] if row["what"] == name), None)
    if row is None or row["score"] is None:
        return "" if row is None else "–"
    verdict = row["paired"]["verdict"] if row.get("paired") else ""
    return f"{row['score']:.4f}" + {"better": " +", "worse": " -"}.get(verdict, "")


def _noise(network: dict[str, Any], name: str) -> str:
    row = next((row for row in network["rows"] if row["what"] == name), None)
    if row is None or row["snr_db"] is None:
        return "" if row is None else "–"
    return f"{row['snr_db']:.1f}"


def _trained() -> list[str]:
    found = _read("qat.json")
    rows, curves = [], []
    for network in found["networks"].values():
        for row in network["rows"]:
            back, noise, spent = (row.get(key) for key in ("recovered", "snr_db", "seconds"))
            rows.append(
                (
                    f"{network['name']}, {network['figure']} of {network['images']}", row["what"],
                    f"{row['score']:.4f}", "–" if back is None else f"{back:.0%}",
                    "–" if noise is None else f"{noise:.1f}", "–" if spent is None else f"{spent:.1f}",
                )
            )  # fmt: skip
            if row.get("curve"):
                points = (f"{point['step']}: {point['held_out']:.4g}" for point in row["curve"])
                curves.append(f"- {network['name']}, {row['what']}: {', '.join(points)}")
    heads = ("network, figure", "", "figure", "recovered", "dB", "seconds")
    told = ["", CURVES, "", *curves] if curves else []
    return ["", "## Repairs and training", "", QAT, "", _machine(found), *_table(heads, rows), *told]


def _suite() -> list[str]:
    found = _read("onnx_suite.json")
    rows = [
        (step, count.get("ok", 0), count.get("refused", 0), count.get("FAILED", 0))
        for step, count in found["steps"].items()
    ]
    heads = ("step", "ok", "refused in one sentence", "failed")
    return ["", "## ONNX's own suite", "", SUITE.format(**found), "", _machine(found), *_table(heads, rows)]


def _zoo() -> list[str]:
    found = _read("zoo.json")
    went = {name: row for name, row in found["outcomes"].items() if "edgeship" in row}
    steps = ("export", "parity", "int8 tensorrt", "int8 onnxruntime", "fp16", "rtx int8")
    rows = [
        (
            name, *(_said(row["edgeship"], step) for step in steps), *(_by_hand(row["plain"], step) for step in HAND),
        )
        for name, row in sorted(went.items())
    ]  # fmt: skip
    refused = [
        f"- `{name}`, {step}{' (failed)' if outcome['said'] == 'FAILED' else ''}: {_plain(outcome['why'])}"
        for name, row in sorted(went.items())
        for step, outcome in row["edgeship"].items()
        if outcome["said"] in ("refused", "FAILED")
    ]
    allowed = [
        f"- `{name}`, {step}: {_plain(outcome['noise'])}"
        for name, row in sorted(went.items())
        for step, outcome in row["edgeship"].items()
        if "noise" in outcome and outcome["said"] == "ok"
    ]
    absent = [f"- `{name}`: {_plain(row.get('missing') or row['not made'])}"
              for name, row in sorted(found["outcomes"].items()) if name not in went]  # fmt: skip
    targets = [
        (item["what"], f"{item['seen']:.2f}", f"{item['limit']:g}", "reached" if item["reached"] else "missed")
        for item in found["targets"]
    ]
    return [
        "", "## Architectures", "", ZOO, "", *_places(went),
        *_table(("target", "seen", "limit", ""), targets),
        *_table(("architecture", *steps, *(f"by hand: {step}" for step in HAND)), rows),
        *_listed("What was refused, and why:", refused),
        *_listed("Refused at first, as random weights make outputs noise, and done as the remedy says:", allowed),
        *_listed("Not made here, and counted nowhere:", absent),
    ]  # fmt: skip


def _places(went: dict[str, Any]) -> list[str]:
    """Where the outcomes came out, a line for each run: a zoo may be gathered in several."""
    runs = Counter(_machine({"machine": row["on"]}) if "on" in row else EARLIER for row in went.values())
    return [f"- {count} architectures: {run}" for run, count in runs.most_common()]


def _listed(title: str, items: list[str]) -> list[str]:
    return ["", title, "", *items] if items else []


def _plain(text: str) -> str:
    """What a command said, as Markdown: without the folders of the machine, and no sign of it a markup."""
    words = html.escape(re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", text), quote=False)
    return words.replace("*", r"\*").replace("`", "'")


def _by_hand(said: dict[str, str], step: str) -> str:
    """The same of the path by hand: ``ok``, or the exception's name."""
    if step == "export" and said.get(step) != "ok" and said.get("export one") == "ok":
        return "batch of 1"
    return said.get(step, "–").partition(":")[0]


def _said(outcomes: dict[str, Any], step: str) -> str:
    """The outcome of a step; an export is ok with a batch of one where a dynamic one was refused."""
    said = str(outcomes.get(step, {}).get("said", "–"))
    if step == "export" and said != "ok" and outcomes.get("export one", {}).get("said") == "ok":
        return "batch of 1"
    return said
