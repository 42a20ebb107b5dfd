"""Task metrics of an open engine over labelled images, streamed.

Worker threads decode the images ahead, this thread infers, one more thread decodes the outputs and records them: the
three overlap, and no more than a few batches stand in memory however many images there are.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeship import metrics
from edgeship.config import Batch as BatchRange
from edgeship.config import Evaluation, Preprocess
from edgeship.data.beside import beside, require_declared, single
from edgeship.data.copies import first_of, thumbnail
from edgeship.data.dataset import Dataset
from edgeship.data.datasets import open_dataset
from edgeship.data.feeds import batch_of
from edgeship.data.groups import group_names
from edgeship.data.loader import Batch, Loader, LoadOptions
from edgeship.data.memory import Memories, ordered
from edgeship.data.npz import open_npz
from edgeship.data.preprocess import in_dtype, input_size
from edgeship.data.rows import names_of
from edgeship.decode.decoders import decode_predictions, head_classes
from edgeship.engines import Runner
from edgeship.errors import DataError
from edgeship.files import sha256_json, write_bytes
from edgeship.metrics.several import joined
from edgeship.progress import Progress, silent
from edgeship.results import Artifact, Evaluated, TensorInfo
from edgeship.results.trial_folder import RECORDS
from edgeship.trial.conditions import device_of

if TYPE_CHECKING:
    from edgeship.engines import Array
    from edgeship.metrics import Collector, Records

BATCH = 8
"""Images inferred at once where nothing else is said."""
IN_FLIGHT = 2
"""Batches of outputs that may wait to be decoded."""


def evaluate(
    runner: Runner,
    settings: Evaluation,
    preprocess: Preprocess,
    *,
    classes: Sequence[str] = (),
    folder: Path,
    progress: Progress = silent,
    batch: BatchRange | None = None,
) -> Evaluated:
    """Measure the task's metrics and write ``records.npz``.

    Args:
        runner: An open engine: one of its inputs takes the image, the config declares the others.
        settings: Task, images, labels, decoder, thresholds.
        preprocess: From image to input.
        classes: Class names that stand in for ``settings.classes``.
        folder: Where ``records.npz`` goes.
        progress: Told how many images are done.
        batch: The engine's profile: batches stay within it.

    Raises:
        DataError: Images, labels or outputs that do not fit; more corrupt images than allowed.
        EngineError: The engine failed.
    """
    metrics.get(settings.task)  # a wrong name is said before the data is looked at
    memories = Memories(runner.inputs, preprocess)
    dataset, sequences = _in_order(settings, classes, memories)
    info = require_declared(runner.inputs, preprocess)
    wanted = 1 if single(runner.inputs, preprocess) else settings.batch
    rows, padded = batch_rows(info, wanted, batch, gpu=device_of(runner) != "cpu")
    options = LoadOptions(rows, settings.workers, settings.allow_corrupt)
    others = beside(runner.inputs, preprocess, "evaluation", names_of(dataset.items))
    loader = Loader(dataset.items, in_dtype(preprocess, info), input_size(info, preprocess), options, others)
    recorder = _Recorder(settings, dataset, channels_last=preprocess.layout == "nhwc", one_sequence=bool(memories))
    start = time.perf_counter()
    steps = _Steps(runner, info.name, rows if padded else 0, memories, sequences)
    for done in _stream(steps, loader, recorder):
        progress(done, len(dataset.items), "evaluate")
    seconds = time.perf_counter() - start
    if recorder.images == 0:
        raise DataError("no image could be evaluated: all of them are corrupt", do="fix evaluation.images")
    records = recorder.finish()
    path = folder / RECORDS
    save_records(path, records)
    summary = metrics.task_of(records).summarize(records)
    return Evaluated(
        task=settings.task,
        images=recorder.images,
        images_sha256=identity(records),
        metrics=summary.metrics,
        per_class=summary.per_class,
        examples=summary.examples,
        records=Artifact.of(path, folder),
        seconds=seconds,
        images_per_s=recorder.images / seconds,
        skipped=tuple(f"{error.name}: {error.reason}" for error in loader.skipped),
        labels=dataset.said,
        notes=dataset.notes,
    )


def _in_order(settings: Evaluation, classes: Sequence[str], memories: Memories) -> tuple[Dataset, Mapping[str, str]]:
    """The labelled images; for a model with memory sequence after sequence, and the sequence of each by its id."""
    if not memories:
        return open_dataset(settings, classes), {}
    dataset = open_dataset(settings.model_copy(update={"limit": None}), classes)
    items, sequences = ordered(dataset.items, settings)
    return replace(dataset, items=items), sequences


@dataclass(frozen=True)
class _Steps:
    """From a batch of images to the outputs that are decoded."""

    runner: Runner
    image: str
    pad: int
    memories: Memories
    sequences: Mapping[str, str]
    """Image → sequence, for a model with memory: it takes one image at a time."""

    def __call__(self, batch: Batch) -> dict[str, Array]:
        feeds = batch_of(
            batch.feeds(self.runner.inputs, self.image), self.fed_by_images, max(self.pad, len(batch.array))
        )
        if not self.memories:
            return self.runner.infer(feeds)
        return self.memories.step(self.runner.infer, feeds, self.sequences[batch.ids[0]])[1]

    @property
    def fed_by_images(self) -> tuple[TensorInfo, ...]:
        """The inputs without the memory."""
        memory = self.memories.feeds()
        return tuple(info for info in self.runner.inputs if info.name not in memory)


def _stream(steps: _Steps, loader: Loader, recorder: _Recorder) -> Iterator[int]:
    """Infer every batch and record it behind the next one; yields how many images are done."""
    waiting: deque[Future[None]] = deque()
    yield 0
    with ThreadPoolExecutor(1, thread_name_prefix="edgeship-record") as pool:
        for batch in loader:
            waiting.append(pool.submit(recorder.take, batch, steps(batch)))
            if len(waiting) > IN_FLIGHT:
                waiting.popleft().result()
            yield recorder.images + len(loader.skipped)
        while waiting:
            waiting.popleft().result()
    yield recorder.images + len(loader.skipped)


class _Recorded:
    """What one task records of the outputs."""

    def __init__(self, settings: Evaluation, dataset: Dataset) -> None:
        self._settings = settings
        self._dataset = dataset
        self._collector: Collector | None = None

    def take(self, batch: Batch, outputs: dict[str, Array], targets: Sequence[Any]) -> None:
        """Record one batch."""
        settings = self._settings
        if self._collector is None:
            head = head_classes(settings.task, settings.decoder, outputs, settings)
            self._dataset = self._dataset.fitted(head)
            self._collector = metrics.get(settings.task).collector(self._dataset.classes, settings)
        try:
            predictions = decode_predictions(
                settings.task, settings.decoder, outputs, batch.geometries, settings, self._dataset.classes
            )
        except DataError as error:
            raise error if error.row is None else error.of(batch.ids[error.row]) from None
        for name, prediction, target in zip(batch.ids, predictions, targets, strict=True):
            try:
                self._collector.add(prediction, target)
            except DataError as error:
                raise DataError(f"{name}: {error.found}", expected=error.expected, do=error.do) from None

    def records(self) -> Records:
        """All that was recorded."""
        assert self._collector is not None
        return self._collector.records()


class _Recorder:
    """Decodes outputs and records them, one batch at a time."""

    def __init__(self, settings: Evaluation, dataset: Dataset, *, channels_last: bool, one_sequence: bool) -> None:
        self._settings = settings
        self._tasks = {name: _Recorded(item, dataset.parts[name]) for name, item in settings.tasks.items()}
        self._only = _Recorded(settings, dataset)
        self._ids: list[str] = []
        self._digests: list[str] = []
        self._channels_last = channels_last
        self._one_sequence = one_sequence
        self._thumbnails: list[Array] = []
        self._outputs: list[str] | None = []
        """A hash of each image's outputs; None: one of them holds whole numbers, which hide small differences."""
        self.images = 0

    def take(self, batch: Batch, outputs: dict[str, Array]) -> None:
        """Record one batch."""
        if not self._tasks:
            self._only.take(batch, outputs, batch.targets)
        for name, task in self._tasks.items():
            try:
                task.take(batch, outputs, [target[name] for target in batch.targets])
            except DataError as error:
                raise type(error)(f"{name}: {error.found}", expected=error.expected, do=error.do) from None
        self._hash(outputs, len(batch.ids))
        if batch.array.ndim == 4:
            last = self._channels_last
            self._thumbnails.extend(thumbnail(image, channels_last=last) for image in batch.array[: len(batch.ids)])
        self._ids.extend(batch.ids)
        self._digests.extend(batch.digests)
        self.images += len(batch.ids)

    def _hash(self, outputs: dict[str, Array], images: int) -> None:
        whole = any(not np.issubdtype(array.dtype, np.floating) or len(array) < images for array in outputs.values())
        if self._outputs is None or whole:
            self._outputs = None
            return
        for row in range(images):
            digest = hashlib.blake2b(digest_size=16)
            for name in sorted(outputs):
                digest.update(np.ascontiguousarray(outputs[name][row]).data)
            self._outputs.append(digest.hexdigest())

    def finish(self) -> Records:
        """The task's records with the identities of the images."""
        if self._tasks:
            records = joined({name: task.records() for name, task in self._tasks.items()})
        else:
            records = self._only.records()
        records["ids"] = np.array(self._ids, dtype=np.str_)
        records["digests"] = np.array(self._digests, dtype=np.str_)
        if len(self._thumbnails) == len(self._ids):
            records["copy_of"] = first_of(self._thumbnails, self._digests)
        groups = group_names(self._settings, self._ids)
        if groups is None and self._one_sequence:
            groups = ["all"] * len(self._ids)
        if groups is not None:
            records["group"] = np.array(groups, dtype=np.str_)
        if self._outputs is not None:
            records["output_digests"] = np.array(self._outputs, dtype=np.str_)
        return records


