"""Made-up runs that stretch the report: many candidates, many classes, hostile names, every optional part.

Each is written to a folder as ``ship`` leaves it, and read from there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from edgeship.config import Evaluation
from edgeship.data.objects import Boxes
from edgeship.decide.finished_run import FinishedRun, open_run
from edgeship.decode.predictions import Detection
from edgeship.metrics import get
from edgeship.results import (
    Answer,
    Artifact,
    Audit,
    AuditedLayer,
    Baseline,
    Baselines,
    Box,
    Build,
    Calibrated,
    Candidate,
    ChangedImage,
    Changes,
    Conditions,
    Decision,
    Divergence,
    EngineLayer,
    Evaluated,
    Exported,
    Failure,
    Identity,
    Judged,
    Latency,
    Lineage,
    MethodScore,
    OutputDifference,
    Parity,
    Preflight,
    Problem,
    Quantiles,
    Result,
    Rule,
    RunResult,
    SearchAttempt,
    Searched,
    SensitiveGroup,
    Sensitivity,
    Slimmed,
    StageRun,
    TensorInfo,
    Trial,
    TrialSummary,
    write,
)
from edgeship.results.seal import seal

HOSTILE = "<script>alert('x')</script>\"&| `*_[a](javascript:1)"
CLASSES = ("person", "bicycle", HOSTILE, "a class with a very long name that nobody shortened for the table", *(
    f"class {number}" for number in range(4, 80)
))  # fmt: skip
TENSOR = TensorInfo(name="images", shape=("batch", 3, 416, 416), dtype="float32")
NOTHING = Artifact(path="none", sha256="0" * 64, size_bytes=1 << 20)


def latency(folder: Path, median: float, seed: int, count: int = 600) -> Latency:
    """A latency with its samples kept in ``folder``."""
    samples = median * np.random.default_rng(seed).lognormal(0.0, 0.05, count)
    samples[:: count // 12] *= 1.6
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "latency.npz", wall_ms=samples)
    p50, p90, p99 = (float(value) for value in np.percentile(samples, (50, 90, 99)))
    quantiles = Quantiles(
        p50=p50, p90=p90, p99=p99, mean=float(samples.mean()), min=float(samples.min()), samples=count,
        interval=(p50 * 0.99, p50 * 1.01),
    )  # fmt: skip
    return Latency(
        batch=8, wall_ms=quantiles, throughput=8000 / p50, warmup_s=0.5, seconds=2.0, settled=seed % 5 != 0,
        samples=Artifact.of(folder / "latency.npz", folder), peak_memory_mib=120.0,
        conditions=Conditions(changed="the clock fell from 2,100 to 1,400 MHz during the run" if seed == 3 else ""),
    )  # fmt: skip


def trial(folder: Path, name: str, median: float, drop: float, *, target: str = "default", seed: int = 0) -> Trial:
    """A detection trial that went well; its arrays in a folder of its own."""
    keep = tuple(f"/backbone/node_{index}/Conv" for index in range(seed % 4))
    metrics = {"map": 0.431, "map50": 0.702, "map75": 0.46, "map_small": 0.21, "map_medium": 0.45, "map_large": 0.6}
    share = {name: 0.7 - drop * (1 + index % 3) for index, name in enumerate(CLASSES)}
    identity = Identity(engine="onnxruntime", version="1.32.0", device="Some CPU @ 2.7 GHz", platform="x86_64-linux")
    return Trial(
        candidate=Candidate(name=name, precision="int8" if "int8" in name else "fp32", keep=keep),
        target_name=target,
        engine="onnxruntime",
        device="cpu",
        build=Build(engine=NOTHING, identity=identity, seconds=1.2, inputs=(TENSOR,), outputs=(TENSOR,)),
        audit=Audit(
            source="profile", asked="int8", achieved=0.93, reformats=4, kept=keep,
            layers={"Conv": {"int8": 100, "fp32": 13}, "MatMul": {"int8": 2, "bf16": 1}, "Resize": {"fp16": 3}},
            missed=(AuditedLayer(name="/head/" + "deep/" * 20 + "Conv", operator="Conv", precision="fp32"),),
            hottest=(("QLinearConv", 0.61), ("QLinearSigmoid", 0.22), ("QLinearMul", 0.17)),
            notes=("Two layers were fused.",), order=layers("int8" in name),
        ),
        latency=latency(folder / place(target, name), median, seed),
        evaluation=Evaluated(
            records=records(folder / place(target, name), seed) if name in ("fp32", "int8") else None,
            task="detection", images=2000, images_sha256="0" * 64, seconds=30.0, images_per_s=66.0,
            metrics={key: number - drop for key, number in metrics.items()},
            per_class={"ap": share}, examples={name: 40 + index for index, name in enumerate(CLASSES)},
        ),
    )  # fmt: skip


def records(folder: Path, seed: int) -> Artifact:
    """Detections on forty images, in three classes; the larger ``seed``, the more are missed."""
    random = np.random.default_rng(5)
    made = get("detection").collector(CLASSES[:3], Evaluation(task="detection"))
    for _ in range(40):
        corners = random.uniform(0, 300, (6, 2))
        boxes = np.concatenate([corners, corners + random.uniform(10, 120, (6, 2))], axis=1)
        labels = random.integers(0, 3, 6)
        scores = random.uniform(0.05, 1.0, 6) - 0.01 * (seed % 20)
        moved = boxes + random.normal(0, 6, boxes.shape)
        kept = scores > 0.2
        found = Detection(moved[kept].astype(np.float32), scores[kept].astype(np.float32), labels[kept], CLASSES[:3])
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        made.add(found, Boxes(boxes, labels, np.zeros(6, bool), area))
    folder.mkdir(parents=True, exist_ok=True)
    names = {"ids": np.array([f"{n}.png" for n in range(40)]), "digests": np.array([f"{n:064x}" for n in range(40)])}
    np.savez(folder / "records.npz", **made.records(), **names)
    return Artifact.of(folder / "records.npz", folder)


def layers(low: bool) -> tuple[EngineLayer, ...]:
    """Six layers: of INT8 with an island of float, or of float throughout."""
    kind = "int8" if low else "fp32"
    rows = (
        ("q_in", "QuantizeLinear", "fp32", kind, "quantize", (), 0.02),
        (f"/stem/Conv {HOSTILE}", "QLinearConv", kind, kind, "product", ("/stem/Conv", "/stem/Relu"), 0.4),
        ("dq", "DequantizeLinear", kind, "fp32", "quantize", (), 0.03),
        ("/act/Sigmoid", "Sigmoid", "fp32", "fp32", "other", ("/act/Sigmoid",), 0.2),
        ("reorder", "ReorderInput", "fp32", "fp32", "reformat", (), 0.1),
        ("/head/" + "deep/" * 20 + "Conv", "QLinearConv", kind, "", "product", ("/head/Conv",), 0.3),
    )
    return tuple(
        EngineLayer(name=name, kind=operator, precision=first, output=last, role=role, nodes=nodes, ms=ms * (1 + low))
        for name, operator, first, last, role, nodes, ms in rows
    )


def judged(name: str, median: float, drop: float, *, target: str = "default") -> Judged:
    """Rules of each outcome, and drops for every metric and class."""
    outcome = "fail" if drop > 0.02 else "inconclusive" if drop > 0.012 else "pass"
    class_drop = {label: drop * (1 + index % 3) - 0.004 for index, label in enumerate(CLASSES)}
    rules = (
        Rule(name="latency_p50_ms", outcome="pass", measured=median, bound=median * 1.01, limit=6.0, unit="ms",
             reason=f"p50 {median:.3g} ms is within 6 ms", method="order statistics"),
        Rule(name="max_drop.map50", outcome=outcome, measured=drop, bound=drop + 0.006, limit=0.02, more_images=1800,
             reason="map50 fell on 2000 images", method="paired bootstrap"),
        Rule(name=f"critical.{HOSTILE}", outcome="inconclusive", measured=None, limit=0.03,
             reason=f"no example of {HOSTILE}"),
        Rule(name="critical.person", outcome="fail", measured=0.05, bound=0.07, limit=0.03, reason="person fell"),
        Rule(name="speedup_over_fp32", outcome="pass", measured=2.3, bound=2.2, limit=1.6, reason="fast enough"),
        Rule(name="max_engine_mib", outcome="pass", measured=3.4, bound=3.4, limit=64.0, unit="MiB", reason="small"),
    )  # fmt: skip
    keys = ("map", "map50", "map_small", "map_medium", "map_large")
    return Judged(
        candidate=name, target_name=target, outcome=outcome, rules=rules,
        drop=dict.fromkeys(keys, drop), drop_interval=dict.fromkeys(keys, (drop - 0.006, drop + 0.006)),
        class_drop={"ap": class_drop},
        class_drop_interval={"ap": {key: (value - 0.02, value + 0.03) for key, value in class_drop.items()}},
        agreement=0.97, score_shift=-0.0123, speedup=2.3,
    )  # fmt: skip


ATTEMPTS = (
    SearchAttempt(candidate="int8", where="preview", outcome="fail", accuracy="fail", drop={"map50": 0.031},
                  why="every node quantized"),
    SearchAttempt(candidate="int8-keep-8", keep=tuple("abcdefgh"), outcome="pass", accuracy="pass", latency_ms=3.2,
                  drop={"map50": 0.004}, why=f"the worst eight, {HOSTILE}"),
)  # fmt: skip
FP16 = SearchAttempt(candidate="fp16", outcome="fail", accuracy="fail", drop={"map50": 0.021}, why="FP16 everywhere")


def place(target: str, name: str) -> str:
    """The folder of a trial, relative to the run's."""
    return f"stages/trial-{'orin' if 'orin' in target else target}-{name[:30].strip()}".replace(" ", "-")


