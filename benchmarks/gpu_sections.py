"""The sections of benchmarks/gpu.py that time engines. Each takes a work folder and returns JSON-ready figures.

Times are medians in milliseconds unless a name says otherwise. ``device_ms`` is by CUDA events.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

SIZE = 224
BATCHES = (1, 8)
FRAMES = 512
SOURCE = '''
"""ResNet-50 with random weights and settled batch statistics: enough for time."""
import torch


def build():
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50(weights=None)
    with torch.no_grad():
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            model(torch.randn(8, 3, 224, 224, generator=generator))
    return model.eval()
'''


def settings() -> Any:
    """How long each figure is measured."""
    from edgeship.config import Benchmark

    return Benchmark(warmup_s=0.7, min_s=1.0, max_s=6.0, min_samples=200, precision=0.01)


def feeds_for(batch: int, dtype: str = "float32", name: str = "images") -> dict[str, np.ndarray]:
    """Seeded noise: fine for time."""
    random = np.random.default_rng(batch)
    return {name: random.standard_normal((batch, 3, SIZE, SIZE)).astype(dtype)}


def photographs() -> Iterator[np.ndarray]:
    """Crops of scikit-image's own photographs, uint8 [224, 224, 3]: real frames that are there without a download."""
    from skimage import data

    random = np.random.default_rng(0)
    pictures = []
    for name in ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "immunohistochemistry"):
        path = Path(data.__file__).parent / f"{name}.png"
        other = path.with_suffix(".jpg")
        if path.is_file() or other.is_file():
            from PIL import Image

            with Image.open(path if path.is_file() else other) as image:
                pictures.append(np.asarray(image.convert("RGB")))
    if not pictures:
        raise SystemExit("scikit-image brings none of the photographs here")
    while True:
        picture = pictures[random.integers(len(pictures))]
        top, left = (int(random.integers(0, max(side - SIZE, 0) + 1)) for side in picture.shape[:2])
        yield picture[top : top + SIZE, left : left + SIZE]


def frames() -> Iterator[np.ndarray]:
    """The photographs preprocessed: float32 [1, 3, 224, 224]."""
    for crop in photographs():
        if crop.shape[:2] == (SIZE, SIZE):
            yield np.ascontiguousarray(((crop.astype(np.float32) - 117.0) / 58.0).transpose(2, 0, 1)[None])


def latency_row(latency: Any) -> dict[str, Any]:
    """The figures of a Latency that the table shows."""
    row: dict[str, Any] = {
        name: {key: getattr(found, key) for key in ("p50", "p90", "p99", "samples")}
        for name in ("device_ms", "wall_ms", "upload_ms", "download_ms")
        if (found := getattr(latency, name)) is not None
    }
    return row | {
        "batch": latency.batch,
        "throughput": latency.throughput,
        "settled": latency.settled,
        "cuda_graph": latency.cuda_graph,
        "clock_mhz": [min(latency.conditions.clock_mhz, default=0), max(latency.conditions.clock_mhz, default=0)],
        "throttle_reasons": list(latency.conditions.throttle_reasons),
    }


# --- sections ------------------------------------------------------------------------------------------------


