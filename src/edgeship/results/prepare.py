"""What ``prepare`` tells: graphs, what a parser says, parity, calibration, sensitivity."""

from __future__ import annotations

from typing import Literal

from edgeship.config import Precision
from edgeship.results.base import Artifact, Result, TensorInfo


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
    structure: str = ""
    """SHA-256 of the graph without the values of its weights: the same for other weights of the same network."""
    max_difference: float | None = None
    """Of any output against the graph before. None: the graph goes on as it is, and ``notes`` says why."""
    notes: tuple[str, ...] = ()


class Looked(Result):
    """The reference on a few labelled images, before anything long begins."""

    images: int = 0
    """Labelled images of the evaluation."""
    labels: str = ""
    """What the labels are, how many images have them and which do not; classes without an example."""
    frames: int = 0
    """Calibration frames that the config asks for and finds."""
    examples: dict[str, int] = {}
    """Class → labelled examples of the whole set, where the labels tell without opening the images."""
    judged: int = 0
    """Images that the reference was measured on."""
    metrics: dict[str, float] = {}
    """Of the reference on the images judged."""
    answers: dict[str, str] = {}
    """Image → what the reference says about it, for a few of them."""
    low: float | None = None
    """Smallest value of the network's input on the frames shown; ``high`` is the largest."""
    high: float | None = None
    warnings: tuple[str, ...] = ()
    picture: Artifact | None = None
    """A frame as the network sees it, its labels drawn."""


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


class PlacementScore(Result):
    """One placement of Q/DQ pairs compared with the reference, on the frames of the methods."""

    placement: Literal["default", "products", "residual-float"]
    snr_db: float
    products: int
    """Products in INT8."""
    agreement: float | None = None
    ms: float | None = None
    """Median time of one batch in onnxruntime on this machine's processor; None: not timed (TensorRT, or no placement
    was near enough to be taken in place of the default)."""
    slower: bool | None = None
    """Whether the rounds, timed in turns, say that it takes over 5 % longer than the default; None: not timed."""


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
    placement: Literal["default", "products", "residual-float"] = "default"
    """Where Q/DQ pairs are placed for the kind of engine that the methods were compared for."""
    placements: tuple[PlacementScore, ...] = ()
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


class TrainedPoint(Result):
    """The state of a training after ``step`` steps."""

    step: int
    loss: float | None
    """Mean training loss since the point before; None: nothing was trained yet."""
    held_out: float
    """Mean loss on the held-out batches, quantized."""


class Trained(Result):
    """What quantization-aware training made of the model."""

    model: Artifact
    """The trained weights, exported and simplified by the normal path."""
    weights: Artifact
    """The state dict as safetensors: ``model.weights`` takes it."""
    cache: Artifact
    """The learned ranges beside those of calibration."""
    ranges: Artifact
    how: str
    """What was trained on which data, in a few words."""
    style: Literal["tensorrt", "onnxruntime"]
    """The kind of engine whose rounding was trained for."""
    steps: int
    best_step: int
    """0: no trained state was better than calibration alone."""
    judged_on: str
    """What ``held_out`` is measured on."""
    held_out_before: float
    """Of calibrated INT8, before the first step."""
    held_out_after: float
    """Of the best state."""
    curve: tuple[TrainedPoint, ...] = ()
    rounded: int
    """Activations that the deployed graph rounds and that were rounded in training too."""
    weighted: int
    """Convolutions and matrix products whose weights were rounded in training."""
    not_rounded: tuple[str, ...] = ()
    """What the deployed graph rounds and the training did not."""
    deployed_snr_db: float
    """Signal-to-noise of the worst output of the deployed graph against the model as it was trained, on real frames."""
    device: str
    """Of the first process."""
    processes: int = 1
    """How many trained together, each on a batch of its own in every step."""
    seconds: float
    resumed_at: int | None = None
    """The step from which a killed training went on."""
    notes: tuple[str, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether training made the quantized model better than calibration alone."""
        return self.best_step > 0


class Autotuned(Result):
    """What ModelOpt's autotune chose by measured latency."""

    keep: tuple[str, ...]
    """Products that the fastest placement leaves in float."""
    products: int
    """Convolutions, matrix products and recurrent layers of the model."""
    regions: int
    tried: int
    """Placements that were measured in the last call."""
    seconds: float
    """Of all calls."""
    baseline_ms: float
    """The FP32 graph without Q/DQ pairs, by ModelOpt's measurement, as :attr:`best_ms`."""
    best_ms: float
    finished: bool
    """False: the budget ended before all regions were tried."""


class Repaired(Result):
    """What the steps of a repair made of the FP32 graph, and whether its INT8 is nearer to FP32 than before."""

    model: Artifact
    """FP32, of the same inputs and outputs as the simplified graph."""
    cache: Artifact
    ranges: Artifact
    changed: dict[str, int]
    """Step → how many layers it changed, in the order of the steps."""
    style: Literal["tensorrt", "onnxruntime"]
    """The kind of engine whose rounding was repaired."""
    frames: int
    """Real frames that the steps looked at."""
    held_out: int
    """Other frames, on which INT8 before and after was compared with FP32. 0: too few; the same served."""
    before_db: float
    """Signal-to-noise of the worst output of plain INT8; of an output that joins tensors, of its worst part."""
    after_db: float
    """The same of the repaired."""
    agreement_before: float | None = None
    agreement_after: float | None = None
    float_db: float
    """Of the repaired graph in FP32, without any rounding."""
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether the repaired INT8 is nearer to FP32."""
        return self.after_db >= self.before_db + 0.1


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

    style: Literal["tensorrt", "onnxruntime", "fp16"]
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
    placement: Literal["default", "products", "residual-float"] = "default"
    """Which operators have Q/DQ pairs: all that the engine runs in 8 bits, products alone, or all but residual sums."""
    reduced_range: bool = False
    """Weights of 7 bits, whose products with uint8 saturate on no processor."""
    kept: tuple[str, ...] = ()
    """Nodes left in high precision on request."""
    left: tuple[str, ...] = ()
    """Nodes that the converter left in FP32 by its own judgement (AutoCast)."""
    rescue: tuple[str, ...] = ()
    """Of FP16 below 30 dB: the nodes with which in FP32 every output reaches that, where they were found."""
    quantized_nodes: int = 0
    products: int = 0
    """Convolutions, matrix products and recurrent layers of the model."""
    in_float: dict[str, str] = {}
    """Products that stay in float, by node name: why."""
    noise: tuple[LayerNoise, ...] = ()
    output_snr_db: dict[str, float] = {}
    """Signal-to-noise of each output against FP32 on real frames, in exact arithmetic."""
    noisy: tuple[str, ...] = ()
    """Outputs below 10 dB that were allowed by name."""
    notes: tuple[str, ...] = ()
    """What a comparison of the outputs could not tell, and what was left out of it."""
