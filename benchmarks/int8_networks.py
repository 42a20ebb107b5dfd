"""The networks of ``int8_numbers.py``: calibration frames, other images to judge on, and the figure of the task.

Weights come from packages (``--packages``) and from this repository's examples; two networks are trained here, in
seconds, on the repository's pictures of clothes.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calibration_lite0
import harness
import numpy as np
import onnx
import search
from PIL import Image, ImageDraw, ImageFilter, ImageFont

EXAMPLES = harness.HERE.parent / "examples"
Array = np.ndarray


@dataclass(frozen=True)
class Figure:
    """A figure of the task, where more is better, that can be taken again of other samples of the same images.

    Args:
        weighted: float64 [samples, images], how often each image counts → the figure, [samples].
        right: bool [images] where the figure is the share of them.
    """

    weighted: Callable[[Array], Array]
    right: Array | None = None

    def of(self, images: int) -> float:
        """Each of so many images once."""
        return float(self.weighted(np.ones((1, images)))[0])


Score = Callable[[list[Array], list[Array]], Figure]
"""(outputs, outputs in FP32) → the figure."""


@dataclass(frozen=True)
class Network:
    """One network: ``frames`` and ``images`` are float32 [count, …], rows that the graph takes one by one.

    ``member`` int [images] says which photograph an image is a view of: views of one are no independent images.
    """

    name: str
    figure: str
    model: Path
    frames: Array
    images: Array
    score: Score
    member: Array | None = None

    @property
    def independent(self) -> int:
        """Images, or photographs, that are independent of one another."""
        return len(self.images) if self.member is None else len(np.unique(self.member))

    @property
    def input(self) -> str:
        """The name of its one input."""
        return str(onnx.load(str(self.model)).graph.input[0].name)


def build(name: str, folder: Path, packages: Path) -> Network:
    """Make one of :data:`NETWORKS` in ``folder``."""
    return NETWORKS[name](folder, packages)


# --- figures


def share(right: Array) -> Figure:
    """The share of images that are right, bool [images]."""
    return Figure(lambda weights: weights @ right / weights.sum(axis=1), right)


def ratio(part: Array, whole: Array) -> Figure:
    """Sums of ``part`` over sums of ``whole``, both [images, classes]: the mean of the classes."""
    return Figure(lambda weights: np.mean((weights @ part) / np.maximum(weights @ whole, 1), axis=1))


def top1(labels: Array) -> Score:
    """Share of images whose largest logit is the label's."""
    return lambda found, _: share(found[0].argmax(axis=-1) == labels)


def agreement(found: list[Array], wanted: list[Array]) -> Figure:
    """Share of images that are answered as FP32 answers."""
    return share(found[0].argmax(axis=-1) == wanted[0].argmax(axis=-1))


def miou(masks: Array, classes: int) -> Score:
    """Mean intersection over union of the classes."""

    def score(found: list[Array], _: list[Array]) -> Figure:
        answers = found[0].argmax(axis=1)
        pairs = [(answers == k, masks == k) for k in range(classes)]
        both, either = ([join(*pair).sum(axis=(1, 2)) for pair in pairs] for join in (np.logical_and, np.logical_or))
        return ratio(np.stack(both, axis=1), np.stack(either, axis=1))

    return score


def exact_text(texts: Sequence[str], characters: Sequence[str]) -> Score:
    """Share of lines that are read without a mistake: greedy CTC, blank 0; the empty margins are read as spaces."""

    def read(steps: Array) -> str:
        best = steps.argmax(axis=-1)
        return "".join(characters[k - 1] for k, before in zip(best, [0, *best[:-1]], strict=True) if k and k != before)

    return lambda found, _: share(
        np.array([read(row).strip() == text for row, text in zip(found[0], texts, strict=True)], dtype=np.bool_)
    )


