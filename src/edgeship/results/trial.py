"""What a trial is told and tells: the directory that goes in, and the one that comes out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from edgeship.config import Arithmetic, ClockSetting, EngineName, Precision, Preprocess, Target
from edgeship.config import Benchmark as BenchmarkSettings
from edgeship.config import Evaluation as EvaluationSettings
from edgeship.results.base import SCHEMA_VERSION, Artifact, Result, TensorInfo


class Candidate(Result):
    """A precision plan for one model."""

    name: str
    precision: Precision
    keep: tuple[str, ...] = ()
    trained: bool = False
    """Its weights and ranges come from quantization-aware training."""
    repair: tuple[str, ...] = ()
    """The steps that repaired its weights and ranges, in their order."""
    reduced_range: bool = False
    """INT8 on onnxruntime's CPU with weights of 7 bits, which need no exact arithmetic where kernels saturate."""


class Budget(Result):
    """What of a frame's cost is measured besides latency, because a rule asks for it."""

    frame: bool = False
    fps: float | None = None
    starts: bool = False
    energy: bool = False


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
    gated: tuple[float, ...] = (0.5,)
    """The quantiles of latency that a rule reads: each is measured until it is known."""
    budget: Budget = Budget()
    evaluation: EvaluationSettings | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    rebuild: int = 0
    """Number of this build, when the same candidate is built several times."""

    def without_rules(self) -> dict[str, Any]:
        """The spec as JSON values without what only the rules ask to be measured: what built the engine, ran it and
        evaluated it stays the same under other rules."""
        return self.model_dump(mode="json", exclude={"gated", "budget"})

    def unanswered(self, trial: Trial) -> str:
        """What the rules ask of a trial and it does not tell, in words; empty where it tells all that it can."""
        if trial.failure is not None or trial.build is None or not trial.build.runnable:
            return ""
        found = []
        if trial.latency is not None and (more := sorted(set(self.gated).difference(trial.latency.answers))):
            levels = " and ".join(f"p{level * 100:g}" for level in more)
            found.append(f"{levels} of latency, which {trial.latency.wall_ms.samples} calls do not bound")
        if self.budget.frame and self.evaluation is not None and self.preprocess is not None:
            if trial.frame is None:
                found.append("whole frames")
            elif self.budget.fps not in (None, trial.frame.fps):
                found.append(f"frames at {self.budget.fps:g} a second")
        found += ["starts"] if self.budget.starts and trial.starts is None else []
        found += ["energy"] if self.budget.energy and trial.energy is None else []
        return f"a rule asks for what was not measured: {', '.join(found)}; all else is reused" if found else ""


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
    """The engine file is the candidate's own ONNX, not a graph laid out for one processor: any of ``platform`` fits
    that has the same instruction sets or more."""
    instruction_sets: tuple[str, ...] = ()
    """The processor's, by the kernel's names for them (``avx2``, ``avx512_vnni``), where the CPU infers."""
    arithmetic: Arithmetic | None = None
    """How INT8 products are computed on a CPU; None for other devices."""


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


class EngineLayer(Result):
    """One layer of a built engine: what it computes, in what, from which nodes, for how long."""

    name: str
    """As the engine calls it."""
    kind: str
    """The ONNX operator of a convolution or matrix product, else the engine's own word."""
    precision: str
    """``int8``, ``fp16``, ``fp32``: the type it computes in; of a reformat the type that it reads."""
    output: str = ""
    """The type of its first output; empty where the engine does not tell it."""
    role: Literal["product", "quantize", "reformat", "other"] = "other"
    """``product``: a convolution or matrix product; ``quantize``: it quantizes or dequantizes; ``reformat``: it only
    changes type or layout, or copies."""
    nodes: tuple[str, ...] = ()
    """The ONNX nodes that it fuses, as far as the engine names them."""
    detail: str = ""
    """Of a product, what it does: ``3×3, 64 maps, stride 2``."""
    ms: float | None = None
    """Its own time in one inference, as the profiler saw it."""


class EngineLayers(Result):
    """The layers of one engine in the order they run."""

    title: str
    source: str
    """Where they were read from: ``onnxruntime's profile``, ``TensorRT's inspector``, ``trtexec's exports``."""
    layers: tuple[EngineLayer, ...]
    whole_ms: float | None = None
    """Median time of one inference without a profiler, where it was measured."""


