"""Made-up evidence that stretches the report: many candidates, many classes, hostile names, every optional part."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from edgeship.decide.report import Answer, Baseline, Box, ChangedImage, Evidence, SearchFound, SearchStep, Tried
from edgeship.results import (
    Artifact,
    Audit,
    AuditedLayer,
    Build,
    Calibrated,
    Candidate,
    Conditions,
    Decision,
    Divergence,
    Evaluated,
    Exported,
    Failure,
    Identity,
    Judged,
    Latency,
    LayerNoise,
    MethodScore,
    OutputDifference,
    Parity,
    Preflight,
    Problem,
    Quantiles,
    Rule,
    Slimmed,
    StageRun,
    TensorInfo,
    Trial,
)

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


def trial(folder: Path, name: str, median: float, drop: float, *, target: str = "default", seed: int = 0) -> Tried:
    """A detection trial that went well."""
    keep = tuple(f"/backbone/node_{index}/Conv" for index in range(seed % 4))
    metrics = {"map": 0.431, "map50": 0.702, "map75": 0.46, "map_small": 0.21, "map_medium": 0.45, "map_large": 0.6}
    share = {name: 0.7 - drop * (1 + index % 3) for index, name in enumerate(CLASSES)}
    identity = Identity(engine="onnxruntime", version="1.32.0", device="Some CPU @ 2.7 GHz", platform="x86_64-linux")
    value = Trial(
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
            notes=("Two layers were fused.",),
        ),
        latency=latency(folder / f"{target}-{seed}", median, seed),
        evaluation=Evaluated(
            task="detection", images=2000, images_sha256="0" * 64, seconds=30.0, images_per_s=66.0,
            metrics={key: number - drop for key, number in metrics.items()},
            per_class={"ap": share}, examples={name: 40 + index for index, name in enumerate(CLASSES)},
        ),
    )  # fmt: skip
    return Tried(value, folder / f"{target}-{seed}")


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


STEPS = (
    SearchStep("int8", 0, "preview", 0.031, "map50", None, "fail", "every node quantized"),
    SearchStep("int8-keep-8", 8, "target", 0.004, "map50", 3.2, "pass", f"the worst eight, {HOSTILE}"),
)


def rich(folder: Path, *, candidates: int = 24) -> Evidence:
    """Two targets, many candidates, a crashed trial and every optional part."""
    trials, decisions = [], []
    for target, base in (("workstation", 2.0), ("orin <nano>", 0.4)):
        names = ["fp32", "int8", *(f"int8-keep-{index}-of-the-most-sensitive-nodes" for index in range(2, candidates))]
        facts = [(name, base * (1 + 0.11 * index), 0.03 / (1 + index)) for index, name in enumerate(names)]
        for seed, (name, median, drop) in enumerate(facts):
            trials.append(trial(folder, name, median, drop, target=target, seed=seed))
        failure = Failure(stage="build", kind="BuildError", message=f"the builder stopped at {HOSTILE}")
        crashed = Candidate(name="fp16", precision="fp16")
        trials.append(
            Tried(Trial(candidate=crashed, target_name=target, engine="tensorrt", device="cuda:0", failure=failure))
        )
        verdicts = tuple(judged(name, median, drop, target=target) for name, median, drop in facts)
        word, chosen = ("SHIP", "int8") if target == "workstation" else ("NO-SHIP", None)
        sentence = "int8 is chosen." if chosen else f"nothing passes: {HOSTILE} fell by 0.05."
        decisions.append(
            Decision(verdict=word, chosen=chosen, target_name=target, sentence=sentence, judged=verdicts)
        )  # fmt: skip
    reference = trial(folder, "fp32", 4.2, 0.0, target="reference", seed=99)
    nodes = [f"/backbone/stage{index // 20}/block{index}/conv/Conv" for index in range(113)]
    noise = tuple(LayerNoise(node=node, operator="Conv", snr_db=6 + 0.4 * index) for index, node in enumerate(nodes))
    return Evidence(
        title=f"detector {HOSTILE}",
        decisions=tuple(decisions),
        trials=tuple(trials),
        reference=reference,
        config=f"# {HOSTILE}\n\n[model]\nsource = 'model:build'\n",
        critical=("person", HOSTILE),
        calibrated=calibrated(folder),
        calibrated_folder=folder,
        searches={
            "workstation": SearchFound(
                "8 of 113 nodes are kept in high precision.", STEPS, noise, (HOSTILE, "/head/Conv")
            ),
            "orin <nano>": SearchFound(f"nothing passes: {HOSTILE}.", STEPS[:1]),
        },
        changed={"workstation": changed(), "orin <nano>": changed()[:1]},
        baselines=(Baseline("PyTorch eager", 8, 41.0), Baseline("torch.compile", 8, 18.5), Baseline("eager", 1, 9.0)),
        stages=(
            StageRun(name="export", seconds=6.2, cached=False),
            StageRun(name="calibrate", seconds=192.0, cached=True),
        ),
        environment={"python": "3.11.7", "packages": {"torch": "2.13.0", "nothing": None}, "gpus": []},
        reproduce=("edgeship ship edgeship.toml", f"echo {HOSTILE}"),
        finished="2026-11-23 01:40 UTC",
        **prepared(),
    )


def prepared() -> dict[str, object]:
    """Export, simplification, parity that failed, and preflight with problems."""
    return {
        "exported": Exported(
            model=NOTHING, inputs=(TENSOR,), outputs=(TENSOR,), opset=18, nodes=300, source="model:build",
            exporter="torch.onnx 2.13.0", parameters=912_345, renamed={"pixels": "images"}, notes=("A note.",),
        ),
        "slimmed": Slimmed(
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


def changed() -> tuple[ChangedImage, ...]:
    """A lost box, a moved mask, a classification in 28×28, and a file that is gone."""
    rows, columns = np.mgrid[0:300, 0:400]
    scene = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    person, car = Box((30, 60, 120, 280), "person", 0.81), Box((200, 150, 380, 260), HOSTILE, 0.66)
    extra = Box((10, 10, 60, 50), "dog", 0.52)
    mask = ((rows - 150) ** 2 + (columns - 200) ** 2 < 90**2).astype(np.int64)
    small = (np.hypot(*(np.mgrid[0:28, 0:28] - 14)) * 9 % 256).astype(np.uint8)
    return (
        ChangedImage(scene, HOSTILE, "2 objects", "int8", Answer("2 boxes", None, (person, car)),
                     Answer("2 boxes", None, (car, extra)), change=0.8, harm="worse"),
        ChangedImage(scene, "mask.png", "", "int8", Answer("IoU 0.9", None, (), mask),
                     Answer("IoU 0.7", None, (), np.roll(mask, 40, axis=1)), change=0.2),
        ChangedImage(small, "small.png", "bag", "int8", Answer("bag", 0.61), Answer("shirt", 0.44), harm="worse"),
        ChangedImage(Path("gone.png"), "gone.png", "bag", "int8", Answer("bag", 0.61), Answer("shirt", 0.44)),
    )  # fmt: skip


def bare() -> Evidence:
    """A run that measured nothing."""
    decision = Decision(verdict="INCONCLUSIVE", chosen=None, sentence="Nothing was tried.", judged=())
    return Evidence(title="empty", decisions=(decision,))


def single(folder: Path) -> Evidence:
    """One candidate, statistics off, no images, values that are no shares."""
    one = trial(folder, "fp32", 5.0, 0.0)
    rules = (Rule(name="latency_p50_ms", outcome="fail", measured=5.0, bound=5.0, limit=0.9, unit="ms", reason="slow"),)
    verdict = Judged(candidate="fp32", outcome="fail", rules=rules, drop={"psnr": math.nan})
    evaluation = one.trial.evaluation.model_copy(update={"metrics": {"psnr": 31.7}}) if one.trial.evaluation else None
    changed_trial = one.trial.model_copy(update={"evaluation": evaluation})
    decision = Decision(verdict="NO-SHIP", chosen=None, sentence="fp32 is too slow.", judged=(verdict,))
    return Evidence(title="one", decisions=(decision,), trials=(Tried(changed_trial, one.folder),), confidence=0.0)
