"""What ``decide`` tells: rules, verdicts, the search, and result.json."""

from __future__ import annotations

from typing import Any, Literal

from edgeship.config import EngineName, Precision
from edgeship.results.base import SCHEMA_VERSION, Artifact, Outcome, Result, VerdictWord
from edgeship.results.prepare import Sensitivity
from edgeship.results.trial import Audit, Latency


class Rule(Result):
    """One rule of the gate, judged for one candidate."""

    name: str
    """``latency_p99_ms``, ``max_drop.top1``, ``critical.pedestrian``, ``audit``."""
    outcome: Outcome
    measured: float | None
    bound: float | None = None
    """The confidence bound that decides; equals ``measured`` with statistics off."""
    limit: float | None
    unit: str = ""
    reason: str
    more_images: int | None = None
    """About how many labelled images would decide an inconclusive rule."""
    method: str = ""
    """How the bound was made: ``exact paired (Clopper-Pearson)``, ``paired bootstrap``, ``order statistics``."""


class Judged(Result):
    """One candidate's outcome over all rules."""

    candidate: str
    target_name: str = "default"
    outcome: Outcome
    rules: tuple[Rule, ...]
    drop: dict[str, float] = {}
    drop_interval: dict[str, tuple[float, float]] = {}
    class_drop: dict[str, dict[str, float]] = {}
    class_drop_interval: dict[str, dict[str, tuple[float, float]]] = {}
    agreement: float | None = None
    score_shift: float | None = None
    """Mean change of the confidence of detections or of the predicted class, candidate minus reference."""
    speedup: float | None = None
    """Latency of fp32 over this one's, on the same target; how it was measured says ``speedup_by``."""
    speedup_by: Literal["turns", "medians", ""] = ""
    """``turns``: both engines timed turn by turn, the median of the rounds' ratios; ``medians``: the ratio of the
    medians of two trials that were measured one after the other."""

    @property
    def speedup_words(self) -> str:
        """How the speed-up was measured, in words."""
        return {"turns": "timed turn by turn", "medians": "ratio of the medians", "": ""}[self.speedup_by]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it did not pass, rule by rule."""
        return tuple(rule.reason for rule in self.rules if rule.outcome != "pass")


class SearchAttempt(Result):
    """One plan that the search tried, in the order of trying."""

    candidate: str
    keep: tuple[str, ...] = ()
    groups_kept: int = 0
    where: Literal["target", "preview"] = "target"
    """``preview``: the target's graph, run in onnxruntime on the workstation; nothing was built."""
    outcome: Outcome
    accuracy: Outcome
    latency_ms: float | None = None
    drop: dict[str, float] = {}
    why: str = ""
    preview_db: float | None = None
    """Of a built plan: signal-to-noise of the target's outputs against the preview's, in dB, of the worst output."""


class Searched(Result):
    """What the search for the fastest mixed-precision engine found."""

    answer: Literal["mixed", "plain", "high-precision", "nothing"]
    chosen: str | None
    keep: tuple[str, ...] = ()
    sentence: str
    attempts: tuple[SearchAttempt, ...] = ()
    builds: int = 0
    """Engines that the search built, without those that were there before it."""
    saved_builds: int = 0
    """Plans that the preview on the workstation ruled out, so that the target built none of them."""
    ranking: Sensitivity
    """Groups of nodes by the damage of their quantization: what the plans were made from."""
    half: Searched | None = None
    """The search of FP16 that was made before this one, of INT8; None: none was, or this is it."""

    @property
    def own(self) -> tuple[str, ...]:
        """The candidates that this search, and that of FP16 before it, made: all but the plain ones."""
        found = [item for item in (self.half, self) if item is not None]
        return tuple(attempt.candidate for item in found for attempt in item.attempts[1:])


class Look(Result):
    """An undecided look at a model: by which images, with which trials."""

    model: str
    target: str
    images: str
    trials: tuple[str, ...]


class Looks(Result):
    """looks.json: the undecided looks of a run's folder, first to last."""

    schema_version: int = SCHEMA_VERSION
    looks: tuple[Look, ...] = ()


class Decision(Result):
    """The verdict for one target."""

    verdict: VerdictWord
    chosen: str | None
    target_name: str = "default"
    sentence: str
    judged: tuple[Judged, ...]
    earlier: int = 0
    """Undecided looks at this model that came before and are paid for."""
    remarks: tuple[str, ...] = ()
    """What the rules themselves leave open: no accuracy rule, wide limits."""


class StageRun(Result):
    """How a stage went in this run."""

    name: str
    seconds: float
    cached: bool
    folder: str = ""
    """Relative to result.json: what the stage left; empty in a bundle's evidence."""
    again: str = ""
    """Why the finished stage was made again: which of its files was not as the run had left it, how it had failed, or
    which rule asks for more than was measured."""


class LatencyMs(Result):
    """The quantiles that the gate read, in milliseconds."""

    p50: float
    p90: float
    p99: float
    clock: Literal["device", "wall"]
    batch: int


class TrialSummary(Result):
    """One trial as result.json tells it. ``folder`` (relative to result.json; empty in a bundle's evidence) holds the
    whole of it."""

    candidate: str
    precision: Precision
    keep: tuple[str, ...] = ()
    target_name: str = "default"
    engine: EngineName
    device: str
    folder: str
    graph: str = ""
    """The stage whose graph it was built from."""
    latency_ms: LatencyMs | None = None
    metrics: dict[str, float] = {}
    drop: dict[str, float] = {}
    audit: Audit | None = None
    engine_mib: float | None = None
    passed: bool
    outcome: Outcome
    reasons: tuple[str, ...] = ()


