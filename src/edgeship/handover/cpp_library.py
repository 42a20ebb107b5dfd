"""The C++ library around an engine: preprocessing, decoding and timing, with the bundle's settings as a header."""

from __future__ import annotations

from pathlib import Path

from edgeship.config import Preprocess
from edgeship.data.preprocess import OPENCV
from edgeship.errors import DataError
from edgeship.handover.source import Source, quoted

HERE = Path(__file__).parent
FITS = {"center-crop": "centerCrop", "letterbox": "letterbox", "stretch": "stretch"}
DECODERS = {
    "yolox": "decodeYolox(values, rows, classes().size(), geometry, thresholds())",
    "ultralytics": "decodeUltralytics(values, rows, classes().size(), geometry, thresholds())",
    "nms": "decodeRows(values, rows, geometry, thresholds())",
}
HEADER = """// Written by `edgeship hand-over` from the manifest of one bundle. Do not edit: hand over again.
#pragma once

#include <string>
#include <vector>

#include "edgeship/decode.hpp"
#include "edgeship/image.hpp"

namespace edgeship {

inline const std::vector<std::string>& classes() {
    static const std::vector<std::string> names{@CLASSES@};
    return names;
}

inline const Preprocess& settings() {
    static const Preprocess steps = [] {
        Preprocess made;
@STEPS@
        return made;
    }();
    return steps;
}

inline Thresholds thresholds() {
    Thresholds made;
@LIMITS@
    return made;
}

// Boxes of one image: `rows` is the number of anchors or detections in the output.
inline std::vector<Box> decode(const float* values, std::size_t rows, const Geometry& geometry) {
@DECODE@
}

}  // namespace edgeship
"""


def files(source: Source) -> tuple[dict[str, bytes], list[str]]:
    """Library, settings and engine. Raises DataError for preprocessing or a decoder that it does not have."""
    manifest = source.manifest
    made = library() | {
        "include/edgeship/settings.hpp": settings_of(source),
        "manifest.json": source.content("manifest.json"),
        f"engine{Path(manifest.engine).suffix}": source.content(manifest.engine),  # beside no source's name
    }
    notes = [
        "cmake -B build, then make -C build, makes `frame`: what stands before and after the engine",
        f"run the engine with {manifest.identity.engine} {manifest.identity.version} (docs/how-to/cpp.md)",
    ]
    return made, notes


def library() -> dict[str, bytes]:
    """The files that are the same for every bundle."""
    root = HERE / "cpp"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def settings_of(source: Source) -> bytes:
    """``settings.hpp``. Raises DataError as :func:`files` does."""
    steps, evaluation, (height, width) = source.steps, source.evaluation, source.size
    if steps.dtype != "float32":
        raise DataError(
            f"preprocess.dtype is {steps.dtype}, and the C++ library prepares float32", do="ship a float32 input"
        )
    limits = {
        "score": f"{evaluation.score_threshold!r}f",
        "nmsIou": repr(evaluation.nms_iou),
        "most": str(evaluation.max_detections),
    }
    text = HEADER
    for name, content in {
        "CLASSES": ", ".join(map(quoted, source.manifest.classes)),
        "STEPS": "\n".join(f"        made.{key} = {value};" for key, value in _steps(steps, height, width).items()),
        "LIMITS": "\n".join(f"    made.{key} = {value};" for key, value in limits.items()),
        "DECODE": _decode(source),
    }.items():
        text = text.replace(f"@{name}@", content)
    return text.encode()


def _steps(steps: Preprocess, height: int, width: int) -> dict[str, str]:
    def listed(values: tuple[float, ...]) -> str:
        return "{" + ", ".join(f"static_cast<float>({value!r})" for value in values) + "}"

    return {
        "fit": f"Fit::{FITS[steps.fit]}",
        "height": str(height),
        "width": str(width),
        "cropFraction": repr(steps.crop_fraction),
        "padValue": repr(steps.pad_value),
        "padCentered": str(steps.pad_align == "center").lower(),
        "filter": f"Filter::{'opencvBilinear' if steps.interpolation == OPENCV else steps.interpolation}",
        "color": f"Color::{steps.color}",
        "scale": f"static_cast<float>({steps.scale!r})",
        "mean": listed(steps.mean),
        "std": listed(steps.std),
        "channelsFirst": str(steps.layout == "nchw").lower(),
    }


def _decode(source: Source) -> str:
    evaluation = source.evaluation
    if evaluation.task != "detection":
        return (
            "    (void)values, (void)rows, (void)geometry;\n"
            f"    throw std::logic_error({quoted(f'a {evaluation.task} network gives no boxes')});"
        )
    if evaluation.decoder not in DECODERS:
        raise DataError(
            f"evaluation.decoder is {evaluation.decoder!r}, and the C++ library decodes {', '.join(DECODERS)}",
            do="name the decoder in [evaluation] and ship again; another head is decoded by code of your own",
        )
    if evaluation.decoder == "nms" and len(source.output.shape) != 3:
        raise DataError("the C++ library takes suppressed boxes as one output [batch, detections, 6]")
    return f"    return {DECODERS[evaluation.decoder]};"
