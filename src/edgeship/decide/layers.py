"""What the layers of an engine show: where the time goes, islands of float in INT8, and why one engine is faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeship.decide.finished_run import FinishedRun
from edgeship.errors import ArtifactError, UserInputError
from edgeship.results import EngineLayer, EngineLayers, Trial

ROLES = ("product", "other", "quantize", "reformat")
TITLES = {
    "product": "convolutions and matrix products",
    "other": "other layers",
    "quantize": "layers that only quantize or dequantize",
    "reformat": "layers that only change type or layout",
}
BOUNDARY = ("quantize", "reformat")
PROFILES = {"onnxruntime": "onnxruntime's profile", "openvino": "OpenVINO's execution graph"}
"""Where engines that tell what really ran tell it."""
LOW = ("int8", "fp8", "int4")
NAME = 60
"""Characters of a layer's name in a sentence."""
EQUAL = 0.005
"""Share of the time below which two engines are called equally fast."""
NAMED = 0.5
"""Share of the products that must be matched by the nodes they fuse; else they are matched by their order."""


@dataclass(frozen=True)
class Island:
    """Layers in float between INT8 products, and the boundary layers on both sides that exist only for them.

    ``first`` and ``last`` are places in the order, boundary layers included; ``ms`` is the time of all of it.
    """

    first: int
    last: int
    layers: tuple[EngineLayer, ...]
    ms: float | None


def layers_of_trial(trial: Trial, title: str = "") -> EngineLayers:
    """The layers of a tried engine, with its median by the clock that it was timed by.

    Raises:
        ArtifactError: The trial has none: the engine was not audited, or only its network could be read.
    """
    audit = trial.audit
    if audit is None or not audit.order:
        why = "was not audited" if audit is None else "could not be opened, so only its parsed network was read"
        raise ArtifactError(
            f"the layers of {trial.candidate.name} on {trial.target_name} are not known: its engine {why}",
            expected="a trial whose engine was built and opened",
            do="run edgeship ship again, or give trtexec's --exportLayerInfo",
        )
    timed = trial.latency.timed() if trial.latency is not None else None
    source = PROFILES.get(trial.engine, "its profile") if audit.source == "profile" else "TensorRT's inspector"
    whole = timed.quantiles.p50 if timed is not None else None
    return EngineLayers(title=title or trial.candidate.name, source=source, layers=audit.order, whole_ms=whole)


def layers_of_run(run: FinishedRun, candidate: str = "") -> EngineLayers:
    """The layers of a candidate of a run; by default of the one that ships, else of the first that has any.

    Args:
        run: A finished run.
        candidate: Its name, or ``target/name`` where several targets tried it.

    Raises:
        UserInputError: No such candidate.
        ArtifactError: Its layers are not known.
    """
    target, _, name = candidate.rpartition("/")
    wanted = name or run.result.chosen or ""
    found = [
        item.trial
        for item in run.trials
        if target in ("", item.trial.target_name) and wanted in ("", item.trial.candidate.name)
    ]
    if not found:
        known = ", ".join(dict.fromkeys(item.trial.candidate.name for item in run.trials)) or "none"
        raise UserInputError(f"the run has no candidate {candidate or wanted!r}", expected=f"one of {known}")
    with_layers = [trial for trial in found if trial.audit is not None and trial.audit.order]
    return layers_of_trial(next(iter(with_layers), found[0]))


def islands(layers: Sequence[EngineLayer]) -> tuple[Island, ...]:
    """The float islands of an engine: runs of float layers with INT8 products before and after them."""
    low = [index for index, layer in enumerate(layers) if layer.role == "product" and layer.precision in LOW]
    if not low:
        return ()
    found: list[Island] = []
    place = low[0]
    while place < low[-1]:
        if not _floats(layers[place]):
            place += 1
            continue
        first = last = place
        while last + 1 < low[-1] and (_floats(layers[last + 1]) or layers[last + 1].role in BOUNDARY):
            last += 1
        while first - 1 > low[0] and layers[first - 1].role in BOUNDARY:
            first -= 1
        inside = layers[first : last + 1]
        found.append(Island(first, last, tuple(layer for layer in inside if _floats(layer)), time_of(inside)))
        place = last + 1
    return tuple(found)


def _floats(layer: EngineLayer) -> bool:
    """Whether a layer computes in float; layers without time do nothing."""
    return layer.role not in BOUNDARY and layer.precision.startswith(("fp", "bf", "tf")) and layer.precision != "fp8"