class Audit(Result):
    """Asked-for precision against achieved precision, layer by layer."""

    source: Literal["engine", "network", "profile"]
    """Read from the engine inspector, from the parsed network, or from what the session really ran."""
    asked: Precision
    layers: dict[str, dict[str, int]]
    """Kind of layer → precision → count, for instance ``{"Conv": {"int8": 20, "fp32": 1}}``."""
    achieved: float | None
    """Share of the arithmetic (multiply-accumulates of convolutions and matrix products) in the asked-for precision,
    outside the kept ones; None where nothing was judged: everything is kept, or the engine's report names none."""
    arithmetic: float | None = None
    """The same of all convolutions and matrix products, kept ones included: "INT8 does 43 % of the arithmetic"."""
    kept_share: float | None = None
    """Share of the arithmetic that is kept in high precision on request."""
    weighed_by: Literal["multiply-accumulates", "count"] = "multiply-accumulates"
    """``count`` where the engine does not tell the shapes of every product: each counts as one."""
    missed: tuple[AuditedLayer, ...] = ()
    kept: tuple[str, ...] = ()
    reformats: int | None = 0
    """None where only the network could be read: the builder adds them."""
    notes: tuple[str, ...] = ()
    hottest: tuple[tuple[str, float], ...] = ()
    """Operator kinds by share of the run time, where a profile gave it."""
    order: tuple[EngineLayer, ...] = ()
    """Every layer in the order it runs, where the engine could be read. In trial.json; result.json leaves it out."""


class ConsistencyCheck(Result):
    """One comparison of two ways to run the same rows; the output that differs most."""

    kind: str
    """``repeat``, ``equal rows``, ``other neighbours``, ``permuted rows`` or ``batches``."""
    what: str
    """In words: ``batch 1 against batch 8``."""
    output: str
    passed: bool
    db: float | None = None
    """Signal-to-noise of the row that differs most, for float outputs; 200: equal."""
    equal: float | None = None
    """Share of equal elements, for integer outputs."""
    said: str = ""


class Consistency(Result):
    """Whether an engine's answers depend on batch, neighbours or repeats."""

    checks: tuple[ConsistencyCheck, ...]
    min_db: float
    """The tolerance, which follows the precision."""
    min_equal: float
    notes: tuple[str, ...] = ()


class Quantiles(Result):
    """Milliseconds. ``interval`` is the 95 % confidence interval of the median (order statistics)."""

    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    samples: int
    interval: tuple[float, float]


class MachineLoad(Result):
    """What else the machine did during a measurement; None where the system does not tell."""

    cpu_share: float | None = None
    """CPU time of the measuring process over wall time: about its threads, less where it had to wait."""
    others_cores: float | None = None
    """Cores that other processes used, on average, of those that this one may use."""
    steal_share: float | None = None
    """Share of the processor's time that the hypervisor gave to other machines."""
    involuntary_switches: int | None = None
    """How often the process was interrupted for another one."""
    throttled: int | None = None
    """How often a container's CPU quota stopped it."""
    load: float | None = None
    """Processes that wanted to run, averaged over the last minute."""
    busy: str = ""
    """Why times may be longer than on a quiet machine; empty when nothing disturbed them."""


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
    machine: MachineLoad = MachineLoad()


Clock = Literal["device", "wall"]


class Timed(NamedTuple):
    """Quantiles and the clock that measured them."""

    clock: Clock
    quantiles: Quantiles


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
    """Whether the gated quantiles were known to the asked-for precision before the time limit."""
    unsettled: str = ""
    """Why they were not: too few calls within the time, or too much spread."""
    answers: tuple[float, ...] = (0.5,)
    """The quantiles that a rule may read: those that one read when it was measured, and those that the calls bound
    anyway."""
    soak_s: float = 0.0
    """How long the load was held before the calls that count."""
    drift: float = 0.0
    """How the calls that count move from the first to the last, as a share of their median: a slope (Theil-Sen over
    blocks), or a step."""
    drift_sure: bool = False
    """Whether the slope differs from zero at 99 % (Mann-Kendall over blocks) and exceeds the asked-for precision."""
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

    def timed(self, clock: ClockSetting = "auto") -> Timed | None:
        """The times by the clock that is asked for; ``auto``: the device's where it was read, else wall time.

        None where device time is asked for and was not measured.
        """
        if clock == "wall" or (clock == "auto" and self.device_ms is None):
            return Timed("wall", self.wall_ms)
        return None if self.device_ms is None else Timed("device", self.device_ms)


