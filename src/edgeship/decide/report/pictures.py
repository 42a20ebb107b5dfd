"""Images as data URIs, with boxes and masks drawn over them as SVG."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from edgeship.charts.svg import element, group, text
from edgeship.decide.report import numbers
from edgeship.decide.report.blocks import Block, Filter, Gallery, Heading, Pair, Picture, Prose, Section
from edgeship.decide.report.depth_pictures import DEPTH, ERROR, Stops, coloured
from edgeship.decide.report.view import TargetView
from edgeship.errors import ArtifactError
from edgeship.files import sha256_bytes
from edgeship.results import Answer, Artifact, Box, ChangedImage

PHOTO = 96
"""Images up to this size are enlarged by whole pixels."""
CANVAS = 400
"""Units of the drawing over a small image, at least: browsers set no letters of less than six."""
OPTIONS = 100
"""Values of a choice that are offered, the most frequent first."""
MATCH = 0.5
"""Intersection over union above which two boxes of one class are the same object."""
MASK_ALPHA = 150
COLOURS = (
    (228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0), (240, 220, 60), (166, 86, 40),
    (247, 129, 191), (0, 170, 170), (120, 120, 220), (190, 190, 60), (90, 90, 90),
)  # fmt: skip


def changed_section(view: TargetView, prefix: str) -> Section | None:
    """The images whose answers changed most on a target, the reference's beside the candidate's."""
    title, short = "Images that changed their answer", "Changed images"
    found = view.run.changes(view.name)
    folder = view.run.stage_folder(f"changes:{view.name}")
    if found is None or folder is None or not found.images:
        if not any(build.trial.evaluation is not None for item in view.candidates for build in item.builds):
            return None
        missing = Prose("No image with a changed answer was collected in this run.", missing=True)
        return Section(f"{prefix}images", title, (missing,), short=short)
    blocks: list[Block] = []
    order = dict.fromkeys((item.candidate, item.task) for item in found.images)
    for number, (name, task) in enumerate(order):
        items = [item for item in found.images if (item.candidate, item.task) == (name, task)]
        rich = any(_rich(answer) for item in items for answer in (item.reference, item.answer))
        pairs = tuple(_pair(item, folder, f"{prefix}image-{number}-{index}") for index, item in enumerate(items))
        count = Counter(item.harm for item in items)
        said = f"{count['worse']} became worse, {count['better']} better, {count['other']} other"
        if count["both wrong"]:
            said += f"; {count['both wrong']} more are wrong in both"
        blocks += [Heading(task)] if task else []
        blocks += [Prose(f"{name}: {said}."), Gallery(pairs, _filters(pairs), wide=rich)]
    lead = (
        "The largest changes between the reference and the candidate, harmful ones first, then mistakes that both make."
    )
    return Section(f"{prefix}images", title, tuple(blocks), short=short, lead=lead)


def _rich(answer: Answer) -> bool:
    return bool(answer.boxes) or answer.mask is not None or answer.depth is not None


def _pair(item: ChangedImage, folder: Path, identity: str) -> Pair:
    truth = f"Labelled {item.label}" if item.label else ""
    if item.picture is None:
        return Pair(f"{item.name}: the image could not be read again", truth, (), _tags(item))
    lost = _unmatched(item.reference.boxes, item.answer.boxes)
    gained = _unmatched(item.answer.boxes, item.reference.boxes)
    frame = _Frame(folder, item.picture, item.size[0], identity)
    if item.measured is not None:
        return Pair(item.name, truth, tuple(_depth(item, item.measured, frame)), _tags(item))
    if item.reference.picture is not None:
        return Pair(item.name, truth, tuple(_neighbours(item, frame)), _tags(item))
    sides = (("Reference", item.reference, (), ()), (item.candidate, item.answer, gained, lost))
    pictures = []
    for index, (heading, answer, fresh, ghosts) in enumerate(sides):
        words = answer.text if answer.score is None else f"{answer.text}, {numbers.percent(answer.score, 0)}"
        if ghosts:
            words += f"; lost {_listed(ghosts)}"
        if fresh:
            words += f"; new {_listed(fresh)}"
        outcome = _outcome(item, first=index == 0)
        if outcome and (_rich(item.reference) or _rich(item.answer)):
            words = f"{item.harm}: {words}"
        alt = f"{heading} on {item.name}: {words}"
        shapes = [*_mask(answer, frame), *_boxes(answer.boxes, frame, fresh), *_ghosts(ghosts, frame)]
        pictures.append(Picture(frame.draw(shapes, alt, own=index == 0), heading, words, outcome))
    return Pair(item.name, truth, tuple(pictures), _tags(item))


def _tags(item: ChangedImage) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What an image can be chosen by: kind of change, classes, sizes of objects (areas as COCO has them)."""
    classes = dict.fromkeys(box.label for box in item.truth)
    if not _rich(item.reference) and not _rich(item.answer) and item.label and not classes:
        near = item.reference.picture is not None
        classes = dict.fromkeys((item.label,) if near else (item.label, item.reference.text, item.answer.text))
    sizes = dict.fromkeys(_area(box) for box in item.truth)
    found = (("change", (item.harm,)), ("class", tuple(classes)), ("size", tuple(sizes)))
    return tuple((name, values) for name, values in found if values)


