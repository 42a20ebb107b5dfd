"""The shapes that an engine without optimization profiles of its own is built for, and that its graph must serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeship.data.feeds import batch_size, noise
from edgeship.errors import BuildError, EngineError, ModelError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    from edgeship.config import Target
    from edgeship.engines import Array

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
Feeds = dict[str, "Array"]


def example_feeds(inputs: tuple[TensorInfo, ...], target: Target, seed: int = 0) -> Feeds:
    """Seeded noise of the profile's opt shapes: for time and kernel choice, not for accuracy.

    Raises:
        BuildError: An axis other than the first is dynamic and ``target.shapes`` does not say its size.
    """
    return noise(inputs, {info.name: opt_shape(info, target) for info in inputs}, seed)


def opt_shape(info: TensorInfo, target: Target) -> tuple[int, ...]:
    """The shape of an input that is timed and shipped. Raises as :func:`example_feeds`."""
    given = target.shapes.get(info.name)
    if given is not None:
        return given.opt
    shape = [
        target.batch.opt if place == 0 and isinstance(axis, str) else axis for place, axis in enumerate(info.shape)
    ]
    known = tuple(axis for axis in shape if isinstance(axis, int))
    if len(known) != len(shape):
        loose = [axis for axis in shape if isinstance(axis, str)]
        raise BuildError(
            f"input {info.name!r} has the dynamic axes {', '.join(loose)} beside the batch",
            expected=f"[target.shapes.{info.name}] with min, opt and max",
            do="add it to edgeship.toml",
        )
    return known


def profiles_of(inputs: tuple[TensorInfo, ...], target: Target) -> dict[str, Profile]:
    """The smallest, the usual and the largest shape of each input. Raises as :func:`example_feeds`."""
    found: dict[str, Profile] = {}
    for info in inputs:
        given = target.shapes.get(info.name)
        if given is not None:
            found[info.name] = (given.min, given.opt, given.max)
            continue
        opt = opt_shape(info, target)
        loose = bool(info.shape) and isinstance(info.shape[0], str)
        batch = target.batch
        low, high = ((batch.min, *opt[1:]), (batch.max, *opt[1:])) if loose else (opt, opt)
        found[info.name] = (low, opt, high)
    return found


def require_batches(
    run: Callable[[Feeds], list[tuple[int, ...]]], inputs: tuple[TensorInfo, ...], target: Target
) -> None:
    """Refuse a graph that does not serve the profile's smallest and largest batch, whatever it declares.

    Args:
        run: Gives the shapes of the outputs for feeds; raises EngineError where the graph fails.
        inputs: Of the graph.
        target: With the profile.

    Raises:
        ModelError: It fails with one of them, or gives one answer for batches of different sizes.
    """
    profiles = profiles_of(inputs, target)
    low, high = ({name: profile[place] for name, profile in profiles.items()} for place in (0, 2))
    advice = "edgeship slim names the node that holds the batch; or set target.batch to what the graph serves"
    rows = [batch_size(inputs, shapes) for shapes in (low, high)]
    answers = []
    for shapes, batch in zip((low, high), rows, strict=True):
        try:
            answers.append(run(noise(inputs, shapes)))
        except EngineError as error:
            raise ModelError(
                f"the graph does not run with a batch of {batch}: {error.found[:300]}",
                expected=f"a graph that runs with every batch from {rows[0]} to {rows[1]}",
                do=advice,
            ) from None
    if rows[0] != rows[1] and answers[0] == answers[1]:
        raise ModelError(
            f"a batch of {rows[0]} and one of {rows[1]} are both answered with outputs of "
            f"{', '.join(str(list(shape)) for shape in answers[0])}: the graph holds one batch inside",
            expected="an answer for each frame of a batch",
            do=advice,
        )
