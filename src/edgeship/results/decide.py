"""What ``decide`` tells: rules, verdicts, the search, and result.json."""

from __future__ import annotations

from typing import Any, Literal

from edgeship.config import EngineName, Precision
from edgeship.results.base import SCHEMA_VERSION, Outcome, Result, VerdictWord
from edgeship.results.trial import Audit


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