def _area(box: Box) -> str:
    x0, y0, x1, y1 = box.corners
    area = (x1 - x0) * (y1 - y0)
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


def _filters(pairs: Sequence[Pair]) -> tuple[Filter, ...]:
    """The choices that tell pairs apart, each with how many pairs have it."""
    found = []
    for name, title in (("change", "Change"), ("class", "Class"), ("size", "Size of objects")):
        count = Counter(value for pair in pairs for tag, values in pair.tags if tag == name for value in values)
        if len(count) > 1:
            options = sorted(count.items(), key=lambda option: (-option[1], option[0]))[:OPTIONS]
            found.append(Filter(name, title, tuple(options)))
    return tuple(found)


def _outcome(item: ChangedImage, *, first: bool) -> str:
    """Which of the two is right; for boxes and masks, where neither need be, whether the candidate's is better."""
    if item.harm == "other":
        return ""
    if item.harm == "both wrong":
        return "" if _rich(item.reference) or _rich(item.answer) else "fail"
    if _rich(item.reference) or _rich(item.answer):
        return "" if first else "fail" if item.harm == "worse" else "pass"
    right = first == (item.harm == "worse")
    return "pass" if right else "fail"


def _listed(boxes: Sequence[Box]) -> str:
    counts: dict[str, int] = {}
    for box in boxes:
        counts[box.label] = counts.get(box.label, 0) + 1
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items())


