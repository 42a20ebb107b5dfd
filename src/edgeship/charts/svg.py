"""Small helpers that write SVG. Texts and attributes are escaped, control characters removed; no style attributes."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from edgeship.text import printable

Attribute = str | float | int | None


def number(value: float) -> str:
    """A coordinate: at most two decimals, no trailing zeros."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def element(name: str, *children: str | Markup, **attributes: Attribute) -> Markup:
    """One element. ``class_`` becomes ``class``; ``stroke_width`` becomes ``stroke-width``; None is left out."""
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        text = number(value) if isinstance(value, float) else str(value)
        label = key.removesuffix("_")
        if label not in ("viewBox", "preserveAspectRatio"):
            label = label.replace("_", "-")
        parts.append(f'{label}="{escape(printable(text))}"')
    inside = Markup("").join(child if isinstance(child, Markup) else escape(printable(child)) for child in children)
    head = " ".join(parts)
    return Markup(f"<{head}>{inside}</{name}>") if inside else Markup(f"<{head}/>")


def group(children: Iterable[Markup], **attributes: Attribute) -> Markup:
    """A ``g`` element."""
    return element("g", *children, **attributes)


def line(x1: float | str, y1: float | str, x2: float | str, y2: float | str, **attributes: Attribute) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def text(x: float | str, y: float | str, content: str, **attributes: Attribute) -> Markup:
    """One line of text."""
    return element("text", content, x=x, y=y, **attributes)


def share(value: float) -> str:
    """A coordinate as a percentage of the picture's width, from 0..1."""
    return f"{number(value * 100)}%"


def picture(width: float, height: float, label: str, children: Iterable[Markup], **attributes: Attribute) -> Markup:
    """A whole chart that scales with its place. ``label`` is its text alternative."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=label,
        **attributes,
    )


def strip(height: int, children: Iterable[Markup], label: str | None = None, **attributes: Attribute) -> Markup:
    """A chart for one table row: as wide as its cell, so its children place themselves by percentages.

    Without a ``label`` it is hidden from assistive technology: the row's cells say the same in numbers.
    """
    if label is None:
        return element(
            "svg", *children, width="100%", height=height, aria_hidden="true", focusable="false", **attributes
        )
    return element("svg", *children, width="100%", height=height, role="img", aria_label=label, **attributes)


def mark(outcome: str, x: float | str, y: float | str, radius: float = 5.0, extra: str = "") -> Markup:
    """The shape of an outcome, so that colour is not the only signal: disc, cross, hollow diamond.

    Drawn in a nested ``svg`` so that ``x`` may be a percentage.
    """
    r = radius
    if outcome in ("pass", "plain"):
        shape = element("circle", cx=0, cy=0, r=r)
    elif outcome == "fail":
        q = number(r * 0.85)
        shape = element("path", d=f"M-{q} -{q}L{q} {q}M-{q} {q}L{q} -{q}")
    else:
        q = number(r * 1.15)
        shape = element("path", d=f"M0 -{q}L{q} 0L0 {q}L-{q} 0Z")
    inner = group([shape], class_=f"mark mark-{outcome} {extra}".strip())
    return element("svg", inner, x=x, y=y, overflow="visible", width=1, height=1)