def summarized(folder: Path, item: Trial, where: str = "") -> TrialSummary:
    """Write a trial and tell of it as result.json does."""
    name = where or place(item.target_name, item.candidate.name)
    (folder / name).mkdir(parents=True, exist_ok=True)
    write(item, folder / name / "trial.json")
    seal(folder / name, name, 1.0)
    return TrialSummary(
        candidate=item.candidate.name, precision=item.candidate.precision, target_name=item.target_name,
        engine=item.engine, device=item.device, folder=name, passed=False, outcome="inconclusive",
    )  # fmt: skip


def stage(folder: Path, name: str, result: Result, seconds: float = 1.0, *, cached: bool = False) -> StageRun:
    """Write a stage's result."""
    where = "stages/" + name.replace(":", "-").replace(" ", "-").replace("<", "").replace(">", "")
    (folder / where).mkdir(parents=True, exist_ok=True)
    write(result, folder / where / "result.json")
    seal(folder / where, name, 1.0)
    return StageRun(name=name, seconds=seconds, cached=cached, folder=where)


def finished(folder: Path, **facts: object) -> FinishedRun:
    """Write result.json and read the run."""
    common: dict[str, object] = {
        "edgeship": "0.1.0", "verdict": "NO-SHIP", "chosen": None, "sentence": "", "trials": (), "stages": (),
        "environment": {}, "config": {}, "config_file": "mine.toml", "config_text": "",
        "finished": "2026-11-23T01:40:00+00:00",
        "lineage": Lineage(version=f"2.1 {HOSTILE}", commit="f" * 40, changed=True, digests={"model": "ab" * 32}),
    }  # fmt: skip
    result = RunResult(**(common | facts))
    write(result, folder / "result.json")
    seal(folder, "run", 1.0, ("result.json",))
    return open_run(folder)


