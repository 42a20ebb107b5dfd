"""What a model's inputs and outputs tell of it: the shapes, the likely task, the decoder, the number of classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship import engines
from edgeship.config import InputSpec, Model
from edgeship.data.feeds import noise, possible_shapes
from edgeship.data.preprocess import Geometry
from edgeship.decode.decoders import HEADS, classification_scores
from edgeship.engines import OpenOptions, Runner
from edgeship.errors import EdgeshipError, ModelError, OutputError
from edgeship.prepare.baseline import open_baseline
from edgeship.prepare.graph import inputs_of, read_onnx
from edgeship.prepare.model import call, load, load_module
from edgeship.prepare.tidy import fix_channels
from edgeship.results import TensorInfo

if TYPE_CHECKING:
    import torch

Size = tuple[int, int]
SIZES: tuple[Size, ...] = (
    (224, 224), (28, 28), (32, 32), (64, 64), (96, 96), (128, 128), (256, 256), (299, 299), (320, 320), (384, 384),
    (416, 416), (512, 512), (640, 640),
)  # fmt: skip
"""Input sizes that are tried on a PyTorch model, in this order: the commonest first."""


@dataclass(frozen=True)
class Guess:
    """What a model looks like."""

    inputs: dict[str, InputSpec]
    """Of the image input; height and width are numbers where they are known or were tried."""
    outputs: tuple[TensorInfo, ...]
    task: str | None
    """classification, detection, instances, segmentation; None: the outputs look like none of them."""
    decoder: str | None
    classes: int | None
    tried_size: bool = False
    """The size is one that the model took, and perhaps not the one that it was trained with."""

    @property
    def image(self) -> tuple[str, InputSpec]:
        """The input that takes the image: the first of four axes, else the first."""
        four = [item for item in self.inputs.items() if len(item[1].shape) == 4]
        return (four or list(self.inputs.items()))[0]


@contextmanager
def opened(model: Model, root: Path, preferred: Size | None) -> Iterator[tuple[Guess, Runner]]:
    """The model as a runner on this CPU, and what it looks like.

    Args:
        model: Source and weights; inputs where the user declared them.
        root: The folder that ``module:callable`` is imported from.
        preferred: (height, width) to try first where the model does not tell.

    Raises:
        ModelError: It does not load, or takes no input that was tried.
    """
    if Path(model.source).suffix == ".onnx":
        with engines.get("onnxruntime").open(Path(model.source), OpenOptions(device="cpu")) as runner:
            described = read_onnx(Path(model.source))
            fix_channels(described)
            inputs = inputs_of(described)
            outputs = _outputs(runner, inputs, preferred)
            specs = {info.name: InputSpec.model_validate({"shape": info.shape, "dtype": info.dtype}) for info in inputs}
            yield _guess(specs, outputs, tried=False), runner
        return
    tried = False
    if not model.inputs and Path(model.source).suffix != ".pt2":
        module = load_module(model, root)
        model = model.model_copy(update={"inputs": _tried_inputs(module, preferred)})
        tried = True
    loaded = load(model, root)
    with open_baseline("eager", loaded.module, tuple(loaded.inputs), "cpu") as torch_runner:
        torch_runner.inputs = loaded.tensors
        yield _guess(loaded.inputs, _outputs(torch_runner, loaded.tensors, preferred), tried=tried), torch_runner


def _outputs(runner: Runner, inputs: Sequence[TensorInfo], preferred: Size | None) -> dict[str, Any]:
    """The outputs for noise of the first shapes that the model takes, two rows where the batch is dynamic."""
    refused: EdgeshipError | None = None
    known = {}
    if preferred is not None:
        known = {
            info.name: (2, *info.shape[1:-2], *preferred) if not isinstance(info.shape[1], str) else ()
            for info in inputs
            if len(info.shape) == 4
        }
    given = {name: tuple(size if isinstance(size, int) else 1 for size in shape) for name, shape in known.items()}
    for shapes in possible_shapes(inputs, 2, given):
        try:
            return runner.infer(noise(inputs, shapes))
        except EdgeshipError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _tried_inputs(module: torch.nn.Module, preferred: Size | None) -> dict[str, InputSpec]:
    """The first inputs that ``forward`` takes: a picture of a common size with the channels of the first layer."""
    names = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind.name.startswith("POSITIONAL")
    ]
    if len(names) != 1:
        raise ModelError(
            f"forward() takes {len(names)} inputs ({', '.join(names) or 'none'}), and their shapes are not known",
            do="give each as --input name=batch,3,224,224",
        )
    channels = next((int(item.shape[1]) for item in module.parameters() if item.dim() == 4), 3)
    refused: ModelError | None = None
    for height, width in dict.fromkeys((*([preferred] if preferred else []), *SIZES)):
        spec = InputSpec(shape=("batch", channels, height, width))
        info = TensorInfo(name=names[0], shape=spec.shape, dtype=spec.dtype)
        try:
            call(module, noise([info], {names[0]: (2, channels, height, width)}))
        except ModelError as error:
            refused = refused or error
        else:
            return {names[0]: spec}
    raise ModelError(
        f"forward() takes none of the sizes that were tried: {refused.found if refused else ''}",
        do=f"give its shape: --input {names[0]}=batch,3,224,224",
    )


def _guess(inputs: Mapping[str, InputSpec], outputs: Mapping[str, Any], *, tried: bool) -> Guess:
    infos = tuple(
        TensorInfo(name=name, shape=("batch", *value.shape[1:]) if value.ndim else (), dtype=str(value.dtype))
        for name, value in outputs.items()
    )
    sizes = [spec.shape[-2:] for spec in inputs.values() if len(spec.shape) == 4]
    height, width = (size if isinstance(size, int) else 64 for size in (sizes or [(64, 64)])[0])
    task, decoder, classes = recognise(outputs, (int(height), int(width)))
    return Guess(dict(inputs), infos, task, decoder, classes, tried)


def recognise(outputs: Mapping[str, Any], size: Size) -> tuple[str | None, str | None, int | None]:
    """Task, decoder and number of classes that the shapes of the outputs look like."""
    try:
        return "classification", None, int(classification_scores(outputs).shape[1])
    except OutputError:
        pass
    maps = [value for value in outputs.values() if value.ndim == 4 and min(value.shape[2:]) > 1]
    if len(maps) == 1 and len(outputs) == 1:
        channels = int(maps[0].shape[1])
        return "segmentation", "logits" if channels > 1 else "classmap", channels if channels > 1 else None
    height, width = size
    place = Geometry(height, width, height, width)
    for task, table in (("instances", HEADS["instances"]), ("detection", HEADS["detection"])):
        for name, take in table.items():
            for names in (80, 0):
                try:
                    head = take(outputs, place, names)
                except (EdgeshipError, ValueError, IndexError):
                    continue
                if head is not None:
                    return task, name, head.classes
    if len(outputs) == 1:
        only = next(iter(outputs.values()))
        if only.ndim == 3 and np.issubdtype(only.dtype, np.integer):
            return "segmentation", "classmap", None
    return None, None, None
