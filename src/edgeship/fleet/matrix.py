"""What people and CI systems read of a fleet: a page of models by targets, and JUnit XML for all."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from edgeship.charts import scatter
from edgeship.charts.svg import element
from edgeship.decide import junit
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Chart, Column, Page, Prose, Row, Section, Table
from edgeship.decide.report.page import render_page
from edgeship.files import write_bytes, write_text
from edgeship.fleet import run
from edgeship.results import RunResult, read

OUTCOME = {"SHIP": "pass", "NO-SHIP": "fail", "INCONCLUSIVE": "inconclusive", "ERROR": "fail"}
PAGE = "fleet.html"


def write_page(result: run.FleetResult, folder: Path) -> None:
    """Write ``fleet.html``: verdicts, latency against accuracy, the slowest model, links to the reports."""
    write_text(folder / PAGE, render_page(_page(result)))


def _page(result: run.FleetResult) -> Page:
    sections = [_matrix(result), _pareto(result), _cells(result), _times(result)]
    if result.notes:
        sections.append(Section("notes", "What was noticed", tuple(Prose(note) for note in result.notes)))
    count = sum(cell.verdict == "SHIP" for cell in result.cells)
    return Page(
        title=f"Fleet: {count} of {len(result.cells)} ship",
        subtitle=f"{result.verdict} · {result.finished.replace('T', ' ').replace('+00:00', ' UTC')}",
        banners=(),
        sections=tuple(section for section in sections if section is not None),
    )


def _matrix(result: run.FleetResult) -> Section:
    labels = list(dict.fromkeys(cell.label for cell in result.cells))
    known = {(cell.model, cell.label): cell for cell in result.cells}
    rows = []
    for model in dict.fromkeys(cell.model for cell in result.cells):
        cells = [Cell(model, code=True)]
        for label in labels:
            found = known.get((model, label))
            cells.append(
                Cell(found.verdict, outcome=OUTCOME[found.verdict], sub=_short(found))
                if found is not None
                else Cell(numbers.ABSENT)
            )
        rows.append(Row(tuple(cells)))
    columns = (Column("Model"), *(Column(label) for label in labels))
    return Section(
        "matrix", "Models by targets", (Table("The verdict of each model on each target", columns, tuple(rows)),)
    )


def _short(cell: run.Cell) -> str:
    parts = [cell.chosen or "", numbers.milliseconds(cell.latency_p50_ms) if cell.latency_p50_ms is not None else ""]
    return ", ".join(part for part in parts if part)


def _pareto(result: run.FleetResult) -> Section | None:
    """Latency against the metric, one chart for each metric."""
    blocks: list[Block] = []
    for metric in dict.fromkeys(cell.metric for cell in result.cells if cell.metric):
        shown = [cell for cell in result.cells if cell.metric == metric and cell.latency_p50_ms is not None]
        points = tuple(
            scatter.Point(
                f"{cell.model} on {cell.label}", cell.latency_p50_ms or 0.0, cell.value or 0.0, None,
                OUTCOME[cell.verdict], False, _tip(cell),
            )
            for cell in shown
        )  # fmt: skip
        if len(points) < 2:
            continue
        title = numbers.metric_title(metric)
        label = f"{title} against latency. " + "; ".join(point.tip for point in points)
        chart = scatter.Scatter(points, "latency p50, ms", title, None, None, None, 1.0, label)
        caption = f"{title} against the median latency of what each target chose; up and left is better"
        wide, narrow = scatter.draw(chart, 860, 400, "for-wide"), scatter.draw(chart, 360, 340, "for-narrow")
        blocks.append(Chart(wide, narrow, caption))
    return Section("pareto", "Latency and accuracy over targets", tuple(blocks)) if blocks else None


def _tip(cell: run.Cell) -> str:
    latency, value = numbers.significant(cell.latency_p50_ms), numbers.significant(cell.value)
    return f"{cell.model} on {cell.label}: {latency} ms, {value}"


def _cells(result: run.FleetResult) -> Section:
    rows = [
        Row(
            (
                Cell(f"{cell.model} on {cell.label}", code=True),
                Cell(cell.verdict, outcome=OUTCOME[cell.verdict]),
                Cell(", ".join(cell.workers) or numbers.ABSENT),
                Cell(cell.sentence),
                Cell(element("a", _evidence(cell), href=quote(_evidence(cell))), code=True),
            )
        )
        for cell in result.cells
    ]
    columns = (Column("Cell"), Column("Verdict"), Column("Workers"), Column("Why", wide=True), Column("Report"))
    return Section("cells", "Each cell", (Table("Why, and where its report is", columns, tuple(rows)),))


def _evidence(cell: run.Cell) -> str:
    """Where to read on, relative to the page."""
    return run.log_of(Path(), cell.model).as_posix() if cell.verdict == "ERROR" else f"{cell.model}/report.html"


def _times(result: run.FleetResult) -> Section:
    order = sorted(result.seconds.items(), key=lambda item: -item[1])
    rows = []
    for model, took in order:
        link = result.slowest.get(model)
        step = Cell(link.name, sub=numbers.seconds(link.seconds)) if link is not None else Cell(numbers.ABSENT)
        rows.append(Row((Cell(model, code=True), Cell(numbers.seconds(took)), step)))
    lead = f"{order[0][0]} took longest." if order else ""
    columns = (Column("Model"), Column("Time", number=True), Column("Its slowest step"))
    table = Table("How long each model took, preparation and trials, and what in it took longest", columns, tuple(rows))
    return Section("times", "The slowest link", (table,), lead=lead)


def write_junit(result: run.FleetResult, folder: Path) -> None:
    """Write ``junit.xml`` with every rule of every cell; a cell without a verdict is an error."""
    root = ElementTree.Element("testsuites", name="edgeship fleet")
    for model in dict.fromkeys(cell.model for cell in result.cells):
        cells = [cell for cell in result.cells if cell.model == model]
        broken = [cell for cell in cells if cell.verdict == "ERROR"]
        root.extend(junit.broken(f"{cell.model}.{cell.label}", cell.sentence) for cell in broken)
        if len(broken) == len(cells):
            continue
        decisions = read(RunResult, folder / model / "result.json").decisions
        named = [item.model_copy(update={"target_name": f"{model}.{item.target_name}"}) for item in decisions]
        root.extend(ElementTree.fromstring(junit.render(named)))
    ElementTree.indent(root)
    write_bytes(folder / "junit.xml", ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
