"""What one stage tells the next: frozen values, JSON both ways.

Every number says what it is in its name: ``_ms``, ``_s``, ``_bytes``, ``_mib``, ``_db``. Paths are relative to the
folder that holds the JSON. Arrays (per-image records, latency samples) stand in ``.npz`` files beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeship.config import Benchmark as BenchmarkSettings
from edgeship.config import Dim, EngineName, Precision, Preprocess, Target
from edgeship.config import Evaluation as EvaluationSettings
from edgeship.errors import ArtifactError
from edgeship.files import sha256_file, write_text

SCHEMA_VERSION = 1
VerdictWord = Literal["SHIP", "NO-SHIP", "INCONCLUSIVE"]
Outcome = Literal["pass", "fail", "inconclusive"]


class Result(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")


R = TypeVar("R", bound=Result)


class Artifact(Result):
    """A file, by its path relative to the JSON that names it."""

    path: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path, folder: Path) -> Artifact:
        """Describe the file ``path`` below ``folder``."""
        return cls(path=path.relative_to(folder).as_posix(), sha256=sha256_file(path), size_bytes=path.stat().st_size)


class TensorInfo(Result):
    """A tensor as the artifact names it. A string in ``shape`` is a dynamic axis; ``dtype`` is numpy's name."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str


# --- prepare -------------------------------------------------------------------------------------------------


class Exported(Result):
    """An ONNX file made from the user's model, or the user's own ONNX file copied."""

    model: Artifact
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    nodes: int
    source: str
    exporter: str
    parameters: int
    renamed: dict[str, str] = {}
    """Input or output names the user wrote → names the exporter gave."""
    notes: tuple[str, ...] = ()


class Slimmed(Result):
    """The checked and simplified graph."""

    model: Artifact
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    nodes_before: int
    nodes_after: int
    operators: dict[str, int] = {}
    max_difference: float | None = None


class Problem(Result):
    """One thing a parser or a check objects to."""

    level: Literal["error", "warning", "note"]
    node: str = ""
    operator: str = ""
    reason: str
    place: str = ""
    """Line or module of the user's model, from the exporter's metadata."""
    remedies: tuple[str, ...] = ()


class Preflight(Result):
    """What TensorRT's parser will say, before anything is built."""

    parser: str | None
    """Name and version of the parser that was asked; None: no TensorRT of any kind is installed here."""
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that stop a build."""
        return tuple(problem for problem in self.problems if problem.level == "error")


class OutputDifference(Result):
    """PyTorch against ONNX for one output over all parity inputs."""

    name: str
    max_abs: float
    mean_abs: float
    max_rel: float
    passed: bool


class Divergence(Result):
    """The first operator, in execution order, whose output differs beyond tolerance."""

    node: str
    operator: str
    tensor: str
    place: str
    max_abs: float


class Parity(Result):
    """PyTorch against ONNX."""

    passed: bool
    rtol: float
    atol: float
    outputs: tuple[OutputDifference, ...]
    random_inputs: int
    real_images: int
    device: str = "cpu"
    tf32: bool = False
    divergence: Divergence | None = None


class TensorRange(Result):
    """What calibration learned of one tensor. ``amax`` by method: the symmetric threshold."""

    low: float
    high: float
    amax: dict[str, float]
    bounds: dict[str, tuple[float, float]] = {}
    """By method: (low, high) for asymmetric uint8."""
    moved: float | None = None
    """Relative change of the chosen threshold over the last quarter of the frames (whole batches). None: too few
    batches to tell."""
    clipped: float | None = None
    """Share of this tensor's values beyond the chosen threshold on evaluation frames."""


class MethodScore(Result):
    """One calibration method compared with the reference; ``Calibrated.held_out`` says on which frames."""

    method: str
    snr_db: float
    agreement: float | None = None


class Calibrated(Result):
    """One calibration for every engine."""

    cache: Artifact
    ranges: Artifact
    """JSON: tensor name → TensorRange."""
    method: str
    methods: tuple[MethodScore, ...] = ()
    held_out: int | None = None
    """Frames held out to compare the methods on (the first 64 are). 0: none could be, and the methods were compared on
    the frames that made the thresholds. None: not compared, or written before edgeship noted it."""
    frames: int
    frames_sha256: str
    graph_sha256: str
    preprocess_sha256: str
    tensors: int
    moved_p95: float | None = None
    """95th percentile of ``TensorRange.moved``."""
    moving: tuple[str, ...] = ()
    clipping: tuple[str, ...] = ()
    overlap: tuple[str, ...] = ()
    """Calibration frames that also stand in the evaluation set, by file name."""
    unchecked: tuple[str, ...] = ()
    """What was not checked on evaluation frames, and why."""
    advice: str = ""
    trusted_cache: bool = False


class LayerNoise(Result):
    """Signal-to-noise of one layer's output against the reference, on real frames."""

    node: str
    operator: str
    snr_db: float


