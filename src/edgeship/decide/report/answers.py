"""How the engine answers beside its reference: shared mistakes, confusions, precision over recall, confidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship.charts import curves
from edgeship.decide import loaded_trial
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Cell, Chart, Column, Heading, Prose, Row, Section, Table
from edgeship.decide.report.view import CandidateView, TargetView
from edgeship.metrics import insight
from edgeship.metrics.average_precision import RECALL_LEVELS, precision_recall
from edgeship.metrics.objects import of_objects
from edgeship.metrics.several import part, tasks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Records = Mapping[str, NDArray[Any]]

MATRIX = 12
"""Classes up to which the whole confusion matrix is set."""
CONFUSIONS = 15
"""Pairs of classes shown where there are more."""
HEAT = 6
"""Shades of a cell."""
LEGEND = (("reference", "reference"), ("candidate", "candidate"))


def answers_section(view: TargetView, prefix: str) -> Section | None:
    """Shared mistakes, confusions and confidence of the focus candidate and the reference."""
    focus = _evaluated(view)
    if focus is None or view.run.reference.trial.evaluation is None:
        return None
    base = loaded_trial.load(view.run.reference.folder).records
    own = loaded_trial.load(focus.builds[0].folder).records
    if not base or not own:
        return None
    blocks = _told(focus, base, own)
    for task in tasks_of(base):
        found = _told(focus, part(base, task), part(own, task))
        blocks += [Heading(task), *found] if found else []
    if not blocks:
        return None
    title = f"How {focus.name} answers beside the reference"
    return Section(f"{prefix}answers", title, tuple(blocks), short="Answers")


def _told(focus: CandidateView, base: Records, own: Records) -> list[Block]:
    """What the records of one task tell; nothing of a task without single answers."""
    if str(base["task"]) != "classification" and not of_objects(base):
        return []
    blocks = [*_shared(focus, base, own), *_confusions(focus, base, own), *_precision_recall(focus, base, own)]
    return [*blocks, *_reliability(focus, base, own)]


def _evaluated(view: TargetView) -> CandidateView | None:
    """The focus candidate; the first in another precision where that is plain fp32, which answers as the reference."""
    known = [item for item in view.candidates if item.trial is not None and item.trial.evaluation is not None]
    low = [item for item in known if item.trial is not None and item.trial.candidate.precision != "fp32"]
    if view.focus in low or (view.focus in known and not low):
        return view.focus
    return next(iter([*low, *known]), None)


# --- shared mistakes -----------------------------------------------------------------------------------------


def _shared(focus: CandidateView, base: Records, own: Records) -> Iterator[Block]:
    found = insight.shared(base, own)
    if found is None or not found.total:
        return
    right = "found" if found.what == "objects" else "right"
    missed = "missed" if found.what == "objects" else "wrong"
    rows = (
        (f"{right.capitalize()} in both", found.both),
        (f"Only the reference is {right}" if right == "right" else "Found by the reference only", found.only_reference),
        (f"Only {focus.name} is {right}" if right == "right" else f"Found by {focus.name} only", found.only_candidate),
        (f"{missed.capitalize()} in both: the reference's own mistakes", found.neither),
    )
    columns = (Column("Answers"), Column(found.what.capitalize(), number=True), Column("Share", number=True))
    cells = tuple(
        Row((Cell(name), Cell(f"{count:,}"), Cell(numbers.percent(count / found.total, 1)))) for name, count in rows
    )
    own_share = found.neither / max(found.neither + found.only_reference, 1)
    yield Table(f"Who is right on the {found.total:,} {found.what}", columns, cells, compact=True)
    if found.neither + found.only_reference:
        yield Prose(
            f"Of the {found.what} that {focus.name} {'misses' if missed == 'missed' else 'gets wrong'}, the reference "
            f"{'misses' if missed == 'missed' else 'gets wrong'} {numbers.percent(own_share, 0)} too: those are the "
            "network's own mistakes, and no precision repairs them."
        )


# --- confusions ----------------------------------------------------------------------------------------------


def _confusions(focus: CandidateView, base: Records, own: Records) -> Iterator[Block]:
    if str(base["task"]) != "classification":
        return
    classes = [str(name) for name in base["classes"]]
    before, after = insight.confusion(base), insight.confusion(own)
    yield Heading("Confusions")
    yield _matrix(focus, classes, before, after) if len(classes) <= MATRIX else _pairs(focus, classes, before, after)


def _matrix(focus: CandidateView, classes: list[str], before: Any, after: Any) -> Table:
    columns = (Column("True class"), *(Column(name, number=True) for name in classes))
    rows = []
    for index, name in enumerate(classes):
        total = max(int(after[index].sum()), 1)
        cells = [Cell(name)]
        for other in range(len(classes)):
            count, was = int(after[index, other]), int(before[index, other])
            heat = min(int(np.ceil(HEAT * count / total)), HEAT) if count else 0
            kind = "right" if index == other else "wrong"
            note = f"reference {was:,}" if was != count else ""
            cells.append(Cell(f"{count:,}" if count or note else "", sub=note, heat=f"{kind}-{heat}" if heat else ""))
        rows.append(Row(tuple(cells)))
    caption = (
        f"Images by true class (row) and what {focus.name} answers (column); the reference's count where it differs. "
        "Blue: right; red: wrong; darker: a larger share of the row"
    )
    return Table(caption, columns, tuple(rows), compact=True, matrix=True)


def _pairs(focus: CandidateView, classes: list[str], before: Any, after: Any) -> Table:
    off = after.copy()
    np.fill_diagonal(off, 0)
    order = [place for place in np.argsort(-off, axis=None, kind="stable")[:CONFUSIONS] if off.flat[place] > 0]
    rows = []
    for place in order:
        true, answered = divmod(int(place), len(classes))
        counts = int(before[true, answered]), int(after[true, answered])
        cells = (
            Cell(classes[true], strong=True),
            Cell(classes[answered]),
            Cell(f"{counts[0]:,}"),
            Cell(f"{counts[1]:,}"),
            Cell(f"{counts[1] - counts[0]:+,}".replace("-", numbers.MINUS)),
        )
        rows.append(Row(cells))
    columns = (
        Column("True class"),
        Column("Answered"),
        Column("Reference", number=True),
        Column(focus.name, number=True),
        Column("Change", number=True),
    )
    return Table(f"The most frequent confusions of {len(classes):,} classes", columns, tuple(rows), compact=True)


# --- curves --------------------------------------------------------------------------------------------------


def _precision_recall(focus: CandidateView, base: Records, own: Records) -> Iterator[Block]:
    if not of_objects(base):
        return
    found = [precision_recall(records) for records in (base, own)]
    if not all(np.isfinite(values).all() for values in found):
        return
    chart = curves.Square(
        curves=tuple(
            curves.Curve(key, list(zip(RECALL_LEVELS.tolist(), values.tolist(), strict=True)))
            for (key, _), values in zip(LEGEND, found, strict=True)
        ),
        x_title="recall",
        y_title="precision",
        label=f"Precision over recall at IoU 0.5: the reference's mean is {found[0].mean():.3f}, "
        f"that of {focus.name} {found[1].mean():.3f}",
    )
    yield Heading("Precision over recall")
    caption = "Mean over the classes at IoU 0.5, interpolated as COCO does: the area under a curve is mAP50."
    yield _chart(chart, caption)


def _reliability(focus: CandidateView, base: Records, own: Records) -> Iterator[Block]:
    found = [insight.reliability(records) for records in (base, own)]
    if found[0] is None or found[1] is None:
        return
    chart = curves.Square(
        curves=tuple(
            curves.Curve(key, [(confidence, share) for confidence, share, _ in item.bins], dots=True)
            for (key, _), item in zip(LEGEND, found, strict=True)
            if item is not None
        ),
        x_title="confidence",
        y_title="share that is right",
        label=f"Share of right answers over their confidence. Calibration error: reference {found[0].error:.3f}, "
        f"{focus.name} {found[1].error:.3f}",
        diagonal=True,
    )
    yield Heading("Calibration of confidence")
    errors = [numbers.percent(item.error, 1) for item in found if item is not None]
    caption = (
        "Answers in ten bins of confidence; on the diagonal a confidence of 80 % is right in 80 %. Expected "
        f"calibration error: reference {errors[0]}, {focus.name} {errors[1]}. A threshold tuned on the reference means "
        "something else where the two curves part."
    )
    yield _chart(chart, caption)


def _chart(chart: curves.Square, caption: str) -> Chart:
    return Chart(
        wide=curves.draw(chart, 420, "for-wide"),
        narrow=curves.draw(chart, 340, "for-narrow"),
        caption=caption,
        series=LEGEND,
    )
