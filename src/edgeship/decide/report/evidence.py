"""What the report is made of: results and files. Everything that was not measured is simply absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeship.results import (
    Calibrated,
    Decision,
    Exported,
    LayerNoise,
    Outcome,
    Parity,
    Preflight,
    Quantized,
    Slimmed,
    StageRun,
    Trial,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tried:
    """A trial and the folder that holds its ``.npz`` files."""

    trial: Trial
    folder: Path | None = None


@dataclass(frozen=True)
class Box:
    """A detection. ``corners`` are x0, y0, x1, y1 in pixels of the original image."""

    corners: tuple[float, float, float, float]
    label: str
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What one engine said about one image.

    Args:
        text: The answer in words: a class name, a count of boxes, a mean IoU.
        score: Its confidence, 0..1.
        boxes: Detections above the operating confidence.
        mask: Class numbers, H×W integers, of the original image's size.
    """

    text: str
    score: float | None = None
    boxes: tuple[Box, ...] = ()
    mask: NDArray[np.integer[Any]] | None = None


@dataclass(frozen=True, eq=False)
class ChangedImage:
    """An image that a candidate answered otherwise than the reference.

    Args:
        image: A file, a file's content, or decoded pixels: H×W or H×W×3 uint8 RGB.
        name: How the data set calls it.
        label: The true answer in words; empty where there is none.
        candidate_name: Whose answer it is.
        reference: The FP32 reference's answer.
        candidate: The candidate's answer.
        truth: Labelled boxes, for detection.
        change: How much the answer moved; only the order matters.
        harm: ``worse``, ``better`` or ``other``: what the change means against the label.
    """

    image: Path | bytes | NDArray[np.uint8]
    name: str
    label: str
    candidate_name: str
    reference: Answer
    candidate: Answer
    truth: tuple[Box, ...] = ()
    change: float = 0.0
    harm: str = "other"


@dataclass(frozen=True)
class SearchStep:
    """One step of the search for a mixed-precision engine, in the order it was taken."""

    candidate: str
    kept: int
    """Nodes left in high precision."""
    where: str = "target"
    """``preview``: the Q/DQ graph run on the workstation; ``target``: an engine built and tried."""
    drop: float | None = None
    """Of the search's metric, reference minus candidate."""
    metric: str = ""
    latency_ms: float | None = None
    outcome: Outcome | None = None
    why: str = ""
    """Why this plan was tried, or what it showed."""


@dataclass(frozen=True)
class SearchFound:
    """The search for a mixed-precision engine on one target.

    Args:
        sentence: What it concluded, in words.
        steps: In the order they were taken.
        sensitivity: Nodes by the damage their quantization does, worst first (lowest signal-to-noise).
        keep: The nodes that its answer keeps in high precision.
    """

    sentence: str
    steps: tuple[SearchStep, ...] = ()
    sensitivity: tuple[LayerNoise, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """What the user would have instead: PyTorch on the same shapes in the same run."""

    name: str
    batch: int
    p50_ms: float
    clock: str = "wall"
    """``wall`` or ``device``."""
    device: str = ""
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """All that a run found out.

    Args:
        title: The model's name.
        decisions: One for each target.
        trials: Every trial, failed ones too, in the order they were made.
        reference: The FP32 model that every candidate is compared with.
        config: The text of ``edgeship.toml``.
        config_path: How the user named that file.
        confidence: Of every bound; 0: statistics are off.
        clock: Which time the latency rules read, as the config names it.
        critical: Names of the classes with a rule of their own.
        metric: The metric that stands for the task, such as ``top1``; None: chosen from the rules.
        calibrated_folder: The folder that holds ``calibrated.ranges``.
        quantized: Graphs by target and candidate name.
        searches: By target name; absent where nothing was searched.
        changed: Images that changed their answer, by target name.
        environment: Versions and hardware of the workstation.
        reproduce: Commands, in order.
        finished: When the run ended, in words; empty: left out, so that equal evidence gives an equal page.
    """

    title: str
    decisions: tuple[Decision, ...]
    trials: tuple[Tried, ...] = ()
    reference: Tried | None = None
    config: str = ""
    config_path: str = "edgeship.toml"
    confidence: float = 0.95
    clock: Literal["auto", "device", "wall"] = "auto"
    critical: tuple[str, ...] = ()
    metric: str | None = None
    exported: Exported | None = None
    slimmed: Slimmed | None = None
    preflight: Preflight | None = None
    parity: Parity | None = None
    calibrated: Calibrated | None = None
    calibrated_folder: Path | None = None
    quantized: Mapping[str, Mapping[str, Quantized]] = field(default_factory=dict)
    searches: Mapping[str, SearchFound] = field(default_factory=dict)
    changed: Mapping[str, tuple[ChangedImage, ...]] = field(default_factory=dict)
    baselines: tuple[Baseline, ...] = ()
    stages: tuple[StageRun, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    reproduce: tuple[str, ...] = ()
    finished: str = ""
