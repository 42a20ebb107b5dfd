"""edgeship.toml → checked, frozen models. Loads no torch, no onnx and no engine.

Every problem of a file is reported at once, with the nearest valid key for a misspelled one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from edgeship.config_inputs import Count as Count
from edgeship.config_inputs import Fraction as Fraction
from edgeship.config_inputs import FrameStreams as FrameStreams
from edgeship.config_inputs import Input as Input
from edgeship.config_inputs import Memory as Memory
from edgeship.config_inputs import Positive as Positive
from edgeship.config_inputs import Preprocess as Preprocess
from edgeship.config_inputs import RawFrames as RawFrames
from edgeship.config_inputs import Section as Section
from edgeship.config_qat import Qat as Qat
from edgeship.config_records import History as History
from edgeship.config_records import Track as Track
from edgeship.config_values import Device, Released, Repair, TargetDevice

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-fp16", "int8-fp32", "fp8", "implicit", "as-given"]
"""What a candidate is asked to compute in. ``int8`` means INT8 with the engine's usual companion: FP16 for
TensorRT, FP32 for onnxruntime and OpenVINO. ``bf16`` is OpenVINO's, on processors that have it. ``implicit`` is
TensorRT 10's implicit quantization from a calibration cache."""
Arithmetic = Literal["exact", "reduced-range"]
"""How a CPU multiplies INT8 where its uint8 × int8 kernels saturate (x86 without VNNI): ``exact`` widens the products
(uint8 × uint8), ``reduced-range`` keeps the weights within 7 bits so that nothing saturates. Elsewhere both are what
the kernels do anyway."""
EngineName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""The name of an engine: a built-in one, or one that an installed package offers."""
BUILT_IN_ENGINES: tuple[EngineName, ...] = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "onnxruntime-rtx")
TENSORRT_ENGINES: tuple[EngineName, ...] = ("tensorrt", "tensorrt-rtx")
Method = Literal["auto", "entropy", "minmax", "percentile", "mse"]
TorchBaseline = Literal[
    "eager", "channels-last", "compile", "eager-fp16", "channels-last-fp16", "compile-fp16", "cuda-graph-fp16"
]
"""A way to run the model in PyTorch. The fp16 ones also set channels_last, except ``eager-fp16``."""
CPU_BASELINES: tuple[TorchBaseline, ...] = ("eager", "channels-last", "compile")
CUDA_BASELINES: tuple[TorchBaseline, ...] = (
    "eager", "compile", "eager-fp16", "channels-last-fp16", "compile-fp16", "cuda-graph-fp16",
)  # fmt: skip
Calibrator = Literal["entropy", "minmax"]
"""TensorRT 10's own calibrators."""
ClockSetting = Literal["auto", "device", "wall"]
Dim = int | str
"""A fixed axis, or the name of a dynamic one."""


def is_tensorrt(engine: EngineName) -> bool:
    """Whether an engine is TensorRT or TensorRT-RTX by its own API."""
    return engine in TENSORRT_ENGINES


def takes_tensorrt_graphs(engine: EngineName) -> bool:
    """Whether an engine takes graphs of TensorRT's style, on a GPU; every other one takes onnxruntime's."""
    return is_tensorrt(engine) or engine == "onnxruntime-rtx"


def _known_engine(name: str, info: ValidationInfo) -> str:
    """Refuse a name that the context's ``engines()`` does not give; without a context any name may stand in a file."""
    if name in BUILT_IN_ENGINES or info.context is None:
        return name
    known = info.context["engines"]()
    if name not in known:
        *first, last = (repr(item) for item in known)
        raise PydanticCustomError("engine", "input should be {expected}", {"expected": f"{', '.join(first)} or {last}"})
    return name


LOW_CONFIDENCE = 0.8
"""A confidence below this must be accepted explicitly."""


