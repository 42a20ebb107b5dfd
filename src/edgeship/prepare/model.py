"""The user's model: from ``module:callable``, ``.pt2`` or ``.onnx``, with its weights and seeded example inputs."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeship import config
from edgeship.config import InputSpec
from edgeship.data.feeds import Shapes, noise, possible_shapes
from edgeship.data.reference import import_own, importable
from edgeship.engines.file_kind import require_onnx
from edgeship.errors import DataError, MissingExtra, ModelError
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
DYNAMIC_EXAMPLE = 2
"""Example size of a dynamic axis. torch.export takes 1 for a constant (pytorch#148629)."""


@dataclass(frozen=True)
class Loaded:
    """A PyTorch model ready for export, on the CPU, in eval mode."""

    module: torch.nn.Module
    inputs: dict[str, InputSpec]
    program: Any = None
    """The ExportedProgram, when the source was a .pt2."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """The declared inputs, in call order."""
        return tuple(TensorInfo(name=name, shape=spec.shape, dtype=spec.dtype) for name, spec in self.inputs.items())

    def noise(self, shapes: Shapes, seed: int) -> dict[str, Array]:
        """Seeded inputs of these shapes, between each input's ``low`` and ``high`` where the user declared them."""
        return noise(self.tensors, shapes, seed, bounds_of(self.inputs))


def import_torch(what: str) -> Any:
    """The torch package, or MissingExtra naming the ``host`` extra."""
    try:
        import torch
    except ImportError:
        raise MissingExtra(what, "torch", "host") from None
    return torch


def bounds_of(inputs: dict[str, InputSpec]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of the inputs for which the user declared one of them."""
    given = {name: spec for name, spec in inputs.items() if spec.low is not None or spec.high is not None}
    return {name: (spec.low or 0.0, 1.0 if spec.high is None else spec.high) for name, spec in given.items()}


def is_onnx(settings: config.Model) -> bool:
    """Whether the source is an ONNX file already."""
    return Path(settings.source).suffix == ".onnx"


def load(settings: config.Model, root: Path) -> Loaded:
    """Load the user's PyTorch model.

    Args:
        settings: The ``[model]`` table.
        root: The folder that ``module:callable`` is imported from.

    Raises:
        ModelError: The source does not import or returns no module, or the weights do not fit.
    """
    import_torch("loading a PyTorch model")
    if Path(settings.source).suffix == ".pt2":
        return _load_program(Path(settings.source), settings)
    module = load_module(settings, root)
    if not settings.inputs:
        raise ModelError(
            "model.inputs is missing",
            expected="name, shape and dtype of each input of forward()",
            do='add [model.inputs.images] with shape = ["batch", 3, 224, 224] to edgeship.toml',
        )
    _refuse_bfloat16(module)
    return Loaded(module, _in_call_order(module, settings.inputs))


def load_module(settings: config.Model, root: Path) -> torch.nn.Module:
    """What ``module:callable`` returns, with its weights, on the CPU in eval mode. Raises as :func:`load` does."""
    import_torch("loading a PyTorch model")
    module = _call_source(settings, root)
    if settings.weights is not None:
        _load_weights(module, settings.weights, settings.weights_key)
    return module.cpu().eval()


def _refuse_bfloat16(module: torch.nn.Module) -> None:
    import torch

    named = (*module.named_parameters(), *module.named_buffers())
    found = [name for name, tensor in named if tensor.dtype == torch.bfloat16]
    if found:
        raise ModelError(
            f"the model holds bfloat16 weights: {_some(found)}",
            expected="float32 weights; edgeship chooses the engine's precision later",
            do="call model.float() where the model is built, and cast nothing to bfloat16 in forward()",
        )


def _call_source(settings: config.Model, root: Path) -> torch.nn.Module:
    import torch

    source = settings.source
    require_reference(source)
    name, _, attribute = source.partition(":")
    module = _import(name, root, source)
    build = getattr(module, attribute, None)
    if not callable(build):
        known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ModelError(
            f"{source}: {name} has no callable {attribute!r}",
            expected=f"one of {', '.join(known[:12]) or 'its functions'}",
        )
    torch.manual_seed(0)  # a model without weights is the same model in every stage
    try:
        model = build(**settings.arguments)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{source} raised {type(error).__name__}: {error}", do=f"call {attribute}() in Python and fix it there"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ModelError(f"{source} returned {type(model).__name__}", expected="a torch.nn.Module")
    return model


def require_reference(source: str) -> None:
    """Refuse a source that is not written as ``module:callable``, by what it is.

    Raises:
        ModelError: What it is, and what to write.
    """
    if Path(source).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        raise ModelError(
            f"model.source = {source!r} is a file of weights or a pickle, which may run code and is not opened",
            expected="module:callable that builds the network, or a path to .onnx or .pt2",
            do=f'write source = "model:build" and weights = "{source}"',
        )
    if source.partition(":")[2]:
        return
    if Path(source).is_file():
        require_onnx(Path(source))
        raise ModelError(
            f"model.source = {source!r} has no suffix that says what it is",
            expected=".onnx or .pt2",
            do="rename it, if it is one of them",
        )
    raise ModelError(
        f"model.source = {source!r} is neither module:callable nor a path to .onnx or .pt2",
        do='write source = "model:build" for the function build() in model.py',
    )


def _import(name: str, root: Path, source: str) -> Any:
    """Import ``name`` from ``root`` where it is there, and never another project's module of the same name."""
    try:
        importlib.invalidate_caches()
        with importable(root):
            return import_own(name, [str(root)])
    except DataError as error:
        raise ModelError(f"model.source = {source!r}: {error.found}", do=error.do) from error
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"model.source = {source!r} does not import: {type(error).__name__}: {error}",
            expected=f"a module {name!r} in {root} or installed here",
            do=f"cd {root} && python -c 'import {name}'",
        ) from error


def _in_call_order(module: torch.nn.Module, inputs: dict[str, InputSpec]) -> dict[str, InputSpec]:
    """Inputs in the order of forward()'s parameters where all names match, else as the user wrote them."""
    parameters = [name for name in inspect.signature(module.forward).parameters if name in inputs]
    return {name: inputs[name] for name in parameters} if len(parameters) == len(inputs) else dict(inputs)


def _load_weights(module: torch.nn.Module, path: Path, key: str | None) -> None:
    state = _read_state(path, key)
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    shapes = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{label}: {_some(names)}"
            for label, names in (("not in the file", missing), ("not in the model", extra), ("other shape", shapes))
            if names
        ]
        raise ModelError(
            f"the weights {path} do not fit the model\n  " + "\n  ".join(parts),
            expected=f"{len(own)} tensors named as in the model's state_dict()",
            do="check model.source and model.arguments, or set model.weights_key when the state dict is nested",
        )
    module.load_state_dict(state, strict=False)


