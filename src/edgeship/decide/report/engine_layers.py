"""What is inside the engines: achieved precision, hot operators, sensitive layers, and the search among them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from edgeship.charts import row_charts
from edgeship.charts import scale as scales
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Code, Column, Fold, Heading, Prose, Row, Section, Table, folded
from edgeship.decide.report.view import OUTCOME_WORDS, CandidateView, TargetView
from edgeship.results import Audit, LayerNoise, SearchAttempt, Searched

KNOWN = ("int8", "fp16", "fp32")
SHOWN_LAYERS = 20
LISTED = 300
"""Rows of a folded listing; more are counted, not set."""
SOURCES = {
    "engine": "read from the engine inspector",
    "network": "read from the parsed network, the engine could not be opened here",
    "profile": "read from what the session really ran",
}


# --- audit ---------------------------------------------------------------------------------------------------


def audit_section(view: TargetView, prefix: str) -> Section | None:
    """Asked-for against achieved precision, layer by layer."""
    audited = [(candidate, candidate.trial.audit) for candidate in view.candidates if candidate.trial is not None]
    known = [(candidate, audit) for candidate, audit in audited if audit is not None]
    if not known:
        if not view.candidates:
            return None
        return Section(f"{prefix}audit", "Audit", (Prose("No engine was audited.", missing=True),))
    focus = next((pair for pair in known if pair[0] is view.focus), known[0])
    blocks: list[Block] = [_summary(known), Heading(f"Layers of {focus[0].name}"), _layers(*focus), *_extra(*focus)]
    folds = [
        Fold(f"Layers of {candidate.name}", (_layers(candidate, audit), *_extra(candidate, audit)))
        for candidate, audit in known
        if candidate is not focus[0]
    ]
    blocks += folded(folds, "other candidates, layer by layer")
    lead = f"The precision that layers really run in, {SOURCES[focus[1].source]}."
    return Section(f"{prefix}audit", "Audit: asked-for and achieved precision", tuple(blocks), short="Audit", lead=lead)


def _kinds(precisions: dict[str, int]) -> list[tuple[str, int]]:
    """Counts as int8, fp16, fp32 and the rest."""
    known = [(name, precisions.get(name, 0)) for name in KNOWN]
    return [*known, ("other", sum(count for name, count in precisions.items() if name not in KNOWN))]


def _bar(precisions: dict[str, int]) -> Cell:
    total = sum(precisions.values()) or 1
    return Cell(row_charts.stacked_row([(f"prec-{name}", count / total) for name, count in _kinds(precisions)]))


def _summary(known: Sequence[tuple[CandidateView, Audit]]) -> Table:
    columns = (
        Column("Candidate"),
        Column("Asked for"),
        Column("Achieved", number=True),
        Column("All layers by precision", chart=True, wide=True),
        *(Column(name, number=True, key=f"prec-{name.lower()}") for name in (*KNOWN, "Other")),
        Column("Reformats", number=True),
    )
    rows = []
    for candidate, audit in known:
        total: dict[str, int] = {}
        for precisions in audit.layers.values():
            for name, count in precisions.items():
                total[name] = total.get(name, 0) + count
        counts = (Cell(str(count) if count else numbers.ABSENT) for _, count in _kinds(total))
        cells = (
            Cell(candidate.name, code=True),
            Cell(audit.asked),
            Cell(numbers.percent(audit.achieved, 0)),
            _bar(total),
            *counts,
            Cell(numbers.ABSENT if audit.reformats is None else str(audit.reformats)),
        )
        rows.append(Row(cells, emphasis=candidate.chosen))
    caption = (
        "Achieved: share of convolutions and matrix products, outside the kept ones, in the asked-for precision. "
        "Bars from left to right in the order of the columns"
    )
    return Table(caption, columns, tuple(rows))


def _layers(candidate: CandidateView, audit: Audit) -> Table:
    columns = (
        Column("Kind of layer"),
        Column("Share", chart=True, wide=True),
        *(Column(name, number=True, key=f"prec-{name.lower()}") for name in (*KNOWN, "Other")),
    )
    order = sorted(audit.layers.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    rows = tuple(
        Row(
            (
                Cell(kind, code=True),
                _bar(precisions),
                *(Cell(str(count) if count else numbers.ABSENT) for _, count in _kinds(precisions)),
            )
        )
        for kind, precisions in order
    )
    return Table(f"Layers of {candidate.name} by kind and precision", columns, rows, compact=True)


def _extra(candidate: CandidateView, audit: Audit) -> list[Block]:
    """The hottest operators, the layers that missed, and notes."""
    blocks: list[Block] = []
    if audit.hottest:
        most = max(share for _, share in audit.hottest) or 1.0
        rows = tuple(
            Row((Cell(name, code=True), Cell(row_charts.bar_row(share / most)), Cell(numbers.percent(share, 1))))
            for name, share in audit.hottest
        )
        columns = (Column("Operator"), Column("", chart=True, wide=True), Column("Share of run time", number=True))
        blocks.append(Table(f"Where {candidate.name} spends its time", columns, rows, compact=True))
    if audit.missed:
        rows = tuple(
            Row((Cell(layer.name, code=True), Cell(layer.operator), Cell(layer.precision)))
            for layer in audit.missed[:LISTED]
        )
        columns = (Column("Layer", wide=True), Column("Operator"), Column("Runs in"))
        more = f"; {len(audit.missed) - LISTED} more" if len(audit.missed) > LISTED else ""
        table = Table(f"Not in the asked-for precision{more}", columns, rows, compact=True)
        count = len(audit.missed)
        blocks.append(Fold(f"{count} layer{'s' if count != 1 else ''} not in {audit.asked}", (table,)))
    blocks += [Prose(note) for note in audit.notes]
    return blocks


# --- sensitivity and search ----------------------------------------------------------------------------------


def sensitivity_section(view: TargetView, prefix: str) -> Section | None:
    """Nodes by the damage their quantization does, and which were kept in high precision."""
    identity, title, focus = f"{prefix}sensitivity", "Which layers suffer from INT8", view.focus
    kept = frozenset(focus.trial.candidate.keep if focus is not None and focus.trial is not None else ())
    ranking = view.search.ranking if view.search is not None else None
    if ranking is not None and ranking.groups:
        half = ranking.style == "fp16"
        title = "Which layers suffer from FP16" if half else title
        layers = [
            LayerNoise(node=node, operator=group.operator, snr_db=group.snr_db)
            for group in sorted(ranking.groups, key=lambda group: group.snr_db)
            for node in group.nodes[:1]
        ]
        blocks = _ranking(layers, kept, f"{'Rounded' if half else 'Quantized'} alone: signal-to-noise of the outputs")
        lead = (
            f"Each node is {'rounded to FP16' if half else 'quantized'} alone on real frames and the model's outputs "
            "are compared with the reference. A low ratio is much damage; 6 dB is a factor of two in amplitude."
        )
        return Section(identity, title, tuple(blocks), short="Sensitivity", lead=lead)
    graphs = {name: view.run.graph(summary) for name, summary in view.summaries.items()}
    noisy = {name: graph.noise for name, graph in graphs.items() if graph is not None and graph.noise}
    if not noisy:
        return None
    name = focus.name if focus is not None and focus.name in noisy else next(iter(noisy))
    layers = sorted(noisy[name], key=lambda layer: layer.snr_db)
    blocks = _ranking(layers, kept, f"Inside {name}: signal-to-noise of each layer's output")
    lead = (
        "The error that has gathered up to each layer, against the reference on real frames. A low ratio is much "
        "damage; 6 dB is a factor of two in amplitude. Nodes were not ranked one by one in this run."
    )
    return Section(identity, title, tuple(blocks), short="Sensitivity", lead=lead)


def _ranking(layers: Sequence[LayerNoise], kept: frozenset[str], caption: str) -> list[Block]:
    finite = [layer.snr_db for layer in layers if abs(layer.snr_db) != float("inf")]
    low, high = scales.padded([0.0, *finite] if finite and min(finite) < 15 else finite or [0.0, 60.0], 0.03)
    axis = row_charts.axis(low, high, 5)
    blocks: list[Block] = [_ranks(layers[:SHOWN_LAYERS], kept, caption, axis, 1)]
    rest = layers[SHOWN_LAYERS:]
    if rest:
        more = f"; {len(rest) - LISTED} more" if len(rest) > LISTED else ""
        table = _ranks(rest[:LISTED], kept, f"The less sensitive nodes{more}", axis, SHOWN_LAYERS + 1)
        blocks.append(Fold(f"The other {len(rest)} nodes", (table,)))
    outside = sorted(kept - {layer.node for layer in layers})
    if outside:
        blocks.append(Prose("Also kept in high precision, not ranked: " + ", ".join(outside[:40]) + "."))
    return blocks


def _ranks(
    layers: Sequence[LayerNoise], kept: frozenset[str], caption: str, axis: row_charts.Axis, start: int
) -> Table:
    columns = (
        Column("Node"),
        Column("Rank", number=True),
        Column("Operator"),
        Column("SNR", number=True),
        Column("SNR, dB", chart=True, wide=True, head=row_charts.scale_row(axis)),
        Column("Decision"),
    )
    rows = []
    for rank, layer in enumerate(layers, start):
        held = layer.node in kept
        dot = row_charts.interval_row(axis, layer.snr_db, None, None, "inconclusive" if held else "plain")
        cells = (
            Cell(layer.node, code=True),
            Cell(str(rank)),
            Cell(layer.operator),
            Cell(f"{numbers.fixed(layer.snr_db, 1)}\u00a0dB"),
            Cell(dot),
            Cell("kept" if held else "quantized", strong=held),
        )
        rows.append(Row(cells, emphasis=held))
    return Table(caption, columns, tuple(rows), compact=True)


def search_section(view: TargetView, prefix: str) -> Section | None:
    """The search for a mixed-precision engine, step by step."""
    found = view.search
    if found is None:
        return None
    searches = [item for item in (found.half, found) if item is not None]
    blocks = [block for item in searches for block in _search(view, item)]
    builds = sum(item.builds for item in searches)
    lead = f"{builds} engine{'s' if builds != 1 else ''} built and tried"
    previews = sum(attempt.where == "preview" for item in searches for attempt in item.attempts)
    lead += f", {previews} plans judged by their graph on the workstation." if previews else "."
    title = "Search for a mixed-precision engine"
    return Section(f"{prefix}search", title, tuple(blocks), short="Search", lead=lead)


def _search(view: TargetView, found: Searched) -> Iterator[Block]:
    """One search: its answer, its steps, and the nodes it keeps."""
    yield Prose(found.sentence)
    if found.attempts:
        yield _attempts(view, found.attempts)
    if found.keep:
        half = "--precision fp16 " if found.ranking.style == "fp16" else ""
        options = half + " ".join(f"--keep {shlex.quote(node)}" for node in found.keep)
        yield Fold(f"The {len(found.keep)} nodes kept, for edgeship quantize", (Code(options, "Options"),))


def _attempts(view: TargetView, attempts: Sequence[SearchAttempt]) -> Table:
    metric = view.metric
    drops = [item.drop.get(metric) if metric is not None else None for item in attempts]
    share = view.share(metric)
    columns = (
        Column("Plan"),
        Column("Step", number=True),
        Column("Kept nodes", number=True),
        Column("Where"),
        Column(f"Drop of {numbers.metric_title(metric)}" if metric else "Drop", number=True),
        Column("Latency p50", number=True),
        Column("Outcome"),
        Column("Why", wide=True),
    )
    rows = tuple(
        Row(
            (
                Cell(item.candidate, code=True),
                Cell(str(number)),
                Cell(str(len(item.keep))),
                Cell("preview" if item.where == "preview" else "built"),
                Cell(numbers.drop_value(drop, share=share)),
                Cell(numbers.milliseconds(item.latency_ms)),
                Cell(OUTCOME_WORDS[item.outcome], outcome=item.outcome),
                Cell(item.why),
            )
        )
        for number, (item, drop) in enumerate(zip(attempts, drops, strict=True), 1)
    )
    return Table("The steps of the search, in order", columns, rows)
