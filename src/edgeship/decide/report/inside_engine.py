"""Inside the engine: its layers in order, and why it is faster or slower than another one."""

from __future__ import annotations

from collections.abc import Sequence

from edgeship.charts import row_charts
from edgeship.decide.layers import (
    BOUNDARY,
    ROLES,
    TITLES,
    LayerDiff,
    LayerPair,
    diff,
    islands,
    layers_of_trial,
    time_of,
)
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Column, Fold, Heading, Prose, Row, Section, Table
from edgeship.decide.report.view import CandidateView, TargetView
from edgeship.results import EngineLayer, EngineLayers, Trial

LISTED = 300
"""Rows of a listing; more are counted, not set."""
OPEN = 40
"""Longer listings are folded."""
CHANGED = 10
"""Layers shown that grew, and as many that shrank."""
KNOWN = ("int8", "fp16", "fp32")


def inside_section(view: TargetView, prefix: str) -> Section | None:
    """The layers of the focus candidate in order, and its difference from an engine of other precision."""
    identity, title, short = f"{prefix}inside", "Inside the engine", "Layers"
    focus = view.focus
    trial = _with_layers(focus)
    if focus is None or trial is None:
        return None
    engine = layers_of_trial(trial)
    blocks: list[Block] = [_roles(engine), *_islands(engine), *_listing(engine)]
    other = _other(view, focus, trial)
    if other is not None:
        blocks += _difference(diff(layers_of_trial(other), engine))
    total = time_of(engine.layers)
    lead = f"The {len(engine.layers)} layers of {focus.name} in the order they run, read from {engine.source}."
    if total is None:
        lead += " Their times are not known: on CUDA onnxruntime times launches, and TensorRT's inspector nothing."
    else:
        lead += f" Together they take {numbers.milliseconds(total)} under the profiler."
    return Section(identity, f"{title}: {focus.name}", tuple(blocks), short=short, lead=lead)


def _with_layers(candidate: CandidateView | None) -> Trial | None:
    trial = candidate.trial if candidate is not None else None
    return trial if trial is not None and trial.audit is not None and trial.audit.order else None


def _other(view: TargetView, focus: CandidateView, trial: Trial) -> Trial | None:
    """What it is compared with: the fastest engine in float for one in INT8, and the other way round."""
    low = trial.candidate.precision.startswith(("int8", "fp8", "implicit"))
    found = []
    for candidate in view.candidates:
        known = _with_layers(candidate)
        latency = view.latency(candidate)
        if known is None or candidate is focus:
            continue
        if known.candidate.precision.startswith(("int8", "fp8", "implicit")) is not low:
            found.append((latency.p50 if latency is not None else float("inf"), known))
    return min(found, key=lambda item: item[0])[1] if found else None


def _roles(engine: EngineLayers) -> Table:
    """Time by what layers do."""
    total = time_of(engine.layers) or 0.0
    rows = []
    for role in ROLES:
        own = [layer for layer in engine.layers if layer.role == role]
        time = time_of(own)
        share = time / total if time is not None and total else None
        bar = row_charts.bar_row(share, "quiet" if role in BOUNDARY else "") if share is not None else ""
        shown = numbers.milliseconds(time)
        title = Cell(TITLES[role].capitalize())
        rows.append(Row((title, Cell(str(len(own))), Cell(shown), Cell(numbers.percent(share, 1)), Cell(bar))))
    columns = (
        Column("What layers do"),
        Column("Layers", number=True),
        Column("Time", number=True),
        Column("Share", number=True),
        Column("", chart=True, wide=True),
    )
    return Table(f"Where {engine.title} spends its time", columns, tuple(rows), compact=True)


def _islands(engine: EngineLayers) -> list[Block]:
    found = islands(engine.layers)
    if not found:
        return []
    words = []
    for item in sorted(found, key=lambda item: -(item.ms or 0.0))[:6]:
        names = ", ".join(layer.name for layer in item.layers[:3])
        more = f" and {len(item.layers) - 3} more" if len(item.layers) > 3 else ""
        cost = f" ({numbers.milliseconds(item.ms)} with its boundaries)" if item.ms is not None else ""
        words.append(f"{names}{more}{cost}")
    count = len(found)
    head = f"{count} island{'s' if count != 1 else ''} of float between INT8 layers: "
    return [Prose(f"{head}{'; '.join(words)}{'; …' if count > 6 else ''}.")]