def _some(names: list[str], count: int = 5) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _read_state(path: Path, key: str | None) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    if not path.is_file():
        raise ModelError(f"no weights file at {path}", do="fix model.weights")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise MissingExtra("reading .safetensors weights", "safetensors", "host") from None
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is not a whole safetensors file: {error}", do="copy or save it again") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and was not loaded, because loading it could run code: "
            + str(error).strip().splitlines()[0],
            expected="safetensors, or a checkpoint that loads with weights_only=True",
            do="save model.state_dict() alone with safetensors.torch.save_file, on a machine that trusts this file",
        ) from None
    except (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path} is not a readable checkpoint: {words}",
            do="save it again: torch.save(model.state_dict(), path), or as safetensors",
        ) from None
    for part in (key or "").split(".") if key else ():
        if not isinstance(state, dict) or part not in state:
            known = ", ".join(map(str, list(state)[:8])) if isinstance(state, dict) else type(state).__name__
            raise ModelError(f"{path} has no key {key!r}", expected=f"one of {known}")
        state = state[part]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        nested = [name for name, value in state.items() if isinstance(value, dict)] if isinstance(state, dict) else []
        raise ModelError(
            f"{path} is not a flat dict of tensors",
            do=f"set model.weights_key to one of {', '.join(map(str, nested))}" if nested else "save a state_dict()",
        )
    return state


def _load_program(path: Path, settings: config.Model) -> Loaded:
    import torch

    if settings.weights is not None:
        raise ModelError("model.weights is set, and a .pt2 carries its own weights", do="remove model.weights")
    _refuse_code(path)
    try:
        program = torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable .pt2: {str(error).splitlines()[0]}",
            do="save it again: torch.export.save(program, path)",
        ) from None
    inputs = dict(settings.inputs) or _program_inputs(program)
    return Loaded(program.module(), inputs, program)