def time_of(layers: Sequence[EngineLayer]) -> float | None:
    """Their time in milliseconds; None where none of them was timed."""
    known = [layer.ms for layer in layers if layer.ms is not None]
    return sum(known) if known else None


@dataclass(frozen=True)
class RoleTime:
    """The layers of one role in two engines: how many, and their time in milliseconds."""

    role: str
    counts: tuple[int, int]
    ms: tuple[float | None, float | None]

    @property
    def change(self) -> float | None:
        """B minus A."""
        before, after = self.ms
        return None if before is None and after is None else (after or 0.0) - (before or 0.0)


@dataclass(frozen=True)
class LayerPair:
    """A layer of A and its counterpart in B; one of them is None where the other engine has none."""

    before: EngineLayer | None
    after: EngineLayer | None

    @property
    def change(self) -> float | None:
        """B minus A in milliseconds; a layer that is missing takes none."""
        times = [layer.ms for layer in (self.before, self.after) if layer is not None]
        if any(ms is None for ms in times):
            return None
        before = self.before.ms if self.before is not None else 0.0
        after = self.after.ms if self.after is not None else 0.0
        return (after or 0.0) - (before or 0.0)


@dataclass(frozen=True)
class LayerDiff:
    """Two engines layer by layer.

    Args:
        a: The engine that is compared with.
        b: The engine that is compared.
        roles: Time by role, in the order of :data:`ROLES`.
        pairs: Every layer, those that grew most first; those without times at the end.
        matched: How products were matched: ``nodes``, ``order``, or empty where they could not be.
        sentences: Which is faster, and why.
    """

    a: EngineLayers
    b: EngineLayers
    roles: tuple[RoleTime, ...]
    pairs: tuple[LayerPair, ...]
    matched: str
    sentences: tuple[str, ...]


def diff(a: EngineLayers, b: EngineLayers) -> LayerDiff:
    """Compare two engines layer by layer.

    Products are matched by the ONNX nodes that they fuse; where the two graphs name their nodes differently, by their
    order, if both have as many. Other layers are matched by their nodes alone.
    """
    roles = tuple(_role_time(role, a.layers, b.layers) for role in ROLES)
    pairs, matched = _pairs(a.layers, b.layers)
    order = sorted(pairs, key=lambda pair: (pair.change is None, -(pair.change or 0.0)))
    found = LayerDiff(a, b, roles, tuple(order), matched, ())
    return LayerDiff(a, b, roles, found.pairs, matched, tuple(_sentences(found)))


def _role_time(role: str, a: Sequence[EngineLayer], b: Sequence[EngineLayer]) -> RoleTime:
    own = [[layer for layer in layers if layer.role == role] for layers in (a, b)]
    return RoleTime(role, (len(own[0]), len(own[1])), (time_of(own[0]), time_of(own[1])))


def _pairs(a: Sequence[EngineLayer], b: Sequence[EngineLayer]) -> tuple[list[LayerPair], str]:
    products = [[layer for layer in layers if layer.role == "product"] for layers in (a, b)]
    least = min(len(products[0]), len(products[1]))
    named = _by_nodes(products[0], products[1])
    if least and len(named) >= NAMED * least:
        return _paired(a, b, _by_nodes(a, b)), "nodes"
    if least and len(products[0]) == len(products[1]):
        others = [[layer for layer in layers if layer.role == "other"] for layers in (a, b)]
        alike = _by_order(*others) if len(others[0]) == len(others[1]) else {}
        return _paired(a, b, _by_order(*products) | alike), "order"
    return _paired(a, b, {}), ""


def _by_nodes(a: Sequence[EngineLayer], b: Sequence[EngineLayer]) -> dict[int, EngineLayer]:
    """Counterparts in B by the identity of A's layer: those of the same role that share most nodes, each used once."""
    owners: dict[tuple[str, str], EngineLayer] = {}
    for layer in b:
        for node in layer.nodes:
            owners.setdefault((layer.role, node), layer)
    found: dict[int, EngineLayer] = {}
    used: set[int] = set()
    for layer in a:
        shared: dict[int, int] = {}
        known = {id(owner): owner for node in layer.nodes if (owner := owners.get((layer.role, node))) is not None}
        for node in layer.nodes:
            owner = owners.get((layer.role, node))
            if owner is not None and id(owner) not in used:
                shared[id(owner)] = shared.get(id(owner), 0) + 1
        if shared:
            best = max(shared, key=lambda key: shared[key])
            used.add(best)
            found[id(layer)] = known[best]
    return found