def same_boxes(found: list[Array], wanted: list[Array]) -> Figure:
    """F1 of detections (score 0.25, suppressed at 0.45) with those of FP32 as truth, at an IoU of 0.5."""
    from edgeship.decode.boxes import best_class, corners, nms

    def boxes(raw: Array) -> tuple[Array, Array]:
        found = best_class(corners(raw[:4].T), raw[4:].T, 0.25)
        kept = nms(found.boxes, found.scores, found.labels, 0.45, 100)
        return found.boxes[kept], found.labels[kept]

    hits, total = np.zeros((len(found[0]), 1)), np.zeros((len(found[0]), 1))
    for row, (one, other) in enumerate(zip(found[0], wanted[0], strict=True)):
        (mine, my_labels), (theirs, their_labels) = boxes(one), boxes(other)
        total[row] = len(mine) + len(theirs)
        free = set(range(len(theirs)))
        for box, label in zip(mine, my_labels, strict=True):
            best = max(free, key=lambda k: _iou(box, theirs[k]) * (their_labels[k] == label), default=None)
            if best is not None and their_labels[best] == label and _iou(box, theirs[best]) >= 0.5:
                free.discard(best)
                hits[row] += 2
    return ratio(hits, total)


def _iou(one: Array, other: Array) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    inside = float(np.prod(np.maximum(high - low, 0)))
    areas = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return inside / (areas - inside) if inside else 0.0


# --- networks


def fixed(source: Path | onnx.ModelProto, out: Path, shape: tuple[int, ...] | None = None) -> Path:
    """The simplified graph, with a dynamic batch and the other sizes of ``shape``."""
    from edgeship.prepare.slim import slim

    model = source if isinstance(source, onnx.ModelProto) else onnx.load(str(source))
    for axis, size in enumerate(shape or ()):
        dimension = model.graph.input[0].type.tensor_type.shape.dim[axis]
        if axis:
            dimension.dim_value = size
        else:
            dimension.dim_param = "batch"
    onnx.save(model, out.with_suffix(".raw.onnx"))
    slim(out.with_suffix(".raw.onnx"), out)
    return out


def exported(module: Any, out: Path, shape: tuple[int, ...]) -> Path:
    """A PyTorch module as a simplified graph with a dynamic batch."""
    import torch

    torch.onnx.export(
        module.eval(), (torch.zeros(2, *shape),), str(out.with_suffix(".torch.onnx")), dynamo=True, opset_version=18,
        input_names=["images"], dynamic_shapes=({0: torch.export.Dim("batch", max=1024)},), external_data=False,
        verbose=False,
    )  # fmt: skip
    return fixed(out.with_suffix(".torch.onnx"), out)


def lite0(folder: Path, packages: Path) -> Network:
    """EfficientNet-Lite0 on views of foolbox's twenty ImageNet photographs."""
    example = EXAMPLES / "efficientnet_lite0"
    sys.path[:0] = [str(example), str(packages)]
    import data  # type: ignore[import-not-found]

    preprocess, views = calibration_lite0.preprocessing(), calibration_lite0.photo_views(data)
    frames = [preprocess(pixels) for pixels, _, _ in itertools.islice(data.frames(), 0, None, 4)]
    images = [preprocess(view) for view in views]
    path = calibration_lite0.network(folder)
    member = np.arange(len(images)) // calibration_lite0.VIEWS_EACH
    return Network(
        "EfficientNet-Lite0", "agreement", path, np.concatenate(frames), np.concatenate(images), agreement, member
    )


def yolox(folder: Path, packages: Path) -> Network:
    """YOLOX-Nano on composed scenes: mAP at an IoU of 0.5."""
    place = search.example("yolox_nano", folder)
    search.script(place, packages, "get_model.py")
    search.script(place, packages, "make_scenes.py")
    from edgeship import metrics
    from edgeship.config_file import load
    from edgeship.data.datasets import open_dataset
    from edgeship.data.frames import FrameChoice, frames
    from edgeship.data.loader import Loader, LoadOptions
    from edgeship.decode.decoders import decode_predictions, head_classes
    from edgeship.results import TensorInfo

    loaded = load(place / "edgeship.toml")
    settings, steps, calibration = loaded.evaluation, loaded.preprocess, loaded.calibration.images
    assert steps is not None and calibration is not None
    path = fixed(place / "yolox_nano.onnx", folder / "yolox.onnx")
    value = onnx.load(str(path)).graph.input[0]
    info = TensorInfo(name=value.name, shape=(1, 3, 416, 416), dtype="float32")
    opened = open_dataset(settings)
    batches = list(Loader(opened.items[:SCENES], steps, (416, 416), LoadOptions(1)))

    def score(found: list[Array], _: list[Array]) -> Figure:
        task, collector, dataset = metrics.get("detection"), None, opened
        for row, batch in enumerate(batches):
            outputs = {"output": found[0][row : row + 1]}
            if collector is None:
                classes = head_classes("detection", settings.decoder, outputs, settings)
                dataset = dataset.fitted(classes)
                collector = task.collector(dataset.classes, settings)
            answers = decode_predictions(
                "detection", settings.decoder, outputs, batch.geometries, settings, dataset.classes
            )
            for answer, target in zip(answers, batch.targets, strict=True):
                collector.add(answer, target)
        assert collector is not None
        records = collector.records()
        return Figure(lambda weights: task.resample(records, weights, ["map50"])["map50"])

    ready = [feeds[info.name] for _, feeds in frames(calibration, steps, (info,), FrameChoice(32))]
    images = np.concatenate([batch.array for batch in batches])
    return Network("YOLOX-Nano", "mAP50", path, np.concatenate(ready)[:32], images, score)