def _refuse_code(path: Path) -> None:
    """Refuse a .pt2 whose loading would unpickle objects or open a shared library."""
    import io
    import pickle

    import torch

    if not path.is_file():
        raise ModelError(f"no model file at {path}", do="fix model.source")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ModelError(
            f"{path} is truncated or not a .pt2: {error}", do="save it again with torch.export.save"
        ) from None
    refused = ModelError(
        f"{path} holds more than a graph and tensors and was not loaded, because loading it could run code",
        expected="a .pt2 from torch.export.save with tensors as sample inputs",
        do="save it again without custom objects or compiled libraries",
    )
    with archive:
        pickled: set[str] = set()
        for name in archive.namelist():
            leaf = name.rpartition("/")[2]
            if leaf.startswith(("opaque_obj_", "custom_obj_")) or "/aotinductor/" in name or leaf.endswith(".so"):
                raise refused
            if "/sample_inputs/" in name or (leaf.endswith(".pt") and "config" not in leaf):
                pickled.add(name)
            if leaf.endswith("_config.json"):
                folder = name.rpartition("/")[0]
                try:
                    entries = json.loads(archive.read(name)).get("config", {})
                    pickled |= {f"{folder}/{item['path_name']}" for item in entries.values() if item.get("use_pickle")}
                except (ValueError, AttributeError, KeyError, TypeError, zipfile.BadZipFile) as error:
                    raise ModelError(
                        f"{path}: {name} is not what torch.export.save writes: {type(error).__name__}: {error}",
                        do="save it again with torch.export.save",
                    ) from None
        for name in pickled & set(archive.namelist()):
            data = archive.read(name)
            if not data:
                continue
            try:
                torch.load(io.BytesIO(data), weights_only=True)
            except (pickle.UnpicklingError, RuntimeError, EOFError):
                raise refused from None


def _program_inputs(program: Any) -> dict[str, InputSpec]:
    """Input shapes of an ExportedProgram. Its symbolic axes become dynamic ones with names of ours: a first axis is
    ``batch``, another ``<input>_axis<place>``, and the same symbol has the same name."""
    found, known = {}, dict[str, str]()
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for name in program.graph_signature.user_inputs:
        value = values[str(name)]
        shape = tuple(
            int(axis)
            if isinstance(axis, int)
            else known.setdefault(str(axis), f"{name}_axis{place}" if place or "batch" in known.values() else "batch")
            for place, axis in enumerate(value.shape)
        )
        found[str(name)] = InputSpec.model_validate({"shape": shape, "dtype": str(value.dtype).removeprefix("torch.")})
    return found


def accepted_shapes(loaded: Loaded, known: Shapes | None = None) -> tuple[Shapes, list[tuple[str, Array]]]:
    """Shapes of the inputs that the model takes, with two rows for a dynamic batch, and its outputs on noise of them.

    Axes that neither the declaration nor ``known`` fixes get sizes of :data:`edgeship.data.feeds.TRIED_SIZES`, the
    first that the model takes.

    Raises:
        ModelError: The model takes none of them.
    """
    refused: ModelError | None = None
    module = untouched(loaded.module)
    for shapes in possible_shapes(loaded.tensors, DYNAMIC_EXAMPLE, known):
        try:
            return shapes, call(module, loaded.noise(shapes, seed=0))
        except ModelError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def untouched(module: torch.nn.Module) -> torch.nn.Module:
    """A copy to call: many models keep tensors of their first call's shapes, which an export would freeze.

    A module that cannot be copied is returned itself.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch's own classes say of being copied
            return copy.deepcopy(module)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return module


def flat_outputs(value: Any) -> list[tuple[str, torch.Tensor]]:
    """Every tensor of a model's answer with a name from its place: ``logits``, ``aux_0``, ``output_1``.

    Order is torch.export's own, which is the order of the ONNX outputs.
    """
    import torch
    from torch.utils import _pytree as pytree

    named = []
    leaves, _ = pytree.tree_flatten_with_path(value)
    for path, leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            continue
        words = [str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", "")))) for step in path]
        name = "_".join(word for word in words if word != "")
        if not name or name[0].isdigit():
            name = f"output_{name}" if name else "output"
        named.append((name, leaf))
    return named


def call(module: torch.nn.Module, arrays: dict[str, Array], device: str = "cpu") -> list[tuple[str, Array]]:
    """Run the model on arrays in call order.

    Raises:
        ModelError: The model rejects the inputs.
    """
    import torch

    tensors = [torch.from_numpy(array).to(device) for array in arrays.values()]
    try:
        with torch.no_grad():
            answer = module(*tensors)
    except Exception as error:  # the user's forward(): it may raise anything
        shapes = ", ".join(f"{name} {list(array.shape)} {array.dtype}" for name, array in arrays.items())
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the model rejects its inputs ({shapes}): {words}",
            do="correct shape and dtype in [model.inputs] to what forward() takes",
        ) from error
    return [(name, tensor.detach().cpu().numpy()) for name, tensor in flat_outputs(answer)]


def require_finite(outputs: list[tuple[str, Array]], what: str) -> None:
    """Refuse NaN and infinite outputs.

    Raises:
        ModelError: Names the output and how many of its values are not finite.
    """
    for name, array in outputs:
        bad = int(np.size(array) - np.isfinite(array).sum()) if array.dtype.kind == "f" else 0
        if bad:
            raise ModelError(
                f"{what}: output {name!r} has {bad} of {array.size} values that are NaN or infinite",
                do="check the weights and the input range before going on; no engine can fix this",
            )
