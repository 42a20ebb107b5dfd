"""Pascal VOC: an XML file for each image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from edgeship.data.formats.common import Listing, finite, forwards, known_classes, label_files, text_of
from edgeship.data.objects import Fixed, LabelledImage, Truth, class_position, pack
from edgeship.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

Box = tuple[str, tuple[float, float, float, float], bool]
SIDES = ("xmin", "ymin", "xmax", "ymax")


def read(labels: Path, listing: Listing) -> Truth:
    """Read the annotations of a folder.

    Pixels count from 1 and both ends belong to the box, so ``xmin`` and ``ymin`` move by one, as in detectron2.
    Objects marked ``difficult`` count nowhere, whether found or not.

    Raises:
        DataError: Not XML, an object without a name or a box, or a class that is not one of the model's.
    """
    files = label_files(labels, ".xml")
    parsed = {key: _parse(path) for key, path in files.items()}
    classes, notes = known_classes([name for _, objects in parsed.values() for name, _, _ in objects], listing.classes)
    position = {name: number for number, name in enumerate(classes)}
    images, empty = [], 0
    for key, ((width, height), objects) in parsed.items():
        name = listing.by_stem.get(key) or listing.image(key)
        rows = []
        for kind, box, difficult in objects:
            place = class_position(str(files[key]), kind, position)
            area = (box[2] - box[0]) * (box[3] - box[1])
            if box[2] <= box[0] or box[3] <= box[1]:
                empty += 1
            else:
                rows.append((box, place, difficult, area))
        found = pack(rows)
        images.append(LabelledImage(name, found.labels, Fixed(name, width, height, found)))
    if empty:
        notes = (*notes, f"{empty} boxes without area were left out of {labels}")
    return Truth("Pascal VOC", tuple(images), classes, notes)


def _parse(path: Path) -> tuple[tuple[int, int], list[Box]]:
    """(width, height), 0 where the file does not tell, and the objects."""
    tree = _elements(path)
    size = {name: text for place, name, text in tree if place == ("annotation", "size")}
    objects: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for place, name, text in tree:
        if place in (("annotation", "object"), ("annotation", "object", "bndbox")):
            current.setdefault(name, text)
        elif place == ("annotation",) and name == "object":
            objects.append(current)
            current = {}
    found: list[Box] = []
    for item in objects:
        lacking = [side for side in SIDES if not item.get(side)]
        name = item.get("name", "")
        if lacking or not name:
            raise DataError(f"{path}: an object {name!r} without {', '.join(lacking) or 'a name'}", do="label it")
        x1, y1, x2, y2 = finite(str(path), [item[side] for side in SIDES])
        forwards(f"{path}: {name}", (x1, y1, x2, y2))
        found.append((name, (x1 - 1, y1 - 1, x2, y2), item.get("difficult", "0") == "1"))
    whole = [size.get(side, "0") for side in ("width", "height")]
    width, height = (int(value) if value.isdecimal() else 0 for value in whole)
    return (width, height), found


def _elements(path: Path) -> Sequence[tuple[tuple[str, ...], str, str]]:
    """Each element's place, name and text, in the order in which they end; entities are refused, not expanded."""
    found: list[tuple[tuple[str, ...], str, str]] = []
    stack: list[tuple[str, list[str]]] = []

    def start(name: str, _attributes: dict[str, str]) -> None:
        stack.append((name, []))

    def end(name: str) -> None:
        _, text = stack.pop()
        found.append((tuple(item for item, _ in stack), name, "".join(text).strip()))

    def data(text: str) -> None:
        if stack:
            stack[-1][1].append(text)

    def entity(*_: object) -> None:
        raise DataError(f"{path} declares entities, which labels do not need", do="write the annotation again")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(text_of(path), True)
    except expat.ExpatError as error:
        raise DataError(f"{path} is not valid XML: {error}", expected="a Pascal VOC annotation") from None
    if not found or found[-1][1] != "annotation":
        raise DataError(f"{path} is XML of another kind", expected="a Pascal VOC <annotation>")
    return found