def common_clock(latencies: Iterable[Latency | None], setting: ClockSetting = "auto") -> Clock:
    """The one clock that several engines are compared by: as set, else the device's where all of them have it."""
    if setting != "auto":
        return setting
    clocks = {timed.clock for latency in latencies if latency is not None and (timed := latency.timed())}
    return "device" if clocks == {"device"} else "wall"


class FrameTimes(Result):
    """Whole frames as the runtime does them, wall time."""

    batch: int
    """Images of a frame: the cameras of one instant."""
    pictures: int
    """Different images that took turns."""
    from_files: bool
    """Whether they were encoded files, whose decoding counts, or arrays."""
    parts_ms: dict[str, Quantiles]
    """``image`` (decode the file), ``preprocess``, ``infer``, ``postprocess``."""
    total_ms: Quantiles
    unsettled: str = ""
    """Why the quantiles are not known to the asked-for precision; empty when they are."""
    fps: float | None = None
    """The rate of the paced run; None: there was none."""
    paced: int = 0
    missed: int = 0
    """Frames of the paced run, and those that were not done before the next one came."""
    machine: MachineLoad = MachineLoad()
    samples: Artifact | None = None
    """.npz: ``image_ms``, ``preprocess_ms``, ``infer_ms``, ``postprocess_ms``, ``total_ms``, ``paced_ms``."""


class Starts(Result):
    """From nothing to the first answer in fresh processes, milliseconds."""

    cold_ms: tuple[float, ...]
    warm_ms: tuple[float, ...]
    dropped: bool = True
    """Whether the engine's file was dropped from the system's cache before a cold start."""


class Energy(Result):
    """Energy and power by blocks of rest and load."""

    source: str
    """``NVML's energy counter``, ``INA3221 sensors``, ``RAPL package counters``."""
    mj_per_frame: tuple[float, ...]
    """Of each block, above the rest before it."""
    power_w: tuple[float, ...]
    """Of each block under load, rest included."""
    rest_w: tuple[float, ...]
    frames: int
    batch: int
    power_mode: str | None = None


class Turns(Result):
    """Engines timed turn by turn; tuples are in the order of ``names``."""

    names: tuple[str, ...]
    median_ms: tuple[float, ...]
    """Over the rounds."""
    fastest: str
    ratio: tuple[float, ...]
    """Time over the fastest one's: the median of the rounds' ratios."""
    ratio_low: tuple[float, ...]
    ratio_high: tuple[float, ...]
    """Interval of the ratio, by resampling whole rounds: equal engines are told apart in at most 5 % of comparisons."""
    rounds_ms: tuple[tuple[float, ...], ...]
    """[rounds, engines]: medians of each engine's two blocks of a round."""
    clock: Clock = "wall"
    machine: MachineLoad = MachineLoad()
    seconds: float = 0.0

    def median_of(self, name: str) -> float | None:
        """An engine's median in milliseconds; None where it took no turn."""
        return self.median_ms[self.names.index(name)] if name in self.names else None


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
    labels: str = ""
    """What the labels are, how many images have them and which do not; classes without an example."""
    notes: tuple[str, ...] = ()


class CheckResult(Result):
    """One assumption about an engine, tried on a device."""

    name: str
    outcome: Literal["passed", "failed", "not here"]
    said: str
    seconds: float
    distrust: str = ""
    """What not to rely on; empty where it did not fail."""


class SelfTest(Result):
    """What ``edgeship selftest`` found. Holds no host, path or user."""

    schema_version: int = SCHEMA_VERSION
    engine: EngineName
    version: str
    device: str
    edgeship: str
    checks: tuple[CheckResult, ...]


class Failure(Result):
    """Why a stage or a trial ended early. It fails the candidate, not the run."""

    stage: str
    kind: str
    message: str
    rescue: tuple[str, ...] = ()
    """Of FP16: nodes with which in FP32 the graph answers as it should, where they were found."""


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
    consistency: Consistency | None = None
    latency: Latency | None = None
    frame: FrameTimes | None = None
    starts: Starts | None = None
    energy: Energy | None = None
    evaluation: Evaluated | None = None
    outputs: Artifact | None = None
    """.npz of the outputs for ``TrialSpec.frames``: the known answer."""
    failure: Failure | None = None
    seconds: float = 0.0
    environment: dict[str, Any] = {}