def _listing(engine: EngineLayers) -> list[Block]:
    inside = {place for item in islands(engine.layers) for place in range(item.first, item.last + 1)}
    longest = max((layer.ms or 0.0 for layer in engine.layers), default=0.0) or 1.0
    total = time_of(engine.layers) or 0.0
    rows = []
    for place, layer in enumerate(engine.layers[:LISTED]):
        mark = _mark(layer, island=place in inside)
        kind = f"prec-{layer.precision}" if layer.precision in KNOWN else "prec-other"
        bar = row_charts.bar_row(layer.ms / longest, kind) if layer.ms is not None else ""
        share = layer.ms / total if layer.ms is not None and total else None
        nodes = ", ".join(node for node in layer.nodes if node != layer.name)
        fused = nodes if len(layer.nodes) > 1 and " + " not in layer.name else nodes if len(layer.nodes) == 1 else ""
        cells = (
            Cell(layer.name, code=True, sub=f"from {fused}" if fused else ""),
            Cell(str(place)),
            Cell(layer.kind, sub=layer.detail),
            Cell(layer.precision if layer.output in ("", layer.precision) else f"{layer.precision} → {layer.output}"),
            Cell(numbers.milliseconds(layer.ms)),
            Cell(numbers.percent(share, 1)),
            Cell(bar),
            Cell(mark, strong=mark == "float island"),
        )
        rows.append(Row(cells, emphasis=mark == "float island"))
    columns = (
        Column("Layer", wide=True),
        Column("Place", number=True),
        Column("Kind"),
        Column("Precision"),
        Column("Time", number=True),
        Column("Share", number=True),
        Column("", chart=True),
        Column("Mark"),
    )
    rest = len(engine.layers) - len(rows)
    more = f"; {rest} more" if rest > 0 else ""
    table = Table(f"Layers of {engine.title} in order{more}", columns, tuple(rows), compact=True)
    return [table] if len(rows) <= OPEN else [Fold(f"All {len(engine.layers)} layers in order", (table,))]


def _mark(layer: EngineLayer, *, island: bool) -> str:
    if layer.role in BOUNDARY:
        return "quantizes" if layer.role == "quantize" else "reformats"
    return "float island" if island else ""


def _difference(found: LayerDiff) -> list[Block]:
    """Two engines side by side."""
    blocks: list[Block] = [Heading(f"{found.b.title} against {found.a.title}"), *map(Prose, found.sentences)]
    rows = tuple(
        Row((
            Cell(TITLES[item.role].capitalize()),
            *(Cell(f"{count} in {numbers.milliseconds(ms)}") for count, ms in zip(item.counts, item.ms, strict=True)),
            Cell(_change(item.change)),
        ))
        for item in found.roles
    )  # fmt: skip
    columns = (
        Column("What layers do"),
        Column(found.a.title, number=True),
        Column(found.b.title, number=True),
        Column("Change", number=True),
    )
    blocks.append(Table(f"Time by what layers do, {found.b.title} minus {found.a.title}", columns, rows, compact=True))
    grown = [pair for pair in found.pairs if (pair.change or 0.0) > 0][:CHANGED]
    shrunk = [pair for pair in reversed(found.pairs) if (pair.change or 0.0) < 0][:CHANGED]
    for words, pairs in (("grew", grown), ("shrank", shrunk)):
        if pairs:
            blocks.append(Fold(f"The {len(pairs)} layers that {words} most", (_pairs(found, pairs, words),)))
    return blocks


def _pairs(found: LayerDiff, pairs: Sequence[LayerPair], words: str) -> Table:
    most = max(abs(pair.change or 0.0) for pair in pairs) or 1.0
    rows = []
    for pair in pairs:
        before, after = pair.before, pair.after
        types = " → ".join(dict.fromkeys(item.precision for item in (before, after) if item is not None))
        bar = row_charts.bar_row(abs(pair.change or 0.0) / most, "quiet" if words == "shrank" else "")
        cells = (
            Cell(before.name if before is not None else numbers.ABSENT, code=before is not None),
            Cell(after.name if after is not None else numbers.ABSENT, code=after is not None),
            Cell(types),
            Cell(_change(pair.change)),
            Cell(bar),
        )
        rows.append(Row(cells))
    columns = (
        Column(found.a.title, wide=True),
        Column(found.b.title, wide=True),
        Column("Precision"),
        Column("Change", number=True),
        Column("", chart=True),
    )
    by = {"nodes": "by the nodes that they fuse", "order": "by what they do, in their order"}
    matched = by.get(found.matched, "not matched: the engines have different products")
    return Table(f"Layers that {words}, matched {matched}", columns, tuple(rows), compact=True)


def _change(value: float | None) -> str:
    if value is None:
        return numbers.ABSENT
    return f"{'+' if value > 0 else ''}{numbers.significant(value)}\u00a0ms"
