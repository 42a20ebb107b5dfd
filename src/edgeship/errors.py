"""One tree of errors. Each class has an exit code; each message says what was found, what was expected
and what to do next."""

from __future__ import annotations

from collections.abc import Sequence


class EdgeshipError(Exception):
    """Base of everything edgeship raises on purpose.

    Args:
        found: What was found, one sentence, without a final stop where it ends in a value.
        expected: What would have been right.
        do: What to do next: a command or an edit.
    """

    exit_code = 4

    def __init__(self, found: str, *, expected: str | None = None, do: str | None = None) -> None:
        super().__init__(found)
        self.found = found
        self.expected = expected
        self.do = do
        self.stage: str | None = None
        """The stage of a pipeline that failed, set where it is known."""
        self.finished: tuple[str, ...] = ()
        """The stages before it that succeeded."""
        self.targets: tuple[str, ...] = ()
        """The targets of the config that it concerns, where it does not concern all."""

    def __str__(self) -> str:
        parts = [self.found]
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.do:
            parts.append(f"do: {self.do}")
        return "\n".join(parts)


class UserInputError(EdgeshipError):
    """The input or the configuration is wrong; nothing was measured."""

    exit_code = 2


class ConfigError(UserInputError):
    """edgeship.toml is wrong. Carries every problem at once.

    Args:
        problems: One sentence for each problem.
        where: The file that was read.
    """

    problems: tuple[str, ...] = ()

    def __init__(self, problems: Sequence[str], *, where: str = "edgeship.toml", do: str | None = None) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{where}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]), do=do)


class ModelError(UserInputError):
    """The model source, its weights or an ONNX file cannot be used."""


class DataError(UserInputError):
    """Images, labels, masks or calibration frames cannot be used."""

    row: int | None = None
    """The image of the batch that it concerns, where it does not concern all."""

    def of(self, name: str) -> DataError:
        """The same error with the name before it of what it concerns: an image, a table of the config."""
        return type(self)(f"{name}: {self.found}", expected=self.expected, do=self.do)


class OutputError(DataError):
    """An engine's outputs give no predictions with the decoder and the class names of the config.

    Of the reference, the config is wrong. Of a candidate whose reference could be read, the candidate is.
    """


class CacheError(UserInputError):
    """A calibration or timing cache is malformed or belongs to something else."""


class TrainingError(UserInputError):
    """Quantization-aware training cannot go on: the step, its loss, its batches or the model are at fault."""


class ArtifactError(UserInputError):
    """A result, engine or bundle file is missing, changed, malformed or of another schema version."""


class UnsafeFile(ArtifactError):
    """A path leads to something that may not be opened: no regular file, a link, another user's file, or too large."""


class BundleError(ArtifactError):
    """A bundle was refused: hash, signature, layout or size."""


class MissingExtra(UserInputError):
    """An optional dependency is not installed.

    Args:
        what: What needs it, for instance ``"exporting a PyTorch model"``.
        package: The package that could not be imported.
        extra: The edgeship extra that brings it.
    """

    extra: str | None = None

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed here",
            do=f"pip install 'edgeship[{extra}]'",
        )
        self.extra = extra


class StageError(EdgeshipError):
    """A stage failed on valid input."""


class ExportError(StageError):
    """torch.export or the ONNX exporter refused the model."""


class QuantizeError(StageError):
    """The graph cannot be made in the asked-for precision, or no longer answers as it did."""

    exit_code = 2
    rescue: tuple[str, ...] = ()
    """Of FP16: nodes with which in FP32 the graph answers as it should, where they were found."""


class ParityError(StageError):
    """PyTorch and ONNX disagree beyond tolerance."""


class BuildError(StageError):
    """The engine builder failed."""


class PrecisionError(BuildError):
    """A precision was asked for that this engine or device cannot give. Never replaced by another one."""


class EngineError(StageError):
    """An engine could not be opened or run."""


class EngineMismatch(EngineError):
    """An engine does not fit this machine: flavour, version, compute capability, driver or CUDA.

    Args:
        differences: One sentence for each difference, ``"TensorRT 10.3 built it, 11.4 is installed"``.
        reason: The library's own words, where it was asked.
    """

    differences: tuple[str, ...] = ()

    def __init__(self, differences: Sequence[str], *, do: str, reason: str | None = None) -> None:
        self.differences = tuple(differences)
        lines = ["the engine does not fit this machine", *(f"  - {item}" for item in self.differences)]
        if reason:
            lines.append(f"  the library says: {reason}")
        super().__init__("\n".join(lines), do=do)


class InconsistentError(EngineError):
    """An engine's answer for a row depends on its neighbours, on the batch or on the repeat."""


class DeviceError(EngineError):
    """A device is absent, out of memory, or failed during a run."""


class TargetError(StageError):
    """A remote target cannot be reached or lacks what a trial needs."""


class WorkFolderBusy(UserInputError):
    """Another run holds the lock of this work folder."""


class StorageError(StageError):
    """No space left, a read-only folder, or another failure of the file system."""
