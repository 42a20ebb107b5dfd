"""Trials made of numbers, for judging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeship.config import Gate, Precision
from edgeship.decide.gate import judge
from edgeship.decide.loaded_trial import Measured
from edgeship.files import sha256_json, write_text
from edgeship.metrics import get
from edgeship.results import (
    Artifact,
    Audit,
    Build,
    Candidate,
    Conditions,
    Evaluated,
    Failure,
    Identity,
    Latency,
    LatencyMs,
    Lineage,
    Quantiles,
    RunResult,
    Trial,
    TrialSummary,
)
from edgeship.results.seal import seal

CLASSES = ("car", "pedestrian", "cyclist")


def records(wrong: dict[str, int] | int = 0, each: int = 400, classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """Classification records: ``each`` images a class; ``wrong`` of them (by class), spread evenly, are wrong."""
    label = np.repeat(np.arange(len(classes), dtype=np.int32), each)
    first = label.copy()
    for k, name in enumerate(classes):
        count = wrong if isinstance(wrong, int) else wrong.get(name, 0)
        first[k * each + np.arange(count) * each // max(count, 1)] = (k + 1) % len(classes)
    top = np.stack([first] + [(first + step) % len(classes) for step in range(1, len(classes))], axis=1)
    return {
        "task": np.array("classification"),
        "classes": np.array(classes),
        "label": label,
        "top": top.astype(np.int32),
        "score": np.full(len(label), 0.9, np.float32),
        "ids": np.array([f"{i}.png" for i in range(len(label))]),
        "digests": np.array([f"{i:064x}" for i in range(len(label))]),
    }


def evaluated(arrays: dict[str, Any], **changes: Any) -> Evaluated:
    """What evaluate would have said about these records."""
    summary = get(str(arrays["task"])).summarize(arrays)
    facts: dict[str, Any] = {
        "task": str(arrays["task"]),
        "images": len(arrays["ids"]),
        "images_sha256": "0" * 64,
        "metrics": summary.metrics,
        "per_class": summary.per_class,
        "examples": summary.examples,
        "seconds": 1.0,
        "images_per_s": 100.0,
    }
    return Evaluated(**(facts | changes))


def latency(samples: np.ndarray, **changes: Any) -> Latency:
    """What benchmark would have said about these wall times."""
    p50, p90, p99 = (float(np.quantile(samples, level)) for level in (0.5, 0.9, 0.99))
    wall = Quantiles(
        p50=p50,
        p90=p90,
        p99=p99,
        mean=float(samples.mean()),
        min=float(samples.min()),
        samples=len(samples),
        interval=(p50 * 0.99, p50 * 1.01),
    )
    facts: dict[str, Any] = {
        "batch": 1,
        "wall_ms": wall,
        "throughput": 1000 / p50,
        "warmup_s": 0.1,
        "seconds": 1.0,
        "settled": True,
        "conditions": Conditions(),
        "peak_memory_mib": 100.0,
    }
    return Latency(**(facts | changes))


def measured(
    name: str = "int8",
    *,
    precision: Precision = "int8",
    ms: float = 2.0,
    arrays: dict[str, Any] | None = None,
    samples: np.ndarray | None = None,
    **changes: Any,
) -> Measured:
    """One trial on onnxruntime. ``changes`` replace fields of the Trial."""
    arrays = records() if arrays is None else arrays
    if samples is None:
        samples = np.random.default_rng(len(name)).normal(ms, ms * 0.01, 1000)
    engine = Artifact(path="engine.onnx", sha256=sha256_json(name), size_bytes=10 << 20)
    identity = Identity(engine="onnxruntime", version="1.32.0", device="cpu")
    facts: dict[str, Any] = {
        "candidate": Candidate(name=name, precision=precision),
        "engine": "onnxruntime",
        "device": "cpu",
        "build": Build(engine=engine, identity=identity, seconds=1.0, inputs=(), outputs=()),
        "audit": Audit(source="engine", asked=precision, layers={}, achieved=1.0),
        "latency": latency(samples),
        "evaluation": evaluated(arrays),
    }
    trial = Trial(**(facts | changes))
    kept = arrays if trial.evaluation is not None else {}
    return Measured(trial, records=kept, latency={"wall_ms": samples} if trial.latency else {})


def failed(name: str, message: str = "the builder gave up") -> Measured:
    """A trial that ended early."""
    failure = Failure(stage="build", kind="BuildError", message=message)
    return measured(name, failure=failure, build=None, audit=None, latency=None, evaluation=None)


def save(item: Measured, folder: Path) -> Path:
    """Write a trial directory as a trial leaves it."""
    folder.mkdir(parents=True)
    trial = item.trial
    if trial.evaluation is not None:
        np.savez(folder / "records.npz", **dict(item.records))
        artifact = Artifact.of(folder / "records.npz", folder)
        trial = trial.model_copy(update={"evaluation": trial.evaluation.model_copy(update={"records": artifact})})
    if trial.latency is not None:
        np.savez(folder / "latency.npz", **dict(item.latency))
        artifact = Artifact.of(folder / "latency.npz", folder)
        trial = trial.model_copy(update={"latency": trial.latency.model_copy(update={"samples": artifact})})
    write_text(folder / "trial.json", trial.model_dump_json())
    seal(folder, f"trial:{item.name}", 1.0)
    return folder


GATE: dict[str, Any] = {"latency_p50_ms": 5.0, "max_drop": {"top1": 0.02}}


def summary(item: Measured, folder: str) -> TrialSummary:
    """What result.json says of a trial."""
    trial = item.trial
    wall = trial.latency.wall_ms if trial.latency else None
    return TrialSummary(
        candidate=item.name, precision=trial.candidate.precision, engine=trial.engine, device=trial.device,
        folder=folder, metrics=trial.evaluation.metrics if trial.evaluation else {}, engine_mib=10.0,
        latency_ms=LatencyMs(p50=wall.p50, p90=wall.p90, p99=wall.p99, clock="wall", batch=1) if wall else None,
        passed=False, outcome="inconclusive",
    )  # fmt: skip


def _right_like(items: tuple[Measured, ...]) -> dict[str, Any]:
    """Records without a mistake, of as many images as the items'."""
    count = next((len(item.records["label"]) for item in items if "label" in item.records), None)
    return records(each=count // len(CLASSES)) if count is not None else records()


def finished_run(
    folder: Path, *items: Measured, gate: dict[str, Any] = GATE, reference: Measured | None = None
) -> Path:
    """A run folder as ``ship`` leaves it; the reference answers like ``records()`` where none is given."""
    if reference is None:
        reference = measured("reference", precision="fp32", ms=8.0, arrays=_right_like(items))
    for item in (reference, *items):
        save(item, folder / item.name)
    decision = judge(Gate(**gate), items, reference)
    result = RunResult(
        edgeship="0.1.0", verdict=decision.verdict, chosen=decision.chosen, sentence=decision.sentence,
        reference=summary(reference, "reference"), trials=tuple(summary(item, item.name) for item in items),
        decisions=(decision,), stages=(), environment={"python": "3.11"}, config={"gate": gate}, title="model",
        lineage=Lineage(digests={"model": "0" * 64}),
        config_file="edgeship.toml", config_text="", finished="2026-11-23T01:40:00+00:00",
    )  # fmt: skip
    restate(folder, result.model_dump_json())
    return folder


def restate(folder: Path, text: str) -> None:
    """Write a run's result.json and its seal."""
    write_text(folder / "result.json", text)
    seal(folder, "run", 1.0, ("result.json",))
