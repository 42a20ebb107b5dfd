"""What a section is made of. The template knows how to set each of these; texts are escaped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from markupsafe import Markup

FEW = 4
"""More folds than this are set inside one."""


@dataclass(frozen=True)
class Column:
    """A table column. ``number``: right-aligned digits; ``wide``: takes the room that is left (charts, reasons)."""

    title: str
    number: bool = False
    wide: bool = False
    chart: bool = False
    head: Markup | None = None
    """Set below the title: the axis of a column of charts."""
    key: str = ""
    """The class of a colour that the charts use for this column."""


@dataclass(frozen=True)
class Cell:
    """A table cell: text, or a chart. ``outcome`` adds its mark; ``code`` sets a name that is a machine's."""

    text: str | Markup
    outcome: str = ""
    code: bool = False
    strong: bool = False
    sub: str = ""
    """A second, quieter line."""
    heat: str = ""
    """The shade of a cell of a matrix: ``right-3``, ``wrong-1``."""
    sort: float | str | None = None


@dataclass(frozen=True)
class Row:
    """A table row. The first cell heads it."""

    cells: tuple[Cell, ...]
    emphasis: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sortable: bool = False
    compact: bool = False
    """Set with less room: long listings."""
    matrix: bool = False
    """A square of counts, which scrolls sideways on a narrow screen."""


@dataclass(frozen=True)
class Chart:
    """A chart in a wide and a narrow setting."""

    kind: ClassVar[str] = "chart"
    wide: Markup
    narrow: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()
    """(outcome, words)."""
    series: tuple[tuple[str, str], ...] = ()
    """(curve, words)."""


@dataclass(frozen=True)
class Prose:
    """A paragraph. ``missing`` marks what was not measured."""

    kind: ClassVar[str] = "prose"
    text: str
    missing: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values, side by side."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    kind: ClassVar[str] = "code"
    text: str
    label: str


@dataclass(frozen=True)
class Picture:
    """One image of a pair, with its boxes or mask drawn in. ``outcome`` says whether the answer is right."""

    drawing: Markup
    heading: str
    text: str
    outcome: str = ""


@dataclass(frozen=True)
class Pair:
    """The reference's answer beside the candidate's. ``tags``: filter → the values that this pair has."""

    name: str
    label: str
    pictures: tuple[Picture, ...]
    tags: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Filter:
    """A choice above a gallery: those pairs are shown whose tag of this name holds the chosen value."""

    name: str
    title: str
    options: tuple[tuple[str, int], ...]
    """(value, pairs that have it)."""


@dataclass(frozen=True)
class Gallery:
    """Images that changed their answer."""

    kind: ClassVar[str] = "gallery"
    pairs: tuple[Pair, ...]
    filters: tuple[Filter, ...] = ()
    wide: bool = False
    """Detection and segmentation: one pair a row."""


@dataclass(frozen=True)
class Fold:
    """What is read only when asked for. Opened on paper."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: tuple[Block, ...]
    outcome: str = ""
    open: bool = False


def folded(folds: Sequence[Fold], what: str) -> tuple[Fold, ...]:
    """The folds as they are when they are few, else all inside one."""
    return tuple(folds) if len(folds) <= FEW else (Fold(f"{len(folds)} {what}", tuple(folds)),)


@dataclass(frozen=True)
class Heading:
    """A heading below the section's own."""

    kind: ClassVar[str] = "heading"
    text: str


Block: TypeAlias = "Table | Chart | Prose | Facts | Code | Gallery | Fold | Heading"


@dataclass(frozen=True)
class Section:
    """A section of the page. ``short`` is its name in the contents."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    short: str = ""
    lead: str = ""


@dataclass(frozen=True)
class Tile:
    """A key number of the verdict."""

    label: str
    value: str
    note: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class Banner:
    """The verdict on one target."""

    target: str
    verdict: str
    outcome: str
    sentence: str
    subject: str
    """The candidate that the tiles are about."""
    tiles: tuple[Tile, ...]
    doubts: tuple[str, ...] = ()
    """Why the reference, and so every comparison with it, may mean nothing."""
    remarks: tuple[str, ...] = ()
    """What the rules themselves leave open."""


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    subtitle: str
    banners: tuple[Banner, ...]
    sections: tuple[Section, ...]
    lineage: tuple[tuple[str, str], ...] = ()
    """What was shipped, and from what: version, commit, digests."""
    footer: str = field(default="")