class _Frame:
    """A picture embedded once; the second of a pair refers to the first."""

    def __init__(self, folder: Path, picture: Artifact, original: int, identity: str) -> None:
        self.folder, self.identity = folder, identity
        content = _content(folder, picture)
        width, height = _size(content, folder / picture.path)
        self.small = max(width, height) <= PHOTO
        larger = -(-CANVAS // max(width, height)) if self.small else 1
        self.size = width * larger, height * larger
        self.scale = self.size[0] / max(original, 1)
        self.source = _data_uri(content)

    def draw(self, shapes: Iterable[Markup], alt: str, *, own: bool) -> Markup:
        width, height = self.size
        if own:
            kind = "pixels" if self.small else None
            base = element("image", id=self.identity, href=self.source, width=width, height=height, class_=kind)
        else:
            base = element("use", href=f"#{self.identity}")
        return element(
            "svg", base, *shapes, viewBox=f"0 0 {width} {height}", role="img", aria_label=alt, class_="photo"
        )


def _content(folder: Path, artifact: Artifact) -> bytes:
    """A file of the stage, checked against its hash. Raises ArtifactError."""
    path = folder / artifact.path
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ArtifactError(f"{path} is missing", expected="every picture that result.json beside it names")
    content = path.read_bytes()
    if sha256_bytes(content) != artifact.sha256:
        raise ArtifactError(f"{path} has changed since the run wrote it", do="run edgeship ship again")
    return content


def _size(content: bytes, path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not an image: {error}", do="run edgeship ship again") from None


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _mask(answer: Answer, frame: _Frame) -> list[Markup]:
    """A mask's classes as translucent colours; class 0 is left clear, as background is in most data sets."""
    if answer.mask is None:
        return []
    import numpy as np
    from PIL import Image

    content = _content(frame.folder, answer.mask)
    _size(content, frame.folder / answer.mask.path)
    classes = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    colours = np.array(COLOURS, dtype=np.uint8)
    pixels = np.zeros((*classes.shape, 4), dtype=np.uint8)
    painted = classes > 0
    pixels[painted, :3] = colours[(classes[painted].astype(int) - 1) % len(COLOURS)]
    pixels[painted, 3] = MASK_ALPHA
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return [element("image", href=_data_uri(stream.getvalue()), width=frame.size[0], height=frame.size[1])]


def _neighbours(item: ChangedImage, frame: _Frame) -> Iterator[Picture]:
    """The image, and what each model finds nearest to it."""
    yield Picture(frame.draw((), item.name, own=True), "Image", item.label)
    for number, (heading, answer) in enumerate((("Reference", item.reference), (item.candidate, item.answer))):
        if answer.picture is not None:
            near = _Frame(frame.folder, answer.picture, 0, f"{frame.identity}-near{number}")
            alt = f"{heading}, nearest to {item.name}: {answer.text}"
            outcome = _outcome(item, first=number == 0)
            yield Picture(near.draw((), alt, own=True), f"{heading}, nearest", answer.text, outcome)


def _depth(item: ChangedImage, measured: Artifact, frame: _Frame) -> Iterator[Picture]:
    """The image, the depth that was measured, and what each model found with its error."""

    def draw(picture: Artifact, stops: Stops, heading: str, words: str, outcome: str = "") -> Picture:
        source = _data_uri(coloured(_content(frame.folder, picture), stops))
        kind = "pixels" if frame.small else None
        shape = element("image", href=source, width=frame.size[0], height=frame.size[1], class_=kind)
        alt = f"{heading} on {item.name}: {words}"
        return Picture(frame.draw([shape], alt, own=False), heading, words, outcome)

    yield Picture(frame.draw((), item.name, own=True), "Image", item.name)
    yield draw(measured, DEPTH, "Measured", f"{item.label}, dark is near; grey was not measured")
    for heading, answer, first in (("Reference", item.reference, True), (item.candidate, item.answer, False)):
        if answer.depth is not None and answer.error is not None:
            yield draw(answer.depth, DEPTH, heading, answer.text, _outcome(item, first=first))
            yield draw(answer.error, ERROR, f"{heading}, error", "white 0 %, dark red 50 % and beyond")


def _boxes(boxes: Sequence[Box], frame: _Frame, fresh: Sequence[Box]) -> list[Markup]:
    return [_box(box, frame, "box new" if box in fresh else "box") for box in boxes]


def _ghosts(boxes: Sequence[Box], frame: _Frame) -> list[Markup]:
    return [_box(box, frame, "box lost") for box in boxes]


def _box(box: Box, frame: _Frame, kind: str) -> Markup:
    x0, y0, x1, y1 = (value * frame.scale for value in box.corners)
    letter = max(frame.size[0] / 30, 6.0)
    shown = box.label if box.score is None else f"{box.label} {box.score:.2f}"
    if kind.endswith("lost"):
        shown = f"lost: {box.label}"
    top = y0 - letter * 0.3 if y0 > letter * 1.3 else min(y0 + letter * 1.05, frame.size[1] - 2)
    shape = element("rect", x=x0, y=y0, width=max(x1 - x0, 0.0), height=max(y1 - y0, 0.0))
    if box.outline:
        corners = " ".join(f"{x * frame.scale:.1f},{y * frame.scale:.1f}" for x, y in box.outline)
        shape = element("polygon", points=corners)
    return group(
        [
            shape,
            *(element("circle", cx=x * frame.scale, cy=y * frame.scale, r=letter / 6) for x, y in box.points),
            text(min(max(x0, 1.0), max(frame.size[0] - letter * 4, 0.0)), top, shown, font_size=letter),
        ],
        class_=kind,
    )


def _unmatched(boxes: Sequence[Box], others: Sequence[Box]) -> tuple[Box, ...]:
    """The boxes that no box of the other answer covers, each of those used once, best score first."""
    free = list(others)
    missing = []
    for box in sorted(boxes, key=lambda box: -(box.score or 0.0)):
        best = max((other for other in free if other.label == box.label), key=lambda o: _iou(box, o), default=None)
        if best is not None and _iou(box, best) >= MATCH:
            free.remove(best)
        else:
            missing.append(box)
    return tuple(missing)


def _iou(a: Box, b: Box) -> float:
    width = min(a.corners[2], b.corners[2]) - max(a.corners[0], b.corners[0])
    height = min(a.corners[3], b.corners[3]) - max(a.corners[1], b.corners[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a.corners, b.corners)]
    return shared / (sum(areas) - shared)