def models(work: Path) -> dict[str, Any]:
    """Export, slim and convert ResNet-50 by edgeship's own stages."""
    from edgeship import config
    from edgeship.prepare.export import export
    from edgeship.prepare.fp16 import to_half
    from edgeship.prepare.slim import slim

    if (work / "models.json").is_file():
        return {**json.loads((work / "models.json").read_text()), "reused": True}
    (work / "source").mkdir(exist_ok=True)
    (work / "source" / "resnet_random.py").write_text(SOURCE)
    model = config.Model(
        source="resnet_random:build", inputs={"images": config.InputSpec(shape=("batch", 3, SIZE, SIZE))}
    )
    taken = {}
    begin = time.perf_counter()
    exported = export(model, work / "source", work / "model.onnx")
    taken["export_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    slimmed = slim(work / exported.model.path, work / "fp32.onnx")
    taken["slim_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    name = slimmed.inputs[0].name
    few = [((f"frame-{number}",), {name: frame}) for number, frame in enumerate(itertools.islice(frames(), 4))]
    half = to_half(work / "fp32.onnx", few, work / "fp16.onnx")
    taken["half_s"] = time.perf_counter() - begin
    (work / "input.json").write_text(json.dumps(name))
    facts = taken | {"input": name, "nodes": slimmed.nodes_after, "left_in_fp32": list(half.left)}
    (work / "models.json").write_text(json.dumps(facts))
    return facts


def _target(batch: int, **changes: Any) -> Any:
    from edgeship.config import Batch, Target

    return Target(device="cuda:0", batch=Batch(min=1, opt=batch, max=max(batch, 8)), **changes)


def _built(work: Path, precision: str, batch: int, tf32: bool = False) -> tuple[Path, Any, dict[str, Any]]:
    """An engine by edgeship's own build and audit."""
    from edgeship import engines

    engine = engines.get("onnxruntime")
    folder = work / f"{precision}-{batch}-{tf32}"
    folder.mkdir(exist_ok=True)
    request = engines.BuildRequest(
        work / f"{precision}.onnx", folder / "engine.onnx", precision, _target(batch, tf32=tf32)
    )
    made = engine.build(request)
    options = engines.OpenOptions(device="cuda:0", cuda_graph=True, tf32=tf32, max_batch=max(batch, 8))
    audit = engine.audit(request.output, request, options)
    facts = {
        "build_s": made.seconds,
        "notes": list(made.notes),
        "achieved": audit.achieved,
        "layers": audit.layers,
        "hottest": [list(item) for item in audit.hottest[:4]],
    }
    return request.output, options, facts


def resnet50(work: Path) -> dict[str, Any]:
    """edgeship's engine: FP32, TF32 and FP16 at batch 1 and 8."""
    from edgeship import engines
    from edgeship.trial.benchmark import benchmark

    rows = []
    for (precision, tf32), batch in itertools.product((("fp32", False), ("fp32", True), ("fp16", False)), BATCHES):
        path, options, facts = _built(work, precision, batch, tf32)
        begin = time.perf_counter()
        with engines.get("onnxruntime").open(path, options) as runner:
            name = runner.inputs[0].name
            runner.infer(feeds_for(batch, runner.inputs[0].dtype, name))
            load_s = time.perf_counter() - begin
            row = latency_row(benchmark(runner, feeds_for(batch, runner.inputs[0].dtype, name), settings()))
        rows.append({"precision": precision, "tf32": tf32, **row, "load_and_first_run_s": load_s, **facts})
    return {"rows": rows}


def hand(work: Path) -> dict[str, Any]:
    """onnxruntime by hand, without edgeship: every sensible configuration, torch.cuda.Event around the run."""
    rows = []
    for precision, batch in itertools.product(("fp32", "fp16"), BATCHES):
        for nhwc, graph, stream in itertools.product((True, False), (True, False), (True, False)):
            if stream and not graph:
                continue
            for fuse in (False, True) if stream and nhwc else (False,):
                for tf32 in (False, True) if stream and nhwc and precision == "fp16" else (False,):
                    rows.append(_by_hand(work / f"{precision}.onnx", batch, (nhwc, graph, stream, fuse, tf32)))
                    rows[-1]["precision"] = precision
    best = {}
    for precision, batch in itertools.product(("fp32", "fp16"), BATCHES):
        same = [row for row in rows if row["precision"] == precision and row["batch"] == batch]
        best[f"{precision}-{batch}"] = min(row["device_ms"] for row in same)
    return {"rows": rows, "best": best}


def _by_hand(path: Path, batch: int, choices: tuple[bool, bool, bool, bool, bool]) -> dict[str, Any]:
    import onnxruntime as ort
    import torch

    nhwc, graph, own_stream, fuse, tf32 = choices
    stream = torch.cuda.Stream()
    given = {
        "device_id": "0",
        "use_tf32": str(int(tf32)),
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "prefer_nhwc": str(int(nhwc)),
        "enable_cuda_graph": str(int(graph)),
        "fuse_conv_bias": str(int(fuse)),
    }
    if own_stream:
        given |= {"has_user_compute_stream": "1", "user_compute_stream": str(stream.cuda_stream)}
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(path), options, providers=[("CUDAExecutionProvider", given), "CPUExecutionProvider"]
    )
    source, target = session.get_inputs()[0], session.get_outputs()[0]
    kind = np.float16 if "float16" in source.type else np.float32
    feed = ort.OrtValue.ortvalue_from_numpy(feeds_for(batch)["images"].astype(kind), "cuda", 0)
    answer = ort.OrtValue.ortvalue_from_shape_and_type([batch, 1000], kind, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input(source.name, feed)
    binding.bind_ortvalue_output(target.name, answer)
    run_options = ort.RunOptions()
    if own_stream:
        run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    device, wall = [], []
    begin = time.perf_counter()
    while len(device) < 200 or time.perf_counter() - begin < 1.5:
        start = time.perf_counter_ns()
        if own_stream:
            first.record(stream)
        session.run_with_iobinding(binding, run_options)
        if own_stream:
            last.record(stream)
            last.synchronize()
        taken = (time.perf_counter_ns() - start) / 1e6
        wall.append(taken)
        device.append(first.elapsed_time(last) if own_stream else taken)
    cut = len(device) // 3
    return {
        "batch": batch,
        "nhwc": nhwc,
        "cuda_graph": graph,
        "own_stream": own_stream,
        "fuse_conv_bias": fuse,
        "use_tf32": tf32,
        "device_ms": statistics.median(device[cut:]),
        "wall_ms": statistics.median(wall[cut:]),
        "clock": "torch.cuda.Event" if own_stream else "wall",
    }


def torch(work: Path) -> dict[str, Any]:
    """PyTorch: eager, FP16, channels_last, compile, CUDA graph."""
    sys.path.insert(0, str(work / "source"))
    from resnet_random import build

    from edgeship.config import CUDA_BASELINES
    from edgeship.errors import EngineError
    from edgeship.prepare import baseline
    from edgeship.trial.benchmark import benchmark

    module, rows = build(), []
    for name, batch in itertools.product(CUDA_BASELINES, BATCHES):
        begin = time.perf_counter()
        with baseline.open_baseline(name, module, ("images",), "cuda:0") as runner:
            try:
                row = latency_row(benchmark(runner, feeds_for(batch), settings()))
            except EngineError as error:
                row = {"batch": batch, "failed": str(error)[:300]}
        rows.append({"baseline": name, **row, "seconds": time.perf_counter() - begin})
    return {"rows": rows}


def events(work: Path) -> dict[str, Any]:
    """Our events against torch.cuda.Event around the very same runs."""
    import torch

    from edgeship import engines
    from edgeship.engines import cuda

    rows = []
    for batch in BATCHES:
        options = engines.OpenOptions(device="cuda:0", cuda_graph=True)
        with engines.get("onnxruntime").open(work / "fp16.onnx", options) as runner:
            info = runner.inputs[0]
            bound = runner.bound({info.name: (batch, 3, SIZE, SIZE)})
            bound.fill(feeds_for(batch, info.dtype, info.name))
            bound.upload()
            stream = torch.cuda.ExternalStream(runner.stream)
            begin, end = cuda.Event(), cuda.Event()
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            pairs = []
            for _ in range(2000):
                first.record(stream)
                begin.record(runner.device.stream)
                bound.run()
                end.record(runner.device.stream)
                last.record(stream)
                last.synchronize()
                pairs.append((end.since(begin), first.elapsed_time(last)))
        ours, theirs = (statistics.median(column) for column in zip(*pairs[500:], strict=True))
        rows.append({"batch": batch, "edgeship_ms": ours, "torch_ms": theirs, "ratio": ours / theirs})
    return {"rows": rows}


def overhead(work: Path) -> dict[str, Any]:
    """What a call costs beyond the bare session with I/O binding: wall microseconds, interleaved in blocks."""
    from edgeship import engines
    from edgeship.engines import cuda

    options = engines.OpenOptions(device="cuda:0", cuda_graph=True)
    with engines.get("onnxruntime").open(work / "fp16.onnx", options) as runner:
        info = runner.inputs[0]
        feeds = feeds_for(1, info.dtype, info.name)
        timer, bound = runner.timer(feeds), runner.bound({info.name: (1, 3, SIZE, SIZE)})
        module, handle = cuda.runtime(), runner.stream
        up, down = (getattr(module.cudaMemcpyKind, f"cudaMemcpy{way}") for way in ("HostToDevice", "DeviceToHost"))
        source, target = bound._inputs[0], bound._outputs[0]

        def bare() -> None:
            module.cudaMemcpyAsync(source.device.pointer, source.host_pointer, source.size_bytes, up, handle)
            runner.session.run_with_iobinding(bound.binding, bound.options)
            module.cudaMemcpyAsync(target.host_pointer, target.device.pointer, target.size_bytes, down, handle)
            module.cudaStreamSynchronize(handle)

        def by_hand() -> dict[str, np.ndarray]:
            np.copyto(source.host, feeds[info.name])
            bare()
            return {target.name: target.host.copy()}

        def alone() -> None:
            runner.session.run_with_iobinding(bound.binding, bound.options)
            module.cudaStreamSynchronize(handle)

        calls = {
            "session": alone,
            "session_and_copies": bare,
            "timer": timer,
            "by_hand": by_hand,
            "infer": lambda: runner.infer(feeds),
        }
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(40):
            for name, call in calls.items():
                for _ in range(50):
                    start = time.perf_counter_ns()
                    call()
                    taken[name].append((time.perf_counter_ns() - start) / 1e3)
    medians = {f"{name}_us": statistics.median(values[400:]) for name, values in taken.items()}
    return medians | {
        "timer_over_session_us": medians["timer_us"] - medians["session_and_copies_us"],
        "infer_over_by_hand_us": medians["infer_us"] - medians["by_hand_us"],
    }


def energy(work: Path) -> dict[str, Any]:
    """Energy of a frame by NVML's counter beside the power that NVML tells, read 50 times a second and summed.

    ``cost`` is what measuring adds to a call: two readings of the counter over the calls of a block.
    """
    import pynvml

    from edgeship import engines
    from edgeship.trial.energy import LOAD_S, Blocks, measure, meter_for

    meter, nvml = meter_for("cuda:0"), cast(Any, pynvml)
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    readings = [_seconds(meter.joules) for _ in range(200)]
    rows = []
    for batch in BATCHES:
        options = engines.OpenOptions(device="cuda:0", cuda_graph=True)
        with engines.get("onnxruntime").open(work / "fp16.onnx", options) as runner:
            info = runner.inputs[0]
            timer = runner.timer(feeds_for(batch, info.dtype, info.name))
            call_s = statistics.median(_seconds(timer) for _ in range(500))
            found = measure(timer, batch, meter, Blocks(6))
            counter, summed = _both(timer, meter.joules, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3, 10.0)
        rows.append({
            "batch": batch, "mj_per_frame": list(found.mj_per_frame), "power_w": list(found.power_w),
            "rest_w": list(found.rest_w), "counter_j": counter, "samples_j": summed, "ratio": counter / summed,
            "cost": 2 * statistics.median(readings) / LOAD_S, "call_us": call_s * 1e6,
        })  # fmt: skip
    meter.close()
    return {"rows": rows, "reading_us": statistics.median(readings) * 1e6}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _both(
    call: Callable[[], object], joules: Callable[[], float], watts: Callable[[], float], seconds: float
) -> tuple[float, float]:
    """Joules of a load by the counter, and by watts that are read beside it and summed (trapezoids)."""
    ended, samples = threading.Event(), []

    def read() -> None:
        while not ended.wait(0.02):
            samples.append((time.perf_counter(), watts()))

    thread = threading.Thread(target=read)
    for _ in range(2):  # the first heats up
        samples.clear()
        if not thread.is_alive():
            thread.start()
        begin, before = time.perf_counter(), joules()
        while time.perf_counter() - begin < seconds:
            call()
        after, end = joules(), time.perf_counter()
    ended.set()
    thread.join()
    inside = np.array([sample for sample in samples if begin <= sample[0] <= end])
    mean = float(np.trapezoid(inside[:, 1], inside[:, 0]) / np.ptp(inside[:, 0]))
    return after - before, mean * (end - begin)


def sweep(work: Path) -> dict[str, Any]:
    """FP16 over batch sizes: latency and throughput."""
    from edgeship import engines
    from edgeship.trial.benchmark import benchmark

    rows = []
    options = engines.OpenOptions(device="cuda:0", cuda_graph=True)
    with engines.get("onnxruntime").open(work / "fp16.onnx", options) as runner:
        info = runner.inputs[0]
        for batch in (1, 2, 4, 8, 16, 32, 64):
            rows.append(latency_row(benchmark(runner, feeds_for(batch, info.dtype, info.name), settings())))
    return {"rows": rows}


def soak(work: Path) -> dict[str, Any]:
    """100,000 inferences: device and host memory, and the median of each tenth."""
    from edgeship import engines
    from edgeship.engines import cuda

    options = engines.OpenOptions(device="cuda:0", cuda_graph=True)
    rows = []
    with engines.get("onnxruntime").open(work / "fp16.onnx", options) as runner:
        info = runner.inputs[0]
        feeds = feeds_for(1, info.dtype, info.name)
        for _ in range(1000):
            runner.infer(feeds)
        timer = runner.timer(feeds)
        begin = time.perf_counter()
        for block in range(10):
            device = []
            for _ in range(9_000):
                device.append(timer().device_ms)
            for _ in range(1_000):
                runner.infer(feeds)
            free, total = cuda.memory()
            rows.append(
                {
                    "inferences": 10_000 * (block + 1),
                    "device_p50_ms": statistics.median(device),
                    "device_used_mib": (total - free) / cuda.MIB,
                    "host_resident_mib": _resident_mib(),
                }
            )
    medians = [row["device_p50_ms"] for row in rows]
    return {
        "rows": rows,
        "seconds_in_loop": time.perf_counter() - begin,
        "device_memory_growth_mib": rows[-1]["device_used_mib"] - rows[0]["device_used_mib"],
        "host_memory_growth_mib": rows[-1]["host_resident_mib"] - rows[0]["host_resident_mib"],
        "median_spread": max(medians) / min(medians) - 1,
        "median_drift": medians[-1] / medians[0] - 1,
    }


def _resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