def rich(folder: Path, *, candidates: int = 24) -> FinishedRun:
    """Two targets, many candidates, a crashed trial and every optional part."""
    trials, decisions = [], []
    for target, base in (("workstation", 2.0), ("orin <nano>", 0.4)):
        names = ["fp32", "int8", *(f"int8-keep-{index}-of-the-most-sensitive-nodes" for index in range(2, candidates))]
        facts = [(name, base * (1 + 0.11 * index), 0.03 / (1 + index)) for index, name in enumerate(names)]
        for seed, (name, median, drop) in enumerate(facts):
            trials.append(trial(folder, name, median, drop, target=target, seed=seed))
        failure = Failure(stage="build", kind="BuildError", message=f"the builder stopped at {HOSTILE}")
        crashed = Candidate(name="fp16", precision="fp16")
        trials.append(Trial(candidate=crashed, target_name=target, engine="tensorrt", device="cuda:0", failure=failure))
        verdicts = tuple(judged(name, median, drop, target=target) for name, median, drop in facts)
        word, chosen = ("SHIP", "int8") if target == "workstation" else ("NO-SHIP", None)
        sentence = "int8 is chosen." if chosen else f"nothing passes: {HOSTILE} fell by 0.05."
        decisions.append(
            Decision(verdict=word, chosen=chosen, target_name=target, sentence=sentence, judged=verdicts)
        )  # fmt: skip
    reference = trial(folder, "fp32", 4.2, 0.0, target="reference", seed=99)
    nodes = [f"/backbone/stage{index // 20}/block{index}/conv/Conv" for index in range(113)]
    groups = tuple(
        SensitiveGroup(nodes=(node,), operator="Conv", snr_db=6 + 0.4 * index) for index, node in enumerate(nodes)
    )
    empty = Sensitivity(style="tensorrt", groups=(), frames=8, seconds=0.0, plain_db=4.0)
    ranking = Sensitivity(style="onnxruntime", groups=groups, frames=8, seconds=2.0, plain_db=4.0)
    found = Searched(
        answer="mixed", chosen="int8-keep-8", keep=(HOSTILE, "/head/Conv"), attempts=ATTEMPTS, builds=1,
        sentence="8 of 113 nodes are kept in high precision.", ranking=ranking,
    )  # fmt: skip
    half = Searched(
        answer="mixed", chosen="fp16-keep1", keep=(HOSTILE,), attempts=(FP16,), sentence="FP16 needs one node in FP32.",
        ranking=empty.model_copy(update={"style": "fp16"}),
    )  # fmt: skip
    nothing = Searched(
        answer="nothing", chosen=None, sentence=f"nothing passes: {HOSTILE}.", attempts=ATTEMPTS[:1], ranking=empty,
        half=half,
    )  # fmt: skip
    stages = (
        *(stage(folder, name, result, 6.2) for name, result in prepared().items()),
        stage(folder, "calibrate", calibrated(folder / "stages" / "calibrate"), 192.0, cached=True),
        stage(folder, "changes:workstation", changes(folder / "stages" / "changes-workstation")),
        stage(folder, "changes:orin <nano>", changes(folder / "stages" / "changes-orin-nano", 1)),
        stage(folder, "baseline:workstation", baselines(folder)),
    )
    return finished(
        folder,
        title=f"detector {HOSTILE}",
        decisions=tuple(decisions),
        trials=tuple(summarized(folder, item) for item in trials),
        reference=summarized(folder, reference),
        config={"gate": {"critical": {"person": 0.03, HOSTILE: 0.03}}, "benchmark": {"baseline": ["eager", "compile"]}},
        config_text=f"# {HOSTILE}\n\n[model]\nsource = 'model:build'\n",
        search={"workstation": found, "orin <nano>": nothing},
        stages=stages,
        environment={"python": "3.11.7", "packages": {"torch": "2.13.0", "nothing": None}, "gpus": []},
        bundles={"workstation": "bundle-workstation"},
    )


