"""How the model became a graph, and how INT8 learned its ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from edgeship.charts import row_charts
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Column, Facts, Fold, Heading, Prose, Row, Section, Table
from edgeship.results import Calibrated, Parity, Preflight, TensorRange

SHOWN_TENSORS = 12
LISTED = 300
BINS = ((0.01, "< 1 %"), (0.02, "1–2 %"), (0.05, "2–5 %"), (0.1, "5–10 %"), (0.2, "10–20 %"), (float("inf"), "> 20 %"))


# --- calibration ---------------------------------------------------------------------------------------------


def calibration_section(run: FinishedRun) -> Section | None:
    """Method, convergence and the tensors that still moved."""
    found = run.calibrated
    if found is None:
        return None
    blocks: list[Block] = [_calibration_facts(found)]
    if found.methods:
        blocks.append(_methods(found))
    if found.placements:
        blocks.append(_placements(found))
    ranges = _ranges(run, found)
    if ranges:
        blocks += [Heading("Convergence"), *_convergence(found, ranges), *_tensors(found, ranges)]
    else:
        blocks.append(Prose("The ranges of the tensors are not at hand, so convergence is not shown.", missing=True))
    if found.overlap:
        names = ", ".join(found.overlap[:20])
        blocks.append(Prose(f"{len(found.overlap)} calibration frames also stand in the evaluation set: {names}."))
    blocks += [Prose(sentence, missing=True) for sentence in found.unchecked]
    return Section("calibration", "Calibration", tuple(blocks), lead=found.advice)


def _calibration_facts(found: Calibrated) -> Facts:
    pairs = [
        ("Method", found.method),
        ("Frames", f"{found.frames:,}"),
        ("Tensors", f"{found.tensors:,}"),
        ("95 % of thresholds moved at most", _moved(found.moved_p95)),
        ("Bound to the frames", found.frames_sha256[:16]),
        ("Bound to the graph", found.graph_sha256[:16]),
    ]
    if found.trusted_cache:
        pairs.append(("Cache", "taken on trust: it carries no proof of where it came from"))
    return Facts(tuple(pairs))


def _moved(share: float | None) -> str:
    return "not known" if share is None else f"{numbers.percent(share, 1)} over the last quarter"


def _methods(found: Calibrated) -> Table:
    most = max((score.snr_db for score in found.methods), default=1.0)
    columns = (
        Column("Method"),
        Column("Output SNR", number=True),
        Column("", chart=True, wide=True),
        Column("Agreement", number=True),
        Column("Decision"),
    )
    rows = tuple(
        Row(
            (
                Cell(score.method, code=True),
                Cell(f"{numbers.fixed(score.snr_db, 1)}\u00a0dB"),
                Cell(row_charts.bar_row(max(score.snr_db, 0.0) / most if most > 0 else 0.0)),
                Cell(numbers.percent(score.agreement, 1)),
                Cell("chosen" if score.method == found.method else ""),
            ),
            emphasis=score.method == found.method,
        )
        for score in found.methods
    )
    held = {None: "held-out frames", 0: "the calibration frames themselves (none were held out)"}
    where = held.get(found.held_out, f"held-out frames ({found.held_out} held out)")
    return Table(f"Calibration methods against the reference on {where}; more is better", columns, rows)


def _placements(found: Calibrated) -> Table:
    columns = (
        Column("Q/DQ pairs"),
        Column("Output SNR", number=True),
        Column("Products in INT8", number=True),
        Column("Agreement", number=True),
        Column("One batch, here", number=True),
        Column("Decision"),
    )
    rows = tuple(
        Row(
            (
                Cell(score.placement, code=True),
                Cell(f"{numbers.fixed(score.snr_db, 1)}\u00a0dB"),
                Cell(str(score.products)),
                Cell(numbers.percent(score.agreement, 1)),
                Cell(numbers.milliseconds(score.ms)),
                Cell("chosen" if score.placement == found.placement else ""),
            ),
            emphasis=score.placement == found.placement,
        )
        for score in found.placements
    )
    return Table("Where Q/DQ pairs go, on the same frames; the best signal at no loss of time is chosen", columns, rows)


def _ranges(run: FinishedRun, found: Calibrated) -> dict[str, TensorRange]:
    """The ranges file; empty when it is not at hand or not as expected."""
    folder = run.stage_folder("calibrate")
    if folder is None:
        return {}
    path = folder / found.ranges.path
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): TensorRange.model_validate(entry) for name, entry in raw.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError, ValidationError):
        return {}


def _convergence(found: Calibrated, ranges: Mapping[str, TensorRange]) -> list[Block]:
    counts = [0] * len(BINS)
    known = [entry.moved for entry in ranges.values() if entry.moved is not None]
    if not known:
        return [Prose("Too few batches came to tell how far the thresholds still moved.", missing=True)]
    for moved in known:
        counts[next(index for index, (edge, _) in enumerate(BINS) if moved < edge)] += 1
    most = max(counts) or 1
    rows = tuple(
        Row((Cell(label), Cell(row_charts.bar_row(count / most)), Cell(str(count))))
        for (_, label), count in zip(BINS, counts, strict=True)
    )
    columns = (Column("Threshold moved"), Column("", chart=True, wide=True), Column("Tensors", number=True))
    blocks: list[Block] = [
        Table("How far thresholds moved over the last quarter of the frames", columns, rows, compact=True)
    ]
    if found.moving:
        names = ", ".join(found.moving[:8]) + (f" and {len(found.moving) - 8} more" if len(found.moving) > 8 else "")
        blocks.append(Prose(f"Still moving, more frames would help: {names}."))
    return blocks


def _tensors(found: Calibrated, ranges: Mapping[str, TensorRange]) -> list[Block]:
    order = sorted(ranges.items(), key=lambda item: (-(item[1].moved or 0.0), -(item[1].clipped or 0.0), item[0]))
    methods = list(dict.fromkeys(method for _, entry in order for method in entry.amax))
    blocks: list[Block] = [_tensor_table(found, order[:SHOWN_TENSORS], methods, "The tensors that moved most")]
    rest = order[SHOWN_TENSORS:]
    if rest:
        more = f"; {len(rest) - LISTED} more" if len(rest) > LISTED else ""
        table = _tensor_table(found, rest[:LISTED], methods, f"The other tensors{more}")
        blocks.append(Fold(f"The other {len(rest)} tensors", (table,)))
    return blocks


def _tensor_table(
    found: Calibrated, entries: Sequence[tuple[str, TensorRange]], methods: Sequence[str], caption: str
) -> Table:
    columns = [Column("Tensor"), Column("Lowest", number=True), Column("Highest", number=True)]
    columns += [Column(f"{name} ✓" if name == found.method else name, number=True) for name in methods]
    columns += [Column("Moved", number=True), Column("Clipped", number=True)]
    rows = tuple(
        Row(
            (
                Cell(name, code=True),
                Cell(numbers.significant(entry.low)),
                Cell(numbers.significant(entry.high)),
                *(Cell(numbers.significant(entry.amax.get(method))) for method in methods),
                Cell(numbers.percent(entry.moved, 1)),
                Cell(numbers.percent(entry.clipped, 3) if entry.clipped is not None else numbers.ABSENT),
            )
        )
        for name, entry in entries
    )
    note = "; thresholds by method, ✓ the one in use; clipped: share of values beyond it on evaluation frames"
    return Table(caption + note, tuple(columns), rows, compact=True)


# --- export --------------------------------------------------------------------------------------------------


def export_section(run: FinishedRun) -> Section | None:
    """Export, simplification, parity and preflight."""
    blocks: list[Block] = []
    facts = _export_facts(run)
    if facts:
        blocks.append(Facts(tuple(facts)))
    if run.parity is not None:
        blocks += [Heading("Parity of PyTorch and ONNX"), *_parity(run.parity)]
    if run.preflight is not None:
        blocks += [Heading("Preflight"), *_preflight(run.preflight)]
    if run.exported is not None:
        blocks += [Prose(note) for note in run.exported.notes]
    if not blocks:
        return None
    return Section("export", "Export and parity", tuple(blocks), short="Export")


def _export_facts(run: FinishedRun) -> list[tuple[str, str]]:
    facts = []
    exported, slimmed = run.exported, run.slimmed
    if exported is not None:
        source = Path(exported.source).name  # the report leaves the workstation: no folder of it is told
        facts += [("Source", source), ("Exporter", exported.exporter), ("Opset", str(exported.opset))]
        if exported.parameters:
            facts.append(("Parameters", f"{exported.parameters:,}"))
        facts += [(f"Input {t.name}", f"{_shape(t.shape)} {t.dtype}") for t in exported.inputs]
        facts += [(f"Output {t.name}", f"{_shape(t.shape)} {t.dtype}") for t in exported.outputs]
        facts += [(f"Renamed by the exporter: {old}", new) for old, new in exported.renamed.items()]
    if slimmed is not None:
        facts.append(("Nodes", f"{slimmed.nodes_before:,} exported, {slimmed.nodes_after:,} after simplification"))
        if slimmed.max_difference is not None:
            facts.append(("Largest change by simplification", numbers.significant(slimmed.max_difference)))
    return facts


def _shape(shape: Sequence[int | str]) -> str:
    return "×".join(str(axis) for axis in shape) or "scalar"


def _parity(parity: Parity) -> list[Block]:
    columns = (
        Column("Output"),
        *(Column(name, number=True) for name in ("Largest difference", "Mean difference", "Largest relative")),
        Column("Outcome"),
    )
    rows = tuple(
        Row(
            (
                Cell(output.name, code=True),
                Cell(numbers.significant(output.max_abs)),
                Cell(numbers.significant(output.mean_abs)),
                Cell(numbers.significant(output.max_rel)),
                Cell("within" if output.passed else "beyond", outcome="pass" if output.passed else "fail"),
            )
        )
        for output in parity.outputs
    )
    where = parity.device + (", TF32 on" if parity.tf32 else "")
    caption = (
        f"Over {parity.random_inputs} seeded random inputs and {parity.real_images} real images on {where}, "
        f"rtol {parity.rtol:g}, atol {parity.atol:g}"
    )
    blocks: list[Block] = [Table(caption, columns, rows)]
    if parity.divergence is not None:
        first = parity.divergence
        place = f" ({first.place})" if first.place else ""
        blocks.append(Prose(f"First to diverge: {first.operator} {first.node}{place}, by {first.max_abs:.3g}."))
    return blocks


def _preflight(preflight: Preflight) -> list[Block]:
    if preflight.parser is None:
        head = "TensorRT's own parser was not asked: no TensorRT of any kind is installed here."
    else:
        head = f"Asked: {preflight.parser}. " + (
            "It has no objections." if not preflight.problems else "What it objects to:"
        )
    blocks: list[Block] = [Prose(head)]
    if preflight.problems:
        outcomes = {"error": "fail", "warning": "inconclusive", "note": ""}
        columns = (
            Column("Node"),
            Column("Level"),
            Column("Operator"),
            Column("Reason", wide=True),
            Column("Remedies", wide=True),
        )
        rows = tuple(
            Row(
                (
                    Cell(problem.node or numbers.ABSENT, code=True, sub=problem.place),
                    Cell(problem.level, outcome=outcomes[problem.level]),
                    Cell(problem.operator),
                    Cell(problem.reason),
                    Cell("; ".join(problem.remedies)),
                )
            )
            for problem in preflight.problems[:LISTED]
        )
        blocks.append(Table("What a build would meet", columns, rows, compact=True))
    return blocks