class InputSpec(Section):
    """One input of the model as the user declares it."""

    shape: tuple[Dim, ...]
    dtype: Literal[
        "float32", "float16", "float64", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
        "bool",
    ] = "float32"  # fmt: skip
    low: float | None = None
    """Lower bound of the seeded random values of the parity stage (default: a normal distribution)."""
    high: float | None = None

    @field_validator("shape")
    @classmethod
    def _axes(cls, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        for axis in shape:
            if isinstance(axis, int) and axis < 1:
                raise ValueError(f"axis {axis} must be at least 1, or a name for a dynamic axis")
            if isinstance(axis, str) and not axis.isidentifier():
                raise ValueError(f"axis name {axis!r} must be an identifier such as 'batch'")
        return shape


class Model(Section):
    """Where the model comes from."""

    name: str = ""
    """What the model is called in reports and bundles. Default: its file's name, or its folder's."""
    version: str = ""
    """Its version, as the report's title and the history show it."""
    source: str
    """``module:callable`` that returns an ``nn.Module``, or a path to ``.onnx`` or ``.pt2``."""
    weights: Path | None = None
    """``.safetensors``, or a checkpoint that loads with ``weights_only=True``."""
    weights_key: str | None = None
    """The key under which a checkpoint holds its state dict, such as ``"model"`` or ``"ema.state_dict"``."""
    inputs: dict[str, InputSpec] = Field(default_factory=dict)
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the callable."""
    opset: Annotated[int, Field(ge=18)] = 18
    free_batch: bool = False
    """Where the graph declares a dynamic batch and Reshapes inside hold one size: let them keep the given batch."""


class Parity(Section):
    """PyTorch against ONNX."""

    rtol: Positive = 1e-3
    atol: Positive = 1e-3
    seeds: Count = 3
    images: Annotated[int, Field(ge=0)] = 4
    device: Device = "cpu"


class Calibration(Section):
    """Frames that set the INT8 ranges. They must come from the deployment camera."""

    images: Path | None = None
    npz: Path | None = None
    count: Count = 512
    method: Method = "auto"
    percentile: Annotated[float, Field(gt=50, lt=100)] = 99.99
    batch: Count = 8
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.125
    """Share of the frames held out to compare methods when ``method = "auto"``, as every n-th batch: 0.125 is every
    eighth. Afterwards they count too."""
    cache: Path | None = None
    trust_cache: bool = False
    """Accept a plain TensorRT cache that carries no proof of where it came from."""
    allow_corrupt: Annotated[int, Field(ge=0)] = 0
    seed: int = 0
    device: Device = "cpu"


class Quantization(Section):
    """What INT8 touches, for every INT8 candidate."""

    keep: tuple[str, ...] = ()
    """Node names or shell patterns that stay in high precision; ``op:Softmax`` names an operator kind."""
    per_channel: bool = True
    placement: Literal["auto", "default", "products", "residual-float"] = "auto"
    """Which operators get Q/DQ pairs: all that the engine runs in 8 bits, products alone, or all but the sums of
    residual branches. ``auto``: what calibration saw nearest to FP32 at no loss of time, for the first target's
    engine."""
    allow_noise: tuple[str, ...] = ()
    """Outputs that may fall below 10 dB signal-to-noise against FP32; any other makes the candidate fail."""


class Evaluation(Section):
    """What is measured, on which labelled images."""

    task: str = "classification"
    """classification | detection | instances | keypoints | rotated | segmentation | depth | text | embeddings |
    module:callable"""
    images: Path | None = None
    """A folder (of one folder per class, or of images), an ``.npz``, or ``module:callable``."""
    labels: Path | None = None
    """A file or folder of labels in any format of the page on labels, or the folder of masks. Default: what lies with
    the images."""
    label_classes: tuple[str, ...] | Path | None = None
    """The names that numbers in the labels stand for, where those are not positions in ``classes``. Default: the names
    of a YOLO ``data.yaml``, where one lies there."""
    classes: tuple[str, ...] | Path | None = None
    """Class names in the order of the model's outputs, or a text file with one name a line."""
    decoder: str | None = None
    """yolox | ultralytics | detr | nms | nms-image | ultralytics-seg | mask-rcnn | ultralytics-pose |
    ultralytics-obb | logits | classmap | map | ctc | vector | module:callable"""
    output: str | None = None
    """Which output carries the prediction, when the model has several."""
    ctc_blank: Literal["first", "last"] = "first"
    """Where CTC's blank stands among the symbols of a text recognizer; the others are ``classes``."""
    db_threshold: Fraction = 0.3
    """Probability from which a pixel is text, for the decoder ``db``."""
    db_unclip: Positive = 1.5
    """How far the boxes of the decoder ``db`` grow: their area by this, divided by their perimeter."""
    depth_scale: Positive = 256.0
    """Steps of a metre in depth maps of whole numbers: KITTI's 16-bit PNG have 256."""
    scores: Literal["auto", "logits", "probabilities"] = "auto"
    """What the outputs of a classifier, a segmentation network or a text detector hold. ``auto``: read once from the
    graph's end."""
    box_values: Literal["auto", "raw", "decoded"] = "auto"
    """What a YOLOX head gives: offsets and logarithms, or boxes in pixels. ``auto``: read once from the graph."""
    outputs: tuple[str, ...] = ()
    """Which outputs do, where a prediction needs more than one of them."""
    tasks: dict[str, Evaluation] = Field(default_factory=dict)
    """Several tasks of one model, each written as ``[evaluation.NAME]``: what it does not set is that of
    ``[evaluation]``."""
    score_threshold: Fraction = 0.001
    nms_iou: Fraction = 0.65
    max_detections: Count = 100
    operating_confidence: Fraction = 0.5
    """The score at which the vehicle acts: recall of critical classes and score shift are measured there."""
    ignore_index: int | None = None
    batch: Count | None = None
    """Images inferred at once, where the batch axis is dynamic. Default: the batch that is timed and shipped
    (``benchmark.batch``, else the profile's ``opt``), whose kernels are the ones that are measured; 8 where there is no
    profile."""
    limit: Count | None = None
    group: str | None = None
    """Which images are not independent: a regular expression whose first group (or whole match) in the image's path
    names its clip, or ``field:NAME``, a column of the table or a field of the JSON in ``labels``."""
    allow_corrupt: Annotated[int, Field(ge=0)] = 0
    allow_missing: Annotated[int, Field(ge=0)] = 0
    """How many images that the labels name may be absent."""
    kpt_shape: tuple[Count, Annotated[int, Field(ge=2, le=3)]] | None = None
    """Keypoints of an object and numbers of each in YOLO labels. Default: that of ``data.yaml``."""
    keypoint_sigmas: tuple[Positive, ...] | None = None
    """How far each keypoint may lie off, as COCO's OKS has it. Default: COCO's own for 17, else 1 / keypoints each, as
    Ultralytics has it."""
    workers: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_set_of_images(self) -> Evaluation:
        for name, item in self.tasks.items():
            if item.tasks or not name.isidentifier():
                raise ValueError(f"[evaluation.{name}] must be one task with a plain name, such as boxes")
            for key in ("images", "batch", "limit", "group", "allow_corrupt", "workers"):
                if getattr(item, key) != getattr(self, key):
                    raise ValueError(f"{name}.{key}: all tasks see the same images; set it in [evaluation]")
        if self.tasks:
            told = "+".join(f"{name}={item.task}" for name, item in self.tasks.items())
            object.__setattr__(self, "task", told)
        return self

    @field_validator("group")
    @classmethod
    def _expression(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression ({error})") from None
        return group


class Batch(Section):
    """The optimization profile of the dynamic batch axis."""

    min: Count = 1
    opt: Count = 1
    max: Count = 1

    @model_validator(mode="after")
    def _ordered(self) -> Batch:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"needs min <= opt <= max, found {self.min}, {self.opt}, {self.max}")
        return self


class ShapeRange(Section):
    """An explicit optimization profile for one input."""

    min: tuple[Count, ...]
    opt: tuple[Count, ...]
    max: tuple[Count, ...]


class Target(Section):
    """Where candidates are built and tried, and the builder's options there."""

    engine: Annotated[EngineName, AfterValidator(_known_engine)] = "onnxruntime"
    """``onnxruntime``, ``openvino``, ``tensorrt``, ``tensorrt-rtx``, ``onnxruntime-rtx``, or one that an installed
    package offers by an entry point in ``edgeship.engines``."""
    device: TargetDevice = "cpu"
    host: str | None = None
    """``user@name`` for trials over SSH; absent: this machine."""
    python: str = "python3"
    """The interpreter on the host that has edgeship's light install."""
    remote_dir: str = "edgeship-trials"
    batch: Batch = Batch()
    shapes: dict[str, ShapeRange] = Field(default_factory=dict)
    via: Literal["api", "trtexec"] = "api"
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of one inference (0: the engine's own choice)."""
    tune: bool = False
    """onnxruntime on the CPU: let each trial time threads (where they are 0), spinning, arenas and denormals turn by
    turn. The engine's file carries the choice that is surely faster than onnxruntime's own, if there is one."""
    workspace_mib: Count = 4096
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    timing_cache: Path | None = None
    tf32: bool = False
    dla_core: Annotated[int, Field(ge=0)] | None = None
    gpu_fallback: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    plugins: tuple[Path, ...] = ()
    compute_capability: tuple[str, ...] = ()
    """TensorRT-RTX: architectures to build ahead of time for, ``["8.6", "8.9"]``."""
    cuda_graph: bool = True
    nhwc: bool = True
    """onnxruntime on CUDA: prefer channels-last kernels."""

    @model_validator(mode="after")
    def _tuning_is_onnxruntimes(self) -> Target:
        if self.tune and (self.engine, self.device) != ("onnxruntime", "cpu"):
            raise ValueError(
                f'tune = true is for engine = "onnxruntime" on device = "cpu", found {self.engine!r} on {self.device!r}'
            )
        return self

    @model_validator(mode="after")
    def _trtexec_is_tensorrts(self) -> Target:
        if self.via == "trtexec" and self.engine != "tensorrt":
            raise ValueError(f'via = "trtexec" builds engine = "tensorrt", found {self.engine!r}')
        if self.via == "trtexec" and self.compute_capability:
            raise ValueError('via = "trtexec" builds for the GPU it runs on; compute_capability is TensorRT-RTX\'s')
        return self


class Candidates(Section):
    """The precision plans to try."""

    precisions: tuple[Precision, ...] = ("fp32", "int8")
    """fp32 | fp16 | bf16 | int8 | int8-fp16 | int8-fp32 | fp8 | implicit; or ``as-given`` alone, for a model that is
    quantized already."""
    search: bool = False
    """Look for the fastest mixed-precision engine that passes, and for the nodes that FP16 needs in FP32 where it loses
    too much. Without it a search begins only when INT8 loses too much and every more precise candidate is too slow."""
    max_trials: Count = 24
    keep: tuple[str, ...] = ()
    """Patterns for one more candidate: INT8 with these nodes kept in high precision."""
    repair: tuple[Repair, ...] = ()
    """One more INT8 candidate for each entry, with weights and ranges repaired: ``equalize``, ``smooth`` (attention),
    ``bias-correct``, ``adaround``, or several in their order, such as ``equalize+adaround``."""
    keep_fp32: tuple[str, ...] = ()
    """Patterns that the ``fp16`` candidate leaves in FP32, where values exceed FP16's range or resolution."""
    reduced_range: bool | None = None
    """Whether ``int8`` on onnxruntime's CPU is also tried with weights of 7 bits, as ``int8-reduced-range``: exact by
    itself where uint8 × int8 kernels saturate, so that the faster kernels may run. Default: where the target's
    processor saturates (AVX2 without VNNI)."""
    autotune_s: Positive | None = None
    """One more candidate on each target that is TensorRT 10 on this machine, ``int8-autotune``: ModelOpt places Q/DQ
    pairs by measured latency for at most so many seconds (a run that was stopped goes on), and what it leaves in float
    stays there. Default: not tried."""
    timeout_s: Positive | None = None
    """Longest time of one trial, from the start of its build to the end of its evaluation. A trial that takes longer
    is stopped and fails its candidate, not the run. Default: no limit."""


class Benchmark(Section):
    """How long latency is measured."""

    batch: Count | None = None
    """Default: the profile's opt."""
    warmup_s: Positive = 0.5
    min_s: Positive = 1.0
    max_s: Positive = 20.0
    min_samples: Count = 100
    precision: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Measure until the median is known this well (half width of its 95 % interval over its value). A rule for p90 or
    p99 raises the number of calls that it needs by itself."""
    soak_s: Annotated[float, Field(ge=0)] = 0.0
    """Hold the load so long before the calls that count: heat and power limits show after a minute or more."""
    baseline: tuple[TorchBaseline, ...] = ()
    """PyTorch beside the engines, on every target of this machine: the same shapes, timed by the same benchmark. On the
    CPU eager, channels-last and compile; on CUDA eager, compile and those with -fp16."""


class Gate(Section):
    """The rules of the verdict."""

    latency_p50_ms: Positive | None = None
    latency_p90_ms: Positive | None = None
    latency_p99_ms: Positive | None = None
    clock: ClockSetting = "auto"
    """Which time the latency rules read: device time where the engine gives it (auto), or as named."""
    speedup_over_fp32: Positive | None = None
    throughput_min: Positive | None = None
    """Images a second."""
    frame_p99_ms: Positive | None = None
    """The whole frame as the runtime does it, on real frames: decode the image, preprocess, infer, decode outputs."""
    fps: Positive | None = None
    """Frames come at this rate: 99 of 100 must be done before the next one comes."""
    load_ms: Positive | None = None
    """From a fresh process with the engine on the disk to its first answer."""
    energy_mj_per_frame: Positive | None = None
    """Millijoules of a frame above rest: NVML's counter, a Jetson's sensors, RAPL on x86."""
    power_w: Positive | None = None
    """Power under load, rest included."""
    min: dict[str, float] = Field(default_factory=dict)
    """What a metric must reach by itself, by its lower bound: ``{ top1 = 0.90 }``."""
    max: dict[str, float] = Field(default_factory=dict)
    """The same where less is better, by the upper bound: ``{ abs_rel = 0.1 }``."""
    critical_min: dict[str, Fraction] = Field(default_factory=dict)
    """The same for the metric of a critical class."""
    max_drop: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    critical: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    critical_metric: str = "auto"
    """The metric of the critical classes: recall, ap, iou or another that the task measures of a class."""
    baseline: Released | None = None
    """The release in the field: its bundle (a folder or a zip), an entry of the history that shipped (``history:12``,
    or ``history:12/orin`` for its target ``orin``), or ``last``, the last one of this model that shipped. ``max_drop``
    and ``critical`` hold against it too, on the images of its own evaluation."""
    min_agreement: Fraction | None = None
    max_engine_mib: Positive | None = None
    max_memory_mib: Positive | None = None
    min_achieved: Fraction = 0.8
    """Share of the arithmetic (multiply-accumulates of convolutions and matrix products outside the kept ones) that
    must really run in the asked-for precision."""
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """One-sided confidence of every bound; 0 turns the statistics off."""
    accept_low_confidence: bool = False
    """Needed for a confidence below 0.8, which the verdict then says."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    rebuilds: Count = 1

    def quantiles(self) -> tuple[float, ...]:
        """The quantiles of latency that a rule bounds, the median first."""
        tails = ((0.9, self.latency_p90_ms), (0.99, self.latency_p99_ms)) if self.confidence > 0 else ()
        return (0.5, *(level for level, limit in tails if limit is not None))


class Config(Section):
    """The whole of edgeship.toml. Paths are absolute after loading."""

    model: Model
    preprocess: Preprocess | None = None
    frames: FrameStreams = FrameStreams()
    parity: Parity = Parity()
    calibration: Calibration = Calibration()
    quantization: Quantization = Quantization()
    evaluation: Evaluation = Evaluation()
    target: Target = Target()
    targets: dict[str, Target] = Field(default_factory=dict)
    """Several named targets instead of ``[target]``."""
    candidates: Candidates = Candidates()
    qat: Qat | None = None
    """Train INT8 where calibration is not enough; absent: no training."""
    benchmark: Benchmark = Benchmark()
    gate: Gate = Gate()
    history: History = History()
    track: Track = Track()
    root: Path = Field(default=Path(), exclude=True)
    """The folder of the file: module sources are imported from here."""
    file: Path = Field(default=Path("edgeship.toml"), exclude=True)
    """The file itself."""

    @field_validator("targets")
    @classmethod
    def _plain_names(cls, targets: dict[str, Target]) -> dict[str, Target]:
        for name in targets:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"the target name {name!r} must be letters, digits, '_', '-' or '.', as in 'orin-1'")
        return targets

    @property
    def title(self) -> str:
        """What the model is called in reports, bundles and the history."""
        if self.model.name:
            return self.model.name
        source = self.model.source
        return (Path(source).stem if Path(source).suffix in (".onnx", ".pt2") else self.root.name) or "model"

    def all_targets(self) -> dict[str, Target]:
        """The targets by name; a single ``[target]`` is called ``default``."""
        return dict(self.targets) if self.targets else {"default": self.target}


def baselines_for(device: str) -> tuple[str, ...]:
    """The PyTorch baselines that a device can run."""
    return CUDA_BASELINES if device.startswith("cuda") else CPU_BASELINES