def batch_rows(
    info: TensorInfo, wanted: int | None, profile: BatchRange | None, *, gpu: bool = False
) -> tuple[int, bool]:
    """How many images go in at once, and whether a last partial batch must be padded to that number.

    A fixed batch axis is filled; a dynamic one takes ``wanted`` (default: the profile's opt) within the profile, and
    smaller last batches only where the profile starts at one. On a GPU every batch has one size: kernels are chosen,
    and sometimes compiled, for each.
    """
    axis = info.shape[0] if info.shape else 1
    if isinstance(axis, int):
        return axis, True
    if profile is None:
        return wanted or BATCH, gpu
    rows = min(max(wanted or profile.opt, profile.min), profile.max)
    return rows, gpu or profile.min > 1


def identity(records: Records) -> str:
    """Hash of the images and their order: only evaluations with the same one may be paired."""
    pairs = zip(records["ids"].tolist(), records["digests"].tolist(), strict=True)
    return sha256_json([list(pair) for pair in pairs])


def save_records(path: Path, records: Records) -> None:
    """Write records as an ``.npz``, atomically and without pickle; equal records give equal bytes."""
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **records)
    write_bytes(path, stream.getvalue())


def load_records(path: Path) -> Records:
    """Read what :func:`save_records` wrote.

    Raises:
        DataError: Absent or no records.
    """
    records = open_npz(path)
    if "task" not in records or "ids" not in records:
        raise DataError(f"{path} holds no evaluation records", do="run edgeship evaluate again")
    return records
