"""A bundle → predictions, for the vehicle. Needs numpy, pillow and the engine's own library; no torch, no onnx.

    with edgeship.load("bundle", key="pub.pem", budget_ms=33.3) as model:
        prediction = model(image)

Loading checks, in this order: every hash (and the signature, with a key), the fit with this machine, and then a known
input's output. Only what passed the first is parsed by the engine's library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship import engines
from edgeship.bundle.manifest import GET_AGAIN
from edgeship.bundle.trust import ANYBODY, Trust, trust_in
from edgeship.bundle.verify import opened, require_ship
from edgeship.data.npz import Header, open_npz, read_headers
from edgeship.engines import OpenOptions
from edgeship.errors import BundleError, DataError, EngineError, EngineMismatch, UserInputError
from edgeship.runtime.timing import FrameTiming, Statistics, Timekeeper

if TYPE_CHECKING:
    from types import TracebackType

    from edgeship.bundle.manifest import KnownAnswer, Manifest
    from edgeship.data.memory import Memories
    from edgeship.data.preprocess import Geometry
    from edgeship.decode.predictions import Prediction
    from edgeship.engines import Array, Runner
    from edgeship.results import TensorInfo
    from edgeship.runtime.frames import Picture, Preparer

_now = time.perf_counter_ns
_ARRAY = np.ndarray
FREE = 1 << 14
"""Longest axis of a recorded input where the engine bounds it neither by its shape nor by a profile."""
MAX_KNOWN_BYTES = 256 << 20
DLPACK_CPU = frozenset({1, 3, 11})
"""kDLCPU, kDLCUDAHost, kDLROCMHost: memory that the host can read."""


@dataclass(frozen=True)
class LoadOptions:
    """How a bundle is opened.

    Args:
        device: Default: the one it was built for.
        trust: Which bundles are accepted: keys, threshold, least release, model.
        budget_ms: Longest time for a frame; later ones count as missed.
        allow_misfit: Open an engine that was built for another machine, where its library lets it.
        self_test: Run the known input and compare.
        threads: CPU threads of one inference; default: as it was built.
        allow_no_ship: Open a bundle whose verdict is not SHIP.
    """

    device: str | None = None
    trust: Trust = ANYBODY
    budget_ms: float | None = None
    allow_misfit: bool = False
    self_test: bool = True
    threads: int | None = None
    allow_no_ship: bool = False


@dataclass(frozen=True)
class Frame:
    """One prediction and what it cost."""

    prediction: Prediction
    timing: FrameTiming


def load(  # noqa: PLR0913 - the public face: every argument by its name
    bundle: Path | str,
    *,
    device: str | None = None,
    key: Path | str | Trust | None = None,
    min_release: int | None = None,
    budget_ms: float | None = None,
    allow_misfit: bool = False,
    allow_no_ship: bool = False,
    self_test: bool = True,
) -> Model:
    """Open a bundle (a folder or a zip) for inference. See :class:`LoadOptions` for the arguments.

    ``key`` is one public key, or a :class:`Trust` for several keys with a threshold and for a model's id;
    ``min_release`` is the release that the vehicle has now.

    Raises:
        BundleError: Changed, missing or extra files, a bad signature, an old or expired release, a verdict that is not
            SHIP, or a wrong answer to the known input.
        ArtifactError: The engine was changed between its check and its opening.
        UserInputError: The budget is not a time, or the key is not an Ed25519 public key.
        EngineMismatch: Built for another machine; the message names the differences and the command that rebuilds.
        EngineError: The engine's library refuses it.
        MissingExtra: The engine's package, or ``cryptography`` for a key, is not installed.
    """
    trust = trust_in(Path(key) if isinstance(key, str) else key)
    if min_release is not None:
        trust = replace(trust, min_release=min_release)
    options = LoadOptions(
        device=device,
        trust=trust,
        budget_ms=budget_ms,
        allow_misfit=allow_misfit,
        self_test=self_test,
        allow_no_ship=allow_no_ship,
    )
    return open_bundle(Path(bundle), options)


def open_bundle(bundle: Path, options: LoadOptions) -> Model:
    """As :func:`load`, with its options in one value."""
    if options.budget_ms is not None and not 0 < options.budget_ms < float("inf"):
        raise UserInputError(f"the budget is {options.budget_ms} ms", expected="milliseconds above 0, or none at all")
    with ExitStack() as stack, opened(bundle, options.trust) as verified:
        manifest = verified.manifest
        require_ship(manifest, str(bundle), allow=options.allow_no_ship)
        device = options.device or manifest.target.device
        check_fit(manifest, device, bundle, allow=options.allow_misfit)
        engine = engines.get(manifest.identity.engine)
        runner = stack.enter_context(
            engine.open(verified.folder / manifest.engine, _open_options(manifest, verified.folder, device, options))
        )
        _check_tensors(manifest, runner)
        if options.self_test and manifest.known_answer is not None:
            check_answer(runner, verified.folder / manifest.known_answer.path, manifest)
        return Model(manifest, runner, options.budget_ms, stack.pop_all())


def check_fit(manifest: Manifest, device: str, bundle: Path, *, allow: bool = False) -> None:
    """Compare what the engine is bound to with this machine.

    Raises:
        EngineMismatch: They differ, and ``allow`` is not set.
    """
    differences = engines.get(manifest.identity.engine).misfits(manifest.identity, device)
    if differences and not allow:
        raise EngineMismatch(differences, do=f"edgeship rebuild {bundle} --out {bundle.name.removesuffix('.zip')}-here")


def check_answer(runner: Runner, path: Path, manifest: Manifest) -> None:
    """Run the known input and compare with the recorded outputs.

    What the file holds is compared with the engine before any of it is read: inputs must be the engine's, and within
    its profiles; outputs must have the shapes that the engine then gives.

    Raises:
        BundleError: An output is too far off: the engine loads and computes something else.
    """
    known = manifest.known_answer
    assert known is not None
    try:
        headers = read_headers(path)
        feeds = {info.name: headers.get(f"in:{info.name}") for info in runner.inputs}
        strange = [name for name in headers if name.partition(":")[0] != "out" and name[3:] not in feeds]
        problem = ", ".join(strange) or misfit(runner.inputs, feeds, manifest)
        if problem or len(headers) == len(feeds):
            raise DataError(f"it holds {problem or 'no output'}")
        arrays = open_npz(path, [f"in:{name}" for name in feeds])
        found = runner.infer({name: arrays[f"in:{name}"] for name in feeds})
        for name, header in headers.items():
            answer = found.get(name[4:])
            if name.startswith("out:") and (answer is None or answer.shape != header.shape):
                problem = f"has shape {None if answer is None else list(answer.shape)}, not {list(header.shape)}"
                raise _wrong_answer(name[4:], problem, known)
        wanted = open_npz(path, [name for name in headers if name.startswith("out:")])
    except DataError as error:
        raise BundleError(
            f"the known input {path.name} is damaged: {error.found}",
            expected="in:NAME for each input and out:NAME for outputs, as the engine has them",
            do=GET_AGAIN,
        ) from None
    for name, expected in wanted.items():
        problem = _difference(expected, found.get(name[4:]), known)
        if problem:
            raise _wrong_answer(name[4:], problem, known)


def _wrong_answer(name: str, problem: str, known: KnownAnswer) -> BundleError:
    return BundleError(
        f"the engine loads, but its answer to the known input is wrong: output {name!r} {problem}",
        expected=f"at least {known.min_snr_db:g} dB against the answer recorded where it was tried",
        do="do not use it; rebuild it on this machine: edgeship rebuild BUNDLE",
    )


def misfit(inputs: Sequence[TensorInfo], headers: Mapping[str, Header | None], manifest: Manifest) -> str:
    """What an engine of these inputs does not take of the recorded ones; empty: nothing."""
    largest = manifest.batch_range[1]
    for info in inputs:
        header = headers[info.name]
        if header is None:
            return f"no input {info.name!r}"
        most = manifest.profiles[info.name][2] if info.name in manifest.profiles else ()
        limits = [
            axis if isinstance(axis, int) else (most[number] if number < len(most) else largest if not number else FREE)
            for number, axis in enumerate(info.shape)
        ]
        fits = len(limits) == len(header.shape) and all(map(int.__le__, header.shape, limits))
        if not fits or header.dtype.name != info.dtype or header.size_bytes > MAX_KNOWN_BYTES:
            return f"{header.dtype.name} {list(header.shape)} for input {info.name!r}, {info.dtype} {list(info.shape)}"
    return ""


def _difference(expected: Array, found: Array | None, known: KnownAnswer) -> str:
    if found is None or found.shape != expected.shape:
        return f"has shape {None if found is None else list(found.shape)}, not {list(expected.shape)}"
    if expected.dtype.kind in "iub":
        equal = float(np.mean(found == expected)) if expected.size else 1.0
        return "" if equal >= known.min_equal else f"agrees in {equal:.1%} of its elements"
    a, b = expected.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return "is not finite where the recorded one is, or the other way round"
    finite = np.isfinite(a)
    signal, noise = float(np.sum(a[finite] ** 2)), float(np.sum((a[finite] - b[finite]) ** 2))
    if noise == 0:
        return ""
    snr = 10 * np.log10(signal / noise) if signal > 0 else -np.inf
    return "" if snr >= known.min_snr_db else f"has a signal-to-noise ratio of {snr:.1f} dB"


def _open_options(manifest: Manifest, folder: Path, device: str, options: LoadOptions) -> OpenOptions:
    target = manifest.target
    return OpenOptions(
        device=device,
        threads=target.threads if options.threads is None else options.threads,
        cuda_graph=target.cuda_graph,
        max_batch=manifest.batch_range[1],
        tf32=target.tf32,
        nhwc=target.nhwc,
        plugins=tuple(folder / plugin for plugin in target.plugins),
        sha256=manifest.files[manifest.engine].sha256,
        arithmetic=manifest.identity.arithmetic or "exact",
    )


def _check_tensors(manifest: Manifest, runner: Runner) -> None:
    for kind, said, real in (
        ("inputs", manifest.inputs, runner.inputs),
        ("outputs", manifest.outputs, runner.outputs),
    ):
        if [(info.name, info.dtype) for info in said] != [(info.name, info.dtype) for info in real]:
            raise BundleError(
                f"the engine's {kind} are {', '.join(f'{info.name} {info.dtype}' for info in real)}",
                expected=f"{', '.join(f'{info.name} {info.dtype}' for info in said)}, as the manifest says",
                do=GET_AGAIN,
            )


class Model:
    """An open bundle. Safe from several threads: images are prepared and outputs decoded in parallel, and one
    inference runs at a time."""

    def __init__(self, manifest: Manifest, runner: Runner, budget_ms: float | None, resources: ExitStack) -> None:
        self.manifest = manifest
        self.inputs = runner.inputs
        self.outputs = runner.outputs
        self._runner: Runner | None = runner
        self._resources = resources
        self._lock = threading.Lock()
        self._times = Timekeeper(budget_ms)

    @property
    def runner(self) -> Runner:
        """The open engine. Not safe from several threads; prefer :meth:`infer`. Raises EngineError when closed."""
        if self._runner is None:
            raise _gone()
        return self._runner

    def __call__(self, image: Picture | None = None, /, **inputs: Any) -> Prediction:
        """The prediction for one image, in the image's own pixels. See :meth:`predict`."""
        return self.predict(image, **inputs).prediction

    def predict(self, image: Picture | None = None, /, **inputs: Any) -> Frame:
        """The prediction for one image with the time of each part.

        Args:
            image: uint8 RGB [height, width, 3] or grey [height, width], a Pillow image, or an encoded file (its path
                or its bytes). Where ``[frames]`` declared a layout, bytes and arrays of one or two axes are raw dumps
                in it, as the camera's driver gives them. With several cameras, that of ``[preprocess]``; it may be
                given by its input's name too.
            inputs: By name: a picture for each other camera, an array (without the batch axis) for each input whose
                values lay in files. Sizes and constants are known.

        Raises:
            DataError: The image cannot be decoded, a value is missing or does not fit, or the bundle has no
                preprocessing.
            EngineError: The engine failed, or the model is closed.
        """
        if image is None:
            image = inputs.pop(self._preparer.image.name, None)
        if image is None:
            raise DataError("no image was given", expected=f"model(image) or model({self._preparer.image.name}=image)")
        return self.predict_batch([image], [inputs] if inputs else ())[0]

    def predict_batch(self, images: Sequence[Picture], inputs: Sequence[Mapping[str, Any]] = ()) -> list[Frame]:
        """Predictions for several images that go through the engine together.

        Args:
            images: As :meth:`predict` takes each.
            inputs: For each image the values of the other inputs by name; may be left out where all are known.

        They share one timing. Raises as :meth:`predict` does, and DataError for more images than the largest batch.
        """
        start = _now()
        feeds, geometries = self._prepare(images, inputs)
        ready = _now()
        outputs, begun, done = self._run(feeds)
        predictions = self._decode(outputs, geometries)
        timing = self._times.record(start, ready, begun, done, _now())
        return [Frame(prediction, timing) for prediction in predictions]

    def warm_up(self, image: Picture, **inputs: Any) -> None:
        """Predict one image that is not counted: the first of a process loads libraries and is slower by far. A
        sequence begins anew behind it.

        Raises as :meth:`predict` does.
        """
        feeds, geometries = self._prepare([image], [inputs] if inputs else ())
        self._decode(self._run(feeds)[0], geometries)
        self.reset()

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Raw outputs by name for raw inputs by name: numpy arrays, or anything with ``__dlpack__`` in host memory,
        which is not copied.

        Raises:
            DataError: Names, dtypes or shapes that do not fit, or memory of a device.
            EngineError: The engine failed, or the model is closed.
        """
        start = _now()
        for value in feeds.values():
            if type(value) is not _ARRAY:
                feeds = {name: as_array(name, item) for name, item in feeds.items()}
                break
        lock = self._lock
        begun = start
        if not lock.acquire(False):  # the clock is read again only where another thread's inference must end first
            lock.acquire()
            begun = _now()
        try:
            runner = self._runner
            if runner is None:
                raise _gone()
            outputs = runner.infer(feeds)
        finally:
            lock.release()
        done = _now()
        self._times.note(start, start, begun, done, done)
        return outputs

    def reset(self) -> None:
        """Begin a new sequence: a model with memory (``[state]``) forgets the frames so far."""
        with self._lock:
            if self._memories is not None:
                self._memories.reset()

    @cached_property
    def _memories(self) -> Memories | None:
        """What the model remembers from frame to frame; None where it has no memory."""
        if self.manifest.preprocess is None or not self.manifest.preprocess.state:
            return None
        from edgeship.data.memory import Memories

        return Memories(self.inputs, self.manifest.preprocess)

    def statistics(self) -> Statistics:
        """Frames so far, deadlines missed, and quantiles of the last few thousand frames."""
        return self._times.statistics()

    def close(self) -> None:
        """Free the engine, after the inference that runs now."""
        with self._lock:
            if self._runner is not None:
                self._runner = None
                self._resources.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], int, int]:
        with self._lock:
            if self._runner is None:
                raise _gone()
            memories = self._memories
            begun = _now()
            outputs = self._runner.infer({**feeds, **memories.feeds()} if memories else feeds)
            done = _now()
            return memories.take(outputs) if memories else outputs, begun, done

    def _prepare(
        self, images: Sequence[Picture], inputs: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, Array], list[Geometry]]:
        high = self.manifest.batch_range[1]
        if not 1 <= len(images) <= high:
            raise DataError(f"{len(images)} images at once", expected=f"1 to {high}, the engine's largest batch")
        if inputs and len(inputs) != len(images):
            raise DataError(f"{len(images)} images and values for {len(inputs)}", expected="values for each image")
        return self._preparer(images, inputs)

    @cached_property
    def _preparer(self) -> Preparer:
        """From pictures to feeds; made when it is first needed, since it loads Pillow."""
        from edgeship.runtime.frames import Preparer

        settings = self.manifest.preprocess
        if settings is None:
            raise DataError("this bundle holds no preprocessing", do="use model.infer({name: array})")
        return Preparer(self.inputs, settings, self.manifest.batch_range)

    def _decode(self, outputs: dict[str, Array], geometries: list[Geometry]) -> list[Prediction]:
        from edgeship.decode.decoders import decode_all
        from edgeship.decode.predictions import Raw

        settings = self.manifest.evaluation
        if settings is None:
            return [
                Raw({name: value[row] if value.ndim else value for name, value in outputs.items()})
                for row in range(len(geometries))
            ]
        asked = [item.decoder or "" for item in (settings, *settings.tasks.values())]
        if any(":" in decoder for decoder in asked):
            raise BundleError(
                f"the bundle asks for Python code of its own to decode outputs: {', '.join(filter(None, asked))}",
                do="use model.infer and call that code yourself; edgeship runs no code that a bundle names",
            )
        return decode_all(outputs, geometries, settings, self.manifest.classes)


def _gone() -> EngineError:
    return EngineError("the model is closed", do="load the bundle again")


def as_array(name: str, value: Any) -> Array:
    """A numpy view of anything that speaks DLPack from host memory, without a copy.

    A tensor in device memory is refused, not copied in silence: numpy cannot see it, the runtime has no library of its
    own that could hand it to an engine, and the engine would have to be ordered after the stream that fills it.

    Raises:
        DataError: No array, or memory of a device.
    """
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__"):
        raise DataError(f"input {name!r} is a {type(value).__name__}", expected="a numpy array or a DLPack tensor")
    try:
        kind, _ = value.__dlpack_device__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"input {name!r} cannot be read through DLPack: {error}", expected="host memory") from None
    if int(kind) not in DLPACK_CPU:
        raise DataError(
            f"input {name!r} lies in a device's memory (DLPack device type {int(kind)})",
            expected="host memory",
            do="copy it to the host first, into pinned memory where that is free",
        )
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as error:
        raise DataError(f"input {name!r} cannot be read through DLPack: {error}") from None
