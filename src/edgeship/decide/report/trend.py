"""This run beside the model's earlier ones: the metric, the latency and the engine's size over time."""

from __future__ import annotations

from collections.abc import Iterator

from edgeship.charts import trend
from edgeship.decide import rulebook
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Chart, Column, Row, Section, Table
from edgeship.decide.report.view import VERDICT_OUTCOME, TargetView
from edgeship.results import EarlierRun

CHARTS = 3
LEGEND = (("pass", "shipped"), ("fail", "did not"), ("inconclusive", "undecided"))


def trend_section(view: TargetView, prefix: str) -> Section | None:
    """The figures of what shipped, run by run; None where the history has no earlier run of this model here."""
    earlier = [item for item in view.run.earlier if item.target == view.name]
    if not earlier:
        return None
    runs = [*earlier, _this(view)]
    blocks: list[Block] = [chart for name, title in _shown(view) if (chart := _chart(view, runs, name, title))]
    blocks.append(_table(runs, [name for name, _ in _shown(view)]))
    lead = "From the history. Where nothing shipped there is no figure. Figures of different images do not compare."
    return Section(f"{prefix}trend", f"Over the last {len(runs)} runs", tuple(blocks), short="Trend", lead=lead)


def _shown(view: TargetView) -> list[tuple[str, str]]:
    """The figures that are drawn, and their titles."""
    metric = [(view.metric, numbers.metric_title(view.metric))] if view.metric is not None else []
    return [*metric, ("latency_p50_ms", "median latency, ms"), ("engine_mib", "engine, MiB")][:CHARTS]


def _this(view: TargetView) -> EarlierRun:
    """This run as the history will tell of it."""
    result = view.run.result
    place = (view.name, view.decision.chosen)
    figures: dict[str, float] = {}
    own = next((item for item in result.trials if (item.target_name, item.candidate) == place), None)
    if own is not None:
        figures |= own.metrics
        figures |= {"latency_p50_ms": own.latency_ms.p50} if own.latency_ms is not None else {}
        figures |= {"engine_mib": own.engine_mib} if own.engine_mib is not None else {}
    return EarlierRun(
        number=0,
        finished=result.finished,
        version=result.lineage.version,
        commit=result.lineage.commit,
        target=view.name,
        verdict=view.decision.verdict,
        chosen=view.decision.chosen,
        figures=figures,
    )


def _name(run: EarlierRun) -> str:
    """What a run is called on an axis: its version, else its number; this run is ``now``."""
    return run.version or (f"#{run.number}" if run.number else "now")


def _chart(view: TargetView, runs: list[EarlierRun], name: str, title: str) -> Chart | None:
    values = [run.figures.get(name) for run in runs]
    if sum(value is not None for value in values) < 2:
        return None
    points = [
        trend.Point(
            _name(run),
            value,
            VERDICT_OUTCOME[run.verdict],
            f"{_name(run)}, {run.finished[:10]}: {run.chosen} {numbers.significant(value)}",
        )
        for run, value in zip(runs, values, strict=True)
    ]
    limit = view.limit(rulebook.P50) if name == "latency_p50_ms" else view.limit(f"{rulebook.MIN}.{name}")
    label = f"{title} of what shipped in {len(runs)} runs, from {numbers.significant(values[0])} to "
    label += f"{numbers.significant(values[-1])}"
    chart = trend.Trend(points, title, label, limit)
    said = " The dashed line is the limit of this run's rules." if limit is not None else ""
    return Chart(
        wide=trend.draw(chart, 760, "for-wide"),
        narrow=trend.draw(chart, 360, "for-narrow"),
        caption=f"{title[:1].upper()}{title[1:]} of the candidate that shipped, run by run.{said}",
        legend=LEGEND,
    )


def _table(runs: list[EarlierRun], names: list[str]) -> Table:
    columns = (
        Column("Run"), Column("Finished"), Column("Commit"), Column("Verdict"), Column("Ships"),
        *(Column(name, number=True) for name in names),
    )  # fmt: skip
    return Table("What each run came to", columns, tuple(_rows(runs, names)), compact=True)


def _rows(runs: list[EarlierRun], names: list[str]) -> Iterator[Row]:
    for run in reversed(runs):
        cells = (
            Cell(_name(run), code=True),
            Cell(run.finished[:16].replace("T", " ")),
            Cell(run.commit[:12] or numbers.ABSENT, code=True),
            Cell(run.verdict, outcome=VERDICT_OUTCOME[run.verdict]),
            Cell(run.chosen or numbers.ABSENT, code=True),
            *(Cell(numbers.significant(run.figures.get(name), 4)) for name in names),
        )
        yield Row(cells, emphasis=not run.number)