class SensitiveGroup(Result):
    """Nodes that are quantized or kept together: a convolution or matrix product with its activation."""

    nodes: tuple[str, ...]
    """Node names of the model, in execution order, as ``quantize --keep`` takes them."""
    operator: str
    snr_db: float
    """Of the worst output, on real frames, with only this group quantized: low is harmful."""
    patterns: tuple[Literal["first", "last", "depthwise"], ...] = ()


class Sensitivity(Result):
    """Groups of nodes by the damage their quantization does to the outputs, worst first."""

    style: Literal["tensorrt", "onnxruntime"]
    groups: tuple[SensitiveGroup, ...]
    frames: int
    seconds: float
    plain_db: float
    """Signal-to-noise of the worst output with every group quantized."""
    curve: tuple[tuple[int, float], ...] = ()
    """(groups kept from the top of the ranking, signal-to-noise of the worst output)."""


class Quantized(Result):
    """A candidate's ONNX."""

    model: Artifact
    precision: Precision
    style: Literal["tensorrt", "onnxruntime", "plain"]
    kept: tuple[str, ...] = ()
    """Nodes left in high precision on request."""
    left: tuple[str, ...] = ()
    """Nodes that the converter left in FP32 by its own judgement (AutoCast)."""
    quantized_nodes: int = 0
    noise: tuple[LayerNoise, ...] = ()
    output_snr_db: dict[str, float] = {}


# --- try -----------------------------------------------------------------------------------------------------


class Candidate(Result):
    """A precision plan for one model."""

    name: str
    precision: Precision
    keep: tuple[str, ...] = ()


class TrialSpec(Result):
    """The directory that goes in: everything a target needs to try one candidate."""

    schema_version: int = SCHEMA_VERSION
    candidate: Candidate
    target_name: str = "default"
    target: Target
    model: Artifact
    cache: Artifact | None = None
    frames: Artifact | None = None
    """.npz of a few preprocessed real frames, one array per input: feeds of the benchmark and known input."""
    benchmark: BenchmarkSettings | None
    """None: latency is not measured."""
    evaluation: EvaluationSettings | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    rebuild: int = 0
    """Number of this build, when the same candidate is built several times."""


class Identity(Result):
    """What an engine is bound to."""

    engine: EngineName
    version: str
    device: str
    """The device's own name: ``NVIDIA H200``, ``Intel(R) Xeon(R) …``."""
    compute_capability: str | None = None
    cuda: str | None = None
    driver: str | None = None
    platform: str = ""
    """``x86_64-linux``, ``aarch64-linux``."""
    version_compatible: bool = False
    """Later versions of TensorRT with the same first number load it too."""
    hardware_compatible: bool = False
    """It runs on every GPU of compute capability 8.0 and later."""
    portable: bool = False
    """The engine file is the candidate's own ONNX, not a graph laid out for one processor: any of ``platform`` fits."""


class Build(Result):
    """A built engine."""

    engine: Artifact
    identity: Identity
    seconds: float
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    profiles: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {}
    log: Artifact | None = None
    timing_cache: Artifact | None = None
    timing_cache_hit: bool | None = None
    peak_memory_mib: float | None = None
    command: str | None = None
    """The trtexec command line, when it built."""
    runnable: bool = True
    """False: built for a device that is not here."""
    reason: str = ""
    notes: tuple[str, ...] = ()


class AuditedLayer(Result):
    """A convolution or matrix product that is not in the asked-for precision."""

    name: str
    operator: str
    precision: str


class Audit(Result):
    """Asked-for precision against achieved precision, layer by layer."""

    source: Literal["engine", "network", "profile"]
    """Read from the engine inspector, from the parsed network, or from what the session really ran."""
    asked: Precision
    layers: dict[str, dict[str, int]]
    """Kind of layer → precision → count, for instance ``{"Conv": {"int8": 20, "fp32": 1}}``."""
    achieved: float | None
    """Share of convolutions and matrix products, outside the kept ones, in the asked-for precision; None where the
    model has some and the engine's report names none."""
    missed: tuple[AuditedLayer, ...] = ()
    kept: tuple[str, ...] = ()
    reformats: int | None = 0
    """None where only the network could be read: the builder adds them."""
    notes: tuple[str, ...] = ()
    hottest: tuple[tuple[str, float], ...] = ()
    """Operator kinds by share of the run time, where a profile gave it."""


class Quantiles(Result):
    """Milliseconds. ``interval`` is the 95 % confidence interval of the median (order statistics)."""

    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    samples: int
    interval: tuple[float, float]


