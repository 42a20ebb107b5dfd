"""Optimization profiles: one range for every dynamic axis, checked before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeship.config import Batch, ShapeRange, Target
from edgeship.errors import ConfigError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import tensorrt as trt

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""min, opt and max shape."""
WHY = (
    "without a profile TensorRT refuses the build or locks the axis to one size, and kernels are tuned for opt: "
    "set it to the batch that is really served"
)


def plan_profiles(inputs: Sequence[TensorInfo], target: Target, shape_inputs: frozenset[str]) -> dict[str, Profile]:
    """The profile of every input, by name: its fixed shape, the batch range, or the user's own range.

    Args:
        inputs: The inputs of the parsed network.
        target: Its ``batch`` serves a dynamic first axis, its ``shapes`` serve anything else.
        shape_inputs: Inputs whose values are shapes; their range is of values.

    Raises:
        ConfigError: Every dynamic axis without a range and every range that does not fit, at once.
    """
    problems: list[str] = []
    known = {tensor.name for tensor in inputs}
    for name in target.shapes:
        if name not in known:
            problems.append(f"shapes.{name}: no such input; the network's inputs are {', '.join(sorted(known))}")
    profiles: dict[str, Profile] = {}
    for tensor in inputs:
        given = target.shapes.get(tensor.name)
        if tensor.name in shape_inputs:
            problems += _shape_input(tensor, given, profiles)
        elif given is not None:
            problems += _check_range(tensor, given)
            profiles[tensor.name] = (given.min, given.opt, given.max)
        else:
            problems += _batch_profile(tensor, target.batch, profiles)
    if problems:
        raise ConfigError(problems, where="the optimization profile", do=f"give the missing ranges: {WHY}")
    return profiles


def _batch_profile(tensor: TensorInfo, batch: Batch, profiles: dict[str, Profile]) -> list[str]:
    """The profile of an input from the batch range alone."""
    dynamic = [axis for axis, size in enumerate(tensor.shape) if isinstance(size, str)]
    others = [axis for axis in dynamic if axis != 0]
    if others:
        names = ", ".join(f"axis {axis} ({tensor.shape[axis]!r})" for axis in others)
        spatial = (
            " Dynamic height and width make TensorRT tune for a range of shapes, which is slower: "
            "fix them in the export if the camera's resolution is fixed."
            if len(tensor.shape) == 4 and any(axis in (2, 3) for axis in others)
            else ""
        )
        return [f"input {tensor.name!r}: {names} is dynamic and has no range in shapes.{tensor.name}.{spatial}"]
    fixed = tuple(int(size) for size in tensor.shape if not isinstance(size, str))
    if not dynamic:
        profiles[tensor.name] = (fixed, fixed, fixed)
        asked = (batch.min, batch.opt, batch.max)
        if tensor.shape and batch != Batch() and asked != (fixed[0],) * 3:
            return [
                f"input {tensor.name!r}: its first axis is fixed to {fixed[0]} by the export, and batch asks for "
                f"{asked[0]}..{asked[2]}; export it with a named batch axis, or drop [target] batch"
            ]
        return []
    profiles[tensor.name] = ((batch.min, *fixed), (batch.opt, *fixed), (batch.max, *fixed))
    return []


def _shape_input(tensor: TensorInfo, given: ShapeRange | None, profiles: dict[str, Profile]) -> list[str]:
    if given is None:
        return [f"input {tensor.name!r} carries a shape: give the range of its values in shapes.{tensor.name}"]
    profiles[tensor.name] = (given.min, given.opt, given.max)
    length = int(tensor.shape[0]) if tensor.shape else 1
    if {len(given.min), len(given.opt), len(given.max)} != {length}:
        return [f"shapes.{tensor.name}: the input carries {length} values, the range has {len(given.min)}"]
    return _order(tensor.name, given)


def _check_range(tensor: TensorInfo, given: ShapeRange) -> list[str]:
    ranks = {len(given.min), len(given.opt), len(given.max)}
    if ranks != {len(tensor.shape)}:
        found = "/".join(str(len(shape)) for shape in (given.min, given.opt, given.max))
        return [f"shapes.{tensor.name}: the input has {len(tensor.shape)} axes, min/opt/max have {found}"]
    problems = _order(tensor.name, given)
    for axis, size in enumerate(tensor.shape):
        asked = {given.min[axis], given.opt[axis], given.max[axis]}
        if not isinstance(size, str) and asked != {size}:
            problems.append(f"shapes.{tensor.name}: axis {axis} is fixed to {size}, the range asks for {sorted(asked)}")
    return problems


def _order(name: str, given: ShapeRange) -> list[str]:
    triples = zip(given.min, given.opt, given.max, strict=True)
    if all(low <= best <= high for low, best, high in triples):
        return []
    return [f"shapes.{name}: needs min <= opt <= max on every axis, found {given.min}, {given.opt}, {given.max}"]


def apply_profiles(
    builder: trt.Builder, config: trt.IBuilderConfig, profiles: dict[str, Profile], shape_inputs: frozenset[str]
) -> Any:
    """Add one optimization profile to the builder's configuration and return it.

    Raises:
        ConfigError: TensorRT itself objects to a range.
    """
    profile = builder.create_optimization_profile()
    for name, (low, best, high) in profiles.items():
        try:
            if name in shape_inputs:
                profile.set_shape_input(name, list(low), list(best), list(high))
            else:
                profile.set_shape(name, low, best, high)
        except ValueError as error:
            raise ConfigError([f"shapes.{name}: {error}"], where="the optimization profile") from None
    if config.add_optimization_profile(profile) < 0:
        raise ConfigError(["TensorRT refused the ranges together"], where="the optimization profile")
    return profile