def baselines(folder: Path) -> Baselines:
    """PyTorch beside the engines, one of them failed."""
    rows = (
        Baseline(name="eager", batch=8, latency=latency(folder / "eager", 41.0, 1)),
        Baseline(name="compile", batch=8, failed=f"no compiler for {HOSTILE}"),
        Baseline(name="channels-last", batch=1, latency=latency(folder / "last", 9.0, 2)),
    )
    return Baselines(device="cpu", torch="2.13.0", rows=rows)


def prepared() -> dict[str, Result]:
    """Export, simplification, parity that failed, and preflight with problems."""
    return {
        "export": Exported(
            model=NOTHING, inputs=(TENSOR,), outputs=(TENSOR,), opset=18, nodes=300,
            source="/home/someone/nets/detector.onnx",
            exporter="torch.onnx 2.13.0", parameters=912_345, renamed={"pixels": "images"}, notes=("A note.",),
        ),
        "slim": Slimmed(
            model=NOTHING, inputs=(TENSOR,), outputs=(TENSOR,), nodes_before=300, nodes_after=251, max_difference=2e-7
        ),
        "parity": Parity(
            passed=False, rtol=1e-3, atol=1e-3, random_inputs=3, real_images=4,
            outputs=(OutputDifference(name=HOSTILE, max_abs=0.3, mean_abs=0.01, max_rel=4.0, passed=False),),
            divergence=Divergence(node="n1", operator="Resize", tensor="t", place="model.py:12", max_abs=0.3),
        ),
        "preflight": Preflight(
            parser="TensorRT-RTX 1.7",
            problems=(Problem(level="error", node="n2", operator="Det", reason="no importer", remedies=("rewrite",)),),
        ),
    }  # fmt: skip


def calibrated(folder: Path) -> Calibrated:
    """A calibration of 90 tensors with its ranges file."""
    ranges = {
        f"/layer{index}/out <{index}>": {
            "low": -1.0, "high": 2.0 + index, "amax": {"entropy": 1.5 + index, "minmax": 2.0 + index},
            "moved": 0.25 / (1 + index), "clipped": 0.001,
        }
        for index in range(90)
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "calib.ranges.json").write_text(json.dumps(ranges))
    scores = (MethodScore(method="entropy", snr_db=21.3, agreement=0.97), MethodScore(method="minmax", snr_db=24.9))
    return Calibrated(
        cache=NOTHING, ranges=Artifact.of(folder / "calib.ranges.json", folder), method="minmax", methods=scores,
        frames=512, frames_sha256="a" * 64, graph_sha256="b" * 64, preprocess_sha256="c" * 64, tensors=90,
        moved_p95=0.04, moving=("t1", "t2"), overlap=("frame.png",), advice="More frames.", trusted_cache=True,
    )  # fmt: skip