def _by_order(a: Sequence[EngineLayer], b: Sequence[EngineLayer]) -> dict[int, EngineLayer]:
    """Counterparts in B: those of the same kernel, maps and stride in their order, the rest in theirs."""
    waiting: dict[str, list[EngineLayer]] = {}
    for layer in b:
        waiting.setdefault(layer.detail, []).append(layer)
    found: dict[int, EngineLayer] = {}
    for layer in a:
        alike = waiting.get(layer.detail)
        if alike:
            found[id(layer)] = alike.pop(0)
    taken = {id(layer) for layer in found.values()}
    rest = [layer for layer in b if id(layer) not in taken]
    left = [layer for layer in a if id(layer) not in found]
    return found | {id(before): after for before, after in zip(left, rest, strict=True)}


def _paired(a: Sequence[EngineLayer], b: Sequence[EngineLayer], matches: dict[int, EngineLayer]) -> list[LayerPair]:
    taken = {id(layer) for layer in matches.values()}
    pairs = [LayerPair(layer, matches.get(id(layer))) for layer in a]
    return pairs + [LayerPair(None, layer) for layer in b if id(layer) not in taken]


# --- words ---------------------------------------------------------------------------------------------------


def _sentences(found: LayerDiff) -> list[str]:
    """Which engine is faster, what it gains and where it pays."""
    a, b = found.a, found.b
    times = [time_of(engine.layers) for engine in (a, b)]
    if times[0] is None or times[1] is None:
        return ["The layers of one of the two were not timed, so only types and order are compared."]
    change = times[1] - times[0]
    words = "as fast as" if abs(change) < EQUAL * times[0] else "slower than" if change > 0 else "faster than"
    head = f"{b.title} is {words} {a.title}: its layers take {_ms(times[1])} against {_ms(times[0])}"
    if a.whole_ms is not None and b.whole_ms is not None:
        head += f" (whole inferences without a profiler: {_ms(b.whole_ms)} against {_ms(a.whole_ms)})"
    boundary = sum(item.change or 0.0 for item in found.roles if item.role in BOUNDARY)
    product = next(item for item in found.roles if item.role == "product").change or 0.0
    other = next(item for item in found.roles if item.role == "other").change or 0.0
    parts = {
        "convolutions and matrix products": product,
        "layers that quantize, dequantize or only change type or layout": boundary,
        "all other layers": other,
    }
    gains = [f"{title} {_ms(-value)} less" for title, value in parts.items() if value < -0.0005]
    costs = [f"{title} {_ms(value)} more" for title, value in parts.items() if value > 0.0005]
    sentences = [f"{head}."]
    if gains or costs:
        sentences.append(f"Compared with {a.title}, {_joined([*gains, *costs])}.")
    if product < 0 < boundary:
        share = boundary / -product
        eaten = f"more than all ({share:.0%})" if share > 1 else f"{share:.0%}"
        sentences.append(f"The boundaries eat {eaten} of what the products gain.")
    sentences += _worst(found)
    float_islands = islands(b.layers)
    if float_islands:
        costs_ms = sum(item.ms or 0.0 for item in float_islands)
        count = len(float_islands)
        largest = sorted(float_islands, key=lambda item: -(item.ms or 0.0))[:3]
        named = ", ".join(short(item.layers[0].name) for item in largest)
        sentences.append(
            f"{b.title} has {count} island{'s' if count != 1 else ''} of float between INT8 layers, with their "
            f"boundaries {_ms(costs_ms)}: {named}."
        )
    return sentences


def _worst(found: LayerDiff) -> list[str]:
    """The layers that grew most, where any grew."""
    grown = [pair for pair in found.pairs if pair.before and pair.after and (pair.change or 0.0) > 0.0005][:3]
    if not grown:
        return []
    words = [
        f"{short(pair.after.name)} ({_ms(pair.before.ms)} → {_ms(pair.after.ms)}, {pair.before.precision} → "
        f"{pair.after.precision}{_leaves(pair.after)})"
        for pair in grown
        if pair.before is not None and pair.after is not None
    ]
    return [f"Slower in {found.b.title}: {', '.join(words)}."]


def _leaves(layer: EngineLayer) -> str:
    return f", leaves {layer.output}" if layer.output and layer.output != layer.precision else ""


def short(name: str) -> str:
    """A layer's name at a length that can be read."""
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"