SCENES = 100


def nudenet(folder: Path, packages: Path) -> Network:
    """NudeNet's YOLOv8n, which also finds faces, hands, armpits and feet: on views of photographs with people."""
    random = np.random.default_rng(0)
    shown = [packages / "skimage" / "data" / name for name in ("astronaut.png", "camera.png", "rocket.jpg")]
    shown += sorted((packages / "foolbox").rglob("*.jpg"))[:6]
    people = shown[:1] * 4 + shown

    def view(number: int) -> Array:
        with Image.open(people[number % len(people)]) as opened:
            pixels = opened.convert("RGB")
        side = int(min(pixels.size) * random.uniform(0.6, 1.0))
        left, top = (int(random.integers(0, length - side + 1)) for length in pixels.size)
        pixels = pixels.crop((left, top, left + side, top + side)).resize((320, 320), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return (np.asarray(pixels, np.float32) * random.uniform(0.6, 1.0) / 255).transpose(2, 0, 1)

    path = fixed(packages / "nudenet" / "320n.onnx", folder / "nudenet.onnx", (1, 3, 320, 320))
    views = np.stack([view(number) for number in range(32 + 150)]).astype(np.float32)
    member = np.array([shown.index(people[number % len(people)]) for number in range(32, len(views))])
    return Network("NudeNet YOLOv8n", "F1 with FP32's boxes", path, views[:32], views[32:], same_boxes, member)


def lines(count: int, width: int, seed: int) -> tuple[list[str], list[Image.Image]]:
    """Printed lines of text, of several sizes, colours, slants and sharpness, 48 pixels high."""
    random = np.random.default_rng(seed)
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz0123456789"
    texts, pictures = [], []
    for _ in range(count):
        text = "".join(random.choice(list(letters), int(random.integers(4, 9))))
        ground, ink = random.integers(120, 256, 3), random.integers(0, 90, 3)
        picture = Image.new("RGB", (width, 48), tuple(map(int, ground)))
        font = ImageFont.load_default(size=int(random.integers(22, 34)))
        place = (int(random.integers(4, 16)), int(random.integers(2, 10)))
        ImageDraw.Draw(picture).text(place, text, tuple(map(int, ink)), font=font)
        slant = float(random.uniform(-2, 2))
        picture = picture.rotate(slant, Image.Resampling.BILINEAR, fillcolor=tuple(map(int, ground)))
        picture = picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.1))))
        noisy = np.asarray(picture, np.float32) + random.normal(0, random.uniform(0, 14), (48, width, 3))
        pictures.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
        texts.append(text)
    return texts, pictures


def _bgr(pictures: Sequence[Image.Image]) -> Array:
    pixels = np.stack([np.asarray(picture, np.float32)[..., ::-1] for picture in pictures])
    return np.ascontiguousarray((pixels / 127.5 - 1).transpose(0, 3, 1, 2), np.float32)


def text_direction(folder: Path, packages: Path) -> Network:
    """PP-OCR's classifier of upright and turned lines."""
    source = packages / "rapidocr_onnxruntime" / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    path = fixed(source, folder / "cls.onnx", (1, 3, 48, 192))
    _, pictures = lines(64 + 400, 192, seed=3)
    turned = np.arange(len(pictures)) % 2
    images = _bgr([one.rotate(180) if turn else one for one, turn in zip(pictures, turned, strict=True)])
    return Network("PP-OCR direction", "top-1", path, images[:64], images[64:], top1(turned[64:]))


