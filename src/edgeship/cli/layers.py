"""``layers``: what an engine runs, layer by layer, or two engines side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgeship.cli.app import app
from edgeship.cli.output import JSON_OPTION, emit
from edgeship.errors import UserInputError

if TYPE_CHECKING:
    from edgeship.cli.output import Lines
    from edgeship.decide.layers import LayerDiff
    from edgeship.results import EngineLayer, EngineLayers

WHAT = "A run's folder (RUN:CANDIDATE for one of its candidates), a trial's folder, or trtexec's --exportLayerInfo."
SHOWN = 40
"""Lines of a listing; ``--all`` shows the rest."""


@app.command()
def layers(
    a: str = typer.Argument(help=WHAT),
    b: str | None = typer.Argument(None, help="The engine to compare with A, in the same forms."),
    profile: list[Path] = typer.Option([], "--profile", help="trtexec's --exportProfile, for A, then for B."),
    times: list[Path] = typer.Option([], "--times", help="trtexec's --exportTimes, for A, then for B."),
    everything: bool = typer.Option(False, "--all", help=f"All layers, not only {SHOWN}."),
    as_json: bool = JSON_OPTION,
) -> None:
    """Layers of an engine in order, with type, precision and time; of two engines, which is faster and why.

    Marked are layers that only quantize or reformat, and islands of float between INT8 layers. Times come from
    onnxruntime's profile, or from trtexec's --exportProfile beside its --exportLayerInfo.
    """
    from edgeship.decide.layers import diff

    if len(profile) > 1 + (b is not None) or len(times) > 1 + (b is not None):
        raise UserInputError("more --profile or --times than engines", expected="one for each engine, in their order")
    limit = None if everything else SHOWN
    first = _read(a, profile[0] if profile else None, times[0] if times else None)
    if b is None:
        emit(first, as_json=as_json, lines=lambda: _lines(first, limit))
        return
    second = _read(b, profile[1] if len(profile) > 1 else None, times[1] if len(times) > 1 else None)
    found = diff(first, second)
    emit(_told(found), as_json=as_json, lines=lambda: _diff_lines(found, limit))


def _read(text: str, profile: Path | None, times: Path | None) -> EngineLayers:
    """The layers at a place. Raises UserInputError, ArtifactError."""
    from edgeship.decide.finished_run import open_run
    from edgeship.decide.layers import layers_of_run, layers_of_trial
    from edgeship.engines.exported import read_layers
    from edgeship.results import trial_folder

    path, candidate = Path(text), ""
    if not path.exists() and ":" in text:
        place, _, candidate = text.rpartition(":")
        path = Path(place)
    if not path.exists():
        raise UserInputError(f"{text} does not exist", expected=WHAT)
    if path.is_dir() and (path / trial_folder.TRIAL).is_file():
        return layers_of_trial(trial_folder.read_trial(path))
    if path.is_dir() or path.name == "result.json":
        return layers_of_run(open_run(path), candidate)
    return read_layers(path, profile, times)


def _lines(found: EngineLayers, limit: int | None) -> Lines:
    from rich.table import Table

    from edgeship.decide.layers import islands, short, time_of

    total = time_of(found.layers)
    float_islands = islands(found.layers)
    inside = {place for island in float_islands for place in range(island.first, island.last + 1)}
    whole = f", one inference {found.whole_ms:.3f} ms" if found.whole_ms is not None else ""
    timed = f"{total:.3f} ms together" if total is not None else "not timed"
    yield f"{found.title}: {len(found.layers)} layers, {timed}{whole} (read from {found.source})"
    table = Table("", "layer", "kind", "precision", "ms", "share", "", box=None, pad_edge=False)
    shown = found.layers if limit is None else found.layers[:limit]
    for place, layer in enumerate(shown):
        share = f"{layer.ms / total:.1%}" if total and layer.ms is not None else ""
        mark = layer.role if layer.role in ("quantize", "reformat") else "float island" if place in inside else ""
        time = f"{layer.ms:.4f}" if layer.ms is not None else "–"
        table.add_row(str(place), short(layer.name), layer.kind, _types(layer), time, share, mark)
    yield table
    if len(shown) < len(found.layers):
        yield f"{len(found.layers) - len(shown)} more layers: --all"
    for island in float_islands:
        cost = f", {island.ms:.4f} ms with its boundaries" if island.ms is not None else ""
        yield f"float island at {island.first}: {', '.join(short(layer.name) for layer in island.layers[:4])}{cost}"


def _types(layer: EngineLayer) -> str:
    return layer.precision if layer.output in ("", layer.precision) else f"{layer.precision} → {layer.output}"


def _diff_lines(found: LayerDiff, limit: int | None) -> Lines:
    from rich.table import Table

    from edgeship.decide.layers import TITLES, short

    yield from found.sentences
    roles = Table("", f"A: {found.a.title}", f"B: {found.b.title}", "B - A, ms", box=None, pad_edge=False)
    for role in found.roles:
        times = [f"{count} in {_ms(ms)}" for count, ms in zip(role.counts, role.ms, strict=True)]
        roles.add_row(TITLES[role.role], *times, _change(role.change))
    yield roles
    matched = {"nodes": "matched by the nodes that they fuse", "order": "matched by what they do, in their order"}
    yield f"products {matched.get(found.matched, 'could not be matched')}"
    pairs = Table("layer of A", "layer of B", "precision", "B - A, ms", box=None, pad_edge=False)
    shown = found.pairs if limit is None else (*found.pairs[: limit // 2], *found.pairs[limit // 2 :][-limit // 2 :])
    for pair in shown:
        both = [item for item in (pair.before, pair.after) if item is not None]
        names = [short(item.name) if item is not None else "–" for item in (pair.before, pair.after)]
        pairs.add_row(*names, " → ".join(dict.fromkeys(item.precision for item in both)), _change(pair.change))
    yield pairs
    if len(shown) < len(found.pairs):
        yield f"{len(found.pairs) - len(shown)} layers between them: --all"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f} ms"


def _change(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"


def _told(found: LayerDiff) -> dict[str, Any]:
    """A difference as JSON."""
    return {
        "a": found.a.model_dump(mode="json"),
        "b": found.b.model_dump(mode="json"),
        "sentences": list(found.sentences),
        "matched": found.matched,
        "roles": [{"role": item.role, "counts": item.counts, "ms": item.ms} for item in found.roles],
        "pairs": [
            {
                "a": pair.before.name if pair.before is not None else None,
                "b": pair.after.name if pair.after is not None else None,
                "change_ms": pair.change,
            }
            for pair in found.pairs
        ],
    }