def changes(folder: Path, count: int = 6) -> Changes:
    """A lost box, a moved mask, a classification in 28×28, an image that could not be read again, and depth."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:300, 0:400]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    scene = picture(folder / "scene.jpeg", pixels)
    person, car = box((30, 60, 120, 280), "person", 0.81), box((200, 150, 380, 260), HOSTILE, 0.66)
    extra = box((10, 10, 60, 50), "dog", 0.52)
    disc = ((rows - 150) ** 2 + (columns - 200) ** 2 < 90**2).astype(np.uint8)
    masks = [picture(folder / f"{index}.png", np.roll(disc, 40 * index, axis=1)) for index in range(2)]
    depth = picture(folder / "depth.png", (rows * 255 // 299).astype(np.uint8))
    error = picture(folder / "error.png", (columns * 255 // 399).astype(np.uint8))
    small = picture(folder / "small.png", (np.hypot(*(np.mgrid[0:28, 0:28] - 14)) * 9 % 256).astype(np.uint8))
    bag, shirt = Answer(text="bag", score=0.61), Answer(text="shirt", score=0.44)
    images = (
        ChangedImage(picture=scene, size=(400, 300), name=HOSTILE, label="2 objects", candidate="int8", change=0.8,
                     reference=Answer(text="2 boxes", boxes=(person, car)), harm="worse",
                     truth=(person, car), answer=Answer(text="2 boxes", boxes=(car, extra))),
        ChangedImage(picture=scene, size=(400, 300), name="mask.png", label="", candidate="int8", change=0.2,
                     reference=Answer(text="IoU 0.9", mask=masks[0]), answer=Answer(text="IoU 0.7", mask=masks[1])),
        ChangedImage(picture=small, size=(28, 28), name="small.png", label="bag", candidate="int8", harm="worse",
                     reference=bag, answer=shirt),
        ChangedImage(picture=small, size=(28, 28), name="both.png", label="dress", candidate="int8",
                     harm="both wrong", reference=bag, answer=bag),
        ChangedImage(picture=None, size=(0, 0), name="gone.png", label="bag", candidate="int8", reference=bag,
                     answer=shirt),
        ChangedImage(picture=scene, size=(400, 300), name="depth.png", label="2 to 40 m", candidate="int8",
                     harm="worse", measured=depth,
                     reference=Answer(text="relative error 4.0 %", depth=depth, error=error),
                     answer=Answer(text="relative error 9.0 %", depth=depth, error=error)),
    )  # fmt: skip
    return Changes(images=images[:count])


def picture(path: Path, pixels: np.ndarray) -> Artifact:
    """Write an image."""
    Image.fromarray(pixels).save(path)
    return Artifact.of(path, path.parent)


def box(corners: tuple[float, float, float, float], label: str, score: float) -> Box:
    """A detection."""
    return Box(corners=corners, label=label, score=score)


def nothing_measured(folder: Path, name: str = "reference") -> TrialSummary:
    """A trial that failed at once."""
    failure = Failure(stage="build", kind="BuildError", message="nothing works")
    candidate = Candidate(name="fp32", precision="fp32")
    item = Trial(candidate=candidate, target_name=name, engine="onnxruntime", device="cpu", failure=failure)
    return summarized(folder, item)


def bare(folder: Path, sentence: str = "Nothing was tried.") -> FinishedRun:
    """A run that measured nothing."""
    decision = Decision(verdict="INCONCLUSIVE", chosen=None, sentence=sentence, judged=())
    return finished(folder, title="empty", decisions=(decision,), reference=nothing_measured(folder))


def single(folder: Path) -> FinishedRun:
    """One candidate, statistics off, no images, values that are not shares."""
    one = trial(folder, "fp32", 5.0, 0.0)
    rules = (Rule(name="latency_p50_ms", outcome="fail", measured=5.0, bound=5.0, limit=0.9, unit="ms", reason="slow"),)
    verdict = Judged(candidate="fp32", outcome="fail", rules=rules, drop={"psnr": 1.5})
    evaluation = one.evaluation.model_copy(update={"metrics": {"psnr": 31.7}}) if one.evaluation else None
    decision = Decision(verdict="NO-SHIP", chosen=None, sentence="fp32 is too slow.", judged=(verdict,))
    return finished(
        folder,
        title="one",
        decisions=(decision,),
        trials=(summarized(folder, one.model_copy(update={"evaluation": evaluation})),),
        reference=nothing_measured(folder),
        config={"gate": {"confidence": 0}},
    )