def text(folder: Path, packages: Path) -> Network:
    """PP-OCRv4's recogniser: SVTR blocks behind convolutions."""
    source = packages / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_rec_infer.onnx"
    model = onnx.load(str(source))
    known = next(entry.value for entry in model.metadata_props if entry.key == "character")
    texts, pictures = lines(32 + 150, 320, seed=4)
    images = _bgr(pictures)
    score = exact_text(texts[32:], [*known.splitlines(), " "])
    path = fixed(model, folder / "rec.onnx", (1, 3, 48, 320))
    return Network("PP-OCRv4 text", "lines without a mistake", path, images[:32], images[32:], score)


def clothes() -> tuple[Array, Array, Array]:
    """The repository's pictures of clothes: labelled ones float32 [2500, 1, 28, 28], labels, frames."""
    folder = EXAMPLES / "fashion"
    names = _classes("fashion")
    paths = [(path, names.index(path.parent.name)) for path in sorted((folder / "val").glob("*/*.png"))]
    np.random.default_rng(0).shuffle(paths)
    images = np.stack([np.asarray(Image.open(path)) for path, _ in paths])
    frames = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "calib").glob("*.png"))])
    ready = [((one.astype(np.float32) - 73) / 90)[:, None] for one in (images, frames)]
    return ready[0], np.array([int(label) for _, label in paths]), ready[1]


def fashion(folder: Path, _: Path) -> Network:
    """The repository's convolutional classifier."""
    module = _example("fashion").build()
    _load(module, EXAMPLES / "fashion" / "weights.safetensors")
    images, labels, frames = clothes()
    path = exported(module, folder / "fashion.onnx", (1, 28, 28))
    return Network("Fashion CNN", "top-1", path, frames[:64], images, top1(labels))


def segmentation(folder: Path, _: Path) -> Network:
    """The repository's encoder-decoder."""
    place = EXAMPLES / "segmentation"
    module = _example("segmentation").build()
    _load(module, place / "weights.safetensors")
    images, frames = (
        np.stack([np.asarray(Image.open(path), np.float32) for path in sorted((place / kind).glob("*.png"))])
        for kind in ("val", "calib")
    )
    masks = np.stack([np.asarray(Image.open(path)) for path in sorted((place / "masks").glob("*.png"))])
    images, frames = (((one - 110) / 60)[:, None] for one in (images, frames))
    path = exported(module, folder / "segmentation.onnx", (1, 96, 96))
    return Network("encoder-decoder", "mIoU", path, frames[:64], images, miou(masks, 5))


def vit(folder: Path, _: Path) -> Network:
    """A small ViT: 49 patches, four blocks."""
    import int8_trained

    return _trained("ViT-tiny", int8_trained.ViT(), folder / "vit.onnx")


def recurrent(folder: Path, _: Path) -> Network:
    """A convolution, and a GRU over the columns of the picture."""
    import int8_trained

    return _trained("conv + GRU", int8_trained.Recurrent(), folder / "gru.onnx")


TRAINED_ON = 1700
"""Labelled pictures that the two networks are trained on; they are judged on the others."""


def _trained(name: str, module: Any, path: Path) -> Network:
    import int8_trained

    images, labels, frames = clothes()
    int8_trained.train(module, images[:TRAINED_ON], labels[:TRAINED_ON])
    exported(module, path, (1, 28, 28))
    return Network(name, "top-1", path, frames[:64], images[TRAINED_ON:], top1(labels[TRAINED_ON:]))


def _example(name: str) -> Any:
    """The module ``model`` of an example."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"{name}_model", EXAMPLES / name / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load(module: Any, weights: Path) -> None:
    from safetensors.torch import load_file

    module.load_state_dict(load_file(weights))


def _classes(name: str) -> tuple[str, ...]:
    from edgeship.config_file import load

    return tuple(load(EXAMPLES / name / "edgeship.toml").evaluation.classes)


NETWORKS: dict[str, Callable[[Path, Path], Network]] = {
    "fashion": fashion,
    "vit": vit,
    "gru": recurrent,
    "segmentation": segmentation,
    "nudenet": nudenet,
    "yolox": yolox,
    "direction": text_direction,
    "text": text,
    "lite0": lite0,
}
