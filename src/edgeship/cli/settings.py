"""Options that several commands share, and tables of the config given as ``key=value`` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from edgeship.errors import DataError, UserInputError
from edgeship.text import did_you_mean

if TYPE_CHECKING:
    from edgeship.config import EngineName, InputSpec, Preprocess, Section
    from edgeship.data.frames import Frames

    S = TypeVar("S", bound=Section)

CONFIG = typer.Argument(Path("edgeship.toml"), help="The config file, or its folder.")
CHANGES = typer.Option([], "--set", help="Replace a setting: gate.max_drop.top1=0.01. Repeat for more.")
OUT = typer.Option(None, "--out", help="The work folder (default: edgeship-out beside the config).")
PLUGIN = typer.Option([], "--plugin", help="A shared library of TensorRT plugins to load. Repeat for more.")
IMAGES = typer.Option(None, help="Frames from the deployment camera: a folder of images, a video or a bag.")
NPZ = typer.Option(None, help=".npz of raw images ('images') or of one ready array for each input.")
PREPROCESS = typer.Option(
    [],
    "--preprocess",
    "-p",
    help="A setting of [preprocess] as key=value, such as mean=127,127,127; repeat. Needed for images.",
)
FROM_CONFIG = typer.Option(
    None,
    "--config",
    "-c",
    help="An edgeship.toml to take [preprocess], [inputs], [state], [frames] and the frames of [calibration] from.",
)
KEY_OPTION = typer.Option(
    [], "--key", help="Ed25519 public key (PEM or OpenSSH); the bundle must be signed by it. Repeat for more keys."
)
THRESHOLD_OPTION = typer.Option(None, "--threshold", min=1, help="How many of the keys must have signed; default: all.")
MIN_RELEASE_OPTION = typer.Option(None, "--min-release", min=0, help="Least release number; an older one is refused.")
MODEL_ID_OPTION = typer.Option(None, "--model-id", help="The model that the bundle must be of.")
NO_SHIP_OPTION = typer.Option(False, "--allow-no-ship", help="Take a bundle whose verdict is not SHIP.")
INPUT = typer.Option(
    [],
    "--input",
    "-i",
    help="An input as name=batch,3,224,224[:dtype]; a word makes the axis dynamic. Repeat for more.",
)
WEIGHTS = typer.Option(None, help="Weights: .safetensors, or a checkpoint that loads with weights_only=True.")
VERDICT_CODES = {"SHIP": 0, "NO-SHIP": 1, "INCONCLUSIVE": 3}
"""The exit code of each verdict."""

_LISTS = {"mean", "std"}


def preprocess_of(texts: list[str], base: Preprocess | None = None) -> Preprocess | None:
    """``[preprocess]`` from ``key=value`` texts on top of ``base``; None without either.

    Raises:
        UserInputError: No ``key=value``, an unknown key, or a wrong value.
    """
    from edgeship.config import Preprocess

    if base is None and not texts:
        return None
    return section_of(Preprocess, texts, "--preprocess", base or Preprocess())


def section_of(kind: type[S], texts: list[str], option: str, base: S) -> S:
    """A table of the config with the values that ``key=value`` texts set.

    Raises:
        UserInputError: As :func:`preprocess_of`.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise UserInputError(f"{option} {text!r} is not key=value", expected=f"{option} size=224,224")
        if key not in kind.model_fields:
            raise UserInputError(
                f"{option}: unknown key {did_you_mean(key, list(kind.model_fields))}",
                expected=", ".join(kind.model_fields),
            )
        many = "," in value or key in _LISTS
        values[key] = [part.strip() for part in value.split(",") if part.strip()] if many else value
    return checked(kind, base.model_dump() | values, option)


def checked(kind: type[S], values: dict[str, Any], option: str) -> S:
    """A table of the config from values.

    Raises:
        UserInputError: What is wrong with each of them.
    """
    from pydantic import ValidationError

    from edgeship.config_file import problems_of

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserInputError(f"{option}: " + "; ".join(problems_of(error, "settings"))) from None


def engine_name(text: str) -> EngineName:
    """A checked engine name. Raises UserInputError, with the nearest name."""
    from edgeship.engines import known

    if text not in known():
        raise UserInputError(f"there is no engine {did_you_mean(text, known())}", expected=", ".join(known()))
    return text


@dataclass(frozen=True)
class FramesAsked:
    """What a command line says of frames: where they are, and how they become the model's inputs."""

    images: Path | None
    npz: Path | None
    preprocess: list[str]
    config: Path | None = None
    """An edgeship.toml to take everything from that the command line does not say."""

    @property
    def any(self) -> bool:
        """Whether it names frames."""
        return any(place is not None for place in (self.images, self.npz, self.config))


def given_frames(model: Path, asked: FramesAsked, count: int, batch: int) -> Frames:
    """The frames that ``--images`` or ``--npz`` names, or the config, for the inputs of an ONNX file.

    Raises:
        DataError: None or both were given, or they cannot be used.
        UserInputError: The config cannot be read, or a setting is wrong.
    """
    from edgeship.config import FrameStreams
    from edgeship.config_file import load
    from edgeship.data.beside import single
    from edgeship.data.feeds import fixed_batch
    from edgeship.data.frames import FrameChoice, frames
    from edgeship.data.streams import scratch, unpacked
    from edgeship.pipeline.frames import remembering
    from edgeship.prepare.graph import inputs_of, load_onnx

    config = load(asked.config) if asked.config is not None else None
    given = [path for path in (asked.images, asked.npz) if path is not None]
    if not given and config is not None:
        given = [path for path in (config.calibration.images or config.calibration.npz,) if path is not None]
    if len(given) != 1:
        raise DataError(
            "no frames were given" if not given else "--images and --npz were both given",
            expected="real frames from one place (random data is never used)",
            do="give --images FOLDER or --npz FILE",
        )
    inputs = inputs_of(load_onnx(model))
    steps = preprocess_of(asked.preprocess, config.preprocess if config is not None else None)
    streams = config.frames if config is not None else FrameStreams()
    place = unpacked(given[0], streams, steps.raw if steps is not None else None, scratch())
    fixed = fixed_batch(inputs) or (1 if steps is not None and single(inputs, steps) else None)
    if fixed is not None:  # the graph takes this batch alone
        count, batch = max(count - count % fixed, fixed), fixed
    memory = remembering(config, model) if config is not None else {}
    return frames(place, steps, inputs, FrameChoice(count=count, batch=batch, **memory))


def input_specs(texts: list[str]) -> dict[str, InputSpec]:
    """``name=batch,3,224,224[:dtype]`` texts → inputs by name. Raises UserInputError."""
    from pydantic import ValidationError

    from edgeship.config import InputSpec

    specs = {}
    for text in texts:
        name, separator, rest = text.partition("=")
        axes, _, dtype = rest.partition(":")
        shape = [int(axis) if axis.strip().isdigit() else axis.strip() for axis in axes.split(",") if axis.strip()]
        if not separator or not shape:
            raise UserInputError(f"--input {text!r} is not name=shape", expected="--input images=batch,3,224,224")
        try:
            specs[name] = InputSpec.model_validate({"shape": shape, "dtype": dtype or "float32"})
        except ValidationError as error:
            raise UserInputError(f"--input {text!r}: {error.errors()[0]['msg']}") from None
    return specs