class Box(Result):
    """A detection or a labelled object. ``corners`` are x0, y0, x1, y1 in pixels of the original image."""

    corners: tuple[float, float, float, float]
    label: str
    score: float | None = None
    points: tuple[tuple[float, float], ...] = ()
    """Its keypoints, in the same pixels."""
    outline: tuple[tuple[float, float], ...] = ()
    """Its corners, where it stands at an angle."""


class Answer(Result):
    """What one engine said about one image."""

    text: str
    """In words: a class name, a count of boxes, a share of pixels."""
    score: float | None = None
    """Its confidence, 0..1."""
    boxes: tuple[Box, ...] = ()
    """Detections above the operating confidence."""
    mask: Artifact | None = None
    """PNG of the picture's size, 8 bit: class numbers modulo 256; 0: background, or none."""
    picture: Artifact | None = None
    """PNG or JPEG of the image that is the answer: the nearest one, for embeddings."""
    depth: Artifact | None = None
    """As ``measured`` of the image: the depth that was found."""
    error: Artifact | None = None
    """The same of the relative error of each pixel, from 0 (1) to 50 % and beyond (255)."""


Harm = Literal["worse", "better", "other", "both wrong"]


class ChangedImage(Result):
    """An image that a candidate answered otherwise than the reference, or that both answer wrongly."""

    name: str
    """How the data set calls it."""
    task: str = ""
    """The name of the task that it is shown for, where there are several."""
    label: str
    """The true answer in words; empty where there is none."""
    candidate: str
    """The candidate whose answers are compared with the reference's."""
    reference: Answer
    answer: Answer
    truth: tuple[Box, ...] = ()
    """Labelled boxes, for detection."""
    measured: Artifact | None = None
    """Depth as PNG of the picture's size, 8 bit: 1 near to 255 far, between the 2nd and the 98th percentile of what was
    measured; 0: nothing was."""
    change: float = 0.0
    """How much the answer moved; only the order matters."""
    harm: Harm = "other"
    """What the change means against the label; ``both wrong``: a mistake of the reference that the candidate shares."""
    size: tuple[int, int]
    """Width and height of the original image, in pixels."""
    picture: Artifact | None
    """PNG or JPEG, not larger than the report shows; None: the image could not be read again."""


class Changes(Result):
    """The images whose answers changed most on one target, harmful changes first, and the reference's own mistakes."""

    images: tuple[ChangedImage, ...]


class Baseline(Result):
    """PyTorch instead of an engine: the same model, shapes and device, timed by the same benchmark."""

    name: str
    """``eager``, ``compile``, ``cuda-graph-fp16``."""
    batch: int
    latency: Latency | None = None
    failed: str = ""
    """Why it was not measured."""


class Baselines(Result):
    """The PyTorch baselines of one target."""

    device: str
    torch: str
    """PyTorch's version."""
    rows: tuple[Baseline, ...]


class Lineage(Result):
    """What a run judged, and from what."""

    version: str = ""
    """``model.version`` of the config."""
    commit: str = ""
    """The git commit that the config's folder stands at; empty outside a repository."""
    changed: bool = False
    """Whether files of the folder differ from that commit."""
    digests: dict[str, str]
    """SHA-256 of the simplified graph, the weights, the calibration frames, the evaluation images and the config."""


class EarlierRun(Result):
    """An earlier run of the same model on one target, from the history: a point of the report's trend."""

    number: int
    """Of its entry in the history."""
    finished: str
    version: str
    commit: str
    target: str
    verdict: VerdictWord
    chosen: str | None
    figures: dict[str, float]
    """Of the candidate that shipped: ``top1``, ``latency_p50_ms``, ``engine_mib``; empty where nothing did."""


class EarlierRuns(Result):
    """earlier.json: the same model's earlier runs on a run's targets, from the history, the earliest first."""

    schema_version: int = SCHEMA_VERSION
    runs: tuple[EarlierRun, ...]


class RunResult(Result):
    """result.json: the whole of a run, for people, CI systems and ``edgeship gate``."""

    schema_version: int = SCHEMA_VERSION
    edgeship: str
    verdict: VerdictWord
    chosen: str | None
    """The candidate that ships; with several targets the first target's."""
    sentence: str
    reference: TrialSummary
    trials: tuple[TrialSummary, ...]
    decisions: tuple[Decision, ...]
    stages: tuple[StageRun, ...]
    environment: dict[str, Any]
    config: dict[str, Any]
    """The config as read, with every default filled in; paths below its folder are relative to it."""
    config_file: str
    """The name of the user's file."""
    config_text: str
    """Its text, as the run read it."""
    title: str
    """The model's name: ``model.name`` of the config, else its file or folder."""
    lineage: Lineage
    finished: str
    """When the verdict was reached: ISO 8601, UTC."""
    labels: str = ""
    """What the labels are, how many images have them and which do not; classes without an example."""
    warnings: tuple[str, ...] = ()
    """What looked wrong on a few labelled images, before anything long began."""
    search: dict[str, Searched] = {}
    """By target, where one was searched."""
    report: str = "report.html"
    bundles: dict[str, str] = {}
    """By target: the folder of the bundle that ships, relative to result.json."""