class Conditions(Result):
    """Clocks and power around a measurement; None where nothing here can tell."""

    clock_mhz: tuple[float, ...] = ()
    memory_clock_mhz: tuple[float, ...] = ()
    temperature_c: tuple[float, ...] = ()
    power_w: tuple[float, ...] = ()
    throttle_reasons: tuple[str, ...] = ()
    power_mode: str | None = None
    source: str = ""
    """nvml, sysfs, or empty when nothing could be read."""
    changed: str = ""
    """Why the run cannot be trusted; empty when conditions held."""


class Latency(Result):
    """One engine at one batch. Device time and wall time are never mixed."""

    batch: int
    wall_ms: Quantiles
    device_ms: Quantiles | None = None
    upload_ms: Quantiles | None = None
    download_ms: Quantiles | None = None
    throughput: float
    """Images a second at this batch, from the wall median."""
    warmup_s: float
    seconds: float
    settled: bool
    """Whether the median was known to the asked-for precision before the time limit."""
    cuda_graph: bool = False
    """Whether the timed calls really replayed a CUDA graph."""
    no_graph: str = ""
    """Why they did not, where one was asked for."""
    samples: Artifact | None = None
    """.npz with ``wall_ms`` and, where measured, ``device_ms``: float64, one per call, in order."""
    conditions: Conditions = Conditions()
    load_s: float | None = None
    peak_memory_mib: float | None = None
    source: str = "runner"
    """runner, or trtexec."""


class Evaluated(Result):
    """Task metrics of one engine over the evaluation images."""

    task: str
    images: int
    images_sha256: str
    """Hash of the identities of the images, in order: only equal ones may be paired."""
    metrics: dict[str, float]
    """``top1``, ``map_small``, ``miou``: higher is better."""
    per_class: dict[str, dict[str, float]] = {}
    """Metric → class name → value: ``{"recall": {"pedestrian": 0.93}}``. Classes with no examples are absent."""
    examples: dict[str, int] = {}
    """Class name → labelled examples."""
    records: Artifact | None = None
    """.npz of per-image records, as the task's metrics module writes them."""
    seconds: float
    images_per_s: float
    skipped: tuple[str, ...] = ()
    """Corrupt images that the config allowed."""
    notes: tuple[str, ...] = ()


class Failure(Result):
    """Why a stage or a trial ended early. It fails the candidate, not the run."""

    stage: str
    kind: str
    message: str


class Trial(Result):
    """The directory that comes out: one candidate on one target."""

    schema_version: int = SCHEMA_VERSION
    candidate: Candidate
    target_name: str = "default"
    engine: EngineName
    device: str
    rebuild: int = 0
    build: Build | None = None
    audit: Audit | None = None
    latency: Latency | None = None
    evaluation: Evaluated | None = None
    outputs: Artifact | None = None
    """.npz of the outputs for ``TrialSpec.frames``: the known answer."""
    failure: Failure | None = None
    seconds: float = 0.0
    environment: dict[str, Any] = {}


# --- decide --------------------------------------------------------------------------------------------------


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
    """Reference-precision latency over this one's, on the same target."""

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
    """``preview``: the target's Q/DQ graph, run in onnxruntime on the workstation; nothing was built."""
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


class Decision(Result):
    """The verdict for one target."""

    verdict: VerdictWord
    chosen: str | None
    target_name: str = "default"
    sentence: str
    judged: tuple[Judged, ...]


class StageRun(Result):
    """How a stage went in this run."""

    name: str
    seconds: float
    cached: bool


class LatencyMs(Result):
    """The quantiles that the gate read, in milliseconds."""

    p50: float
    p90: float
    p99: float
    clock: Literal["device", "wall"]
    batch: int


class TrialSummary(Result):
    """One trial as result.json tells it. ``folder`` (relative to result.json) holds the whole of it."""

    candidate: str
    precision: Precision
    keep: tuple[str, ...] = ()
    target_name: str = "default"
    engine: EngineName
    device: str
    folder: str
    latency_ms: LatencyMs | None = None
    metrics: dict[str, float] = {}
    drop: dict[str, float] = {}
    audit: Audit | None = None
    engine_mib: float | None = None
    passed: bool
    outcome: Outcome
    reasons: tuple[str, ...] = ()


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
    notes: tuple[str, ...] = ()
    search: dict[str, Any] = {}
    report: str = "report.html"
    bundle: str | None = None


def write(result: Result, path: Path) -> None:
    """Write a result as JSON, atomically."""
    write_text(path, result.model_dump_json(indent=2) + "\n")


def read(kind: type[R], path: Path) -> R:
    """Read a result.

    Raises:
        ArtifactError: Absent, malformed, or of another schema version.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", expected=f"a {kind.__name__} result in JSON") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not text: {error}", expected=f"a {kind.__name__} result in JSON") from None
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ArtifactError(
            f"{path} is not a {kind.__name__} result: {where}: {first['msg']}",
            expected=f"schema version {SCHEMA_VERSION}",
            do="run the stage that writes it again with this version of edgeship",
        ) from None
