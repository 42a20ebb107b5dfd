"""What torch.export and the ONNX exporter complain of, in one sentence with the place in the user's code.

Their own pages of text go to a log file, which the sentence names.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeship.errors import ExportError
from edgeship.prepare.graph import one_line
from edgeship.prepare.model import untouched

if TYPE_CHECKING:
    import onnx
    import torch

REMEDIES = (
    "rewrite the layer with supported operators",
    "move the operator into pre- or postprocessing, outside the graph",
    "write a TensorRT plugin (last resort: real work, on every target)",
)
"""For an operator that does not export, in the order to try."""
FAMILIES = (
    ("ultralytics", "set head.dynamic = True on the model's last module (docs/how-to/ultralytics.md)"),
    ("torchvision.models.detection", "export the part between transform and postprocessing "
     "(docs/how-to/torchvision-detector.md)"),
    ("transformers", "the model keeps tensors of its first call: build them in forward(), or give the axis a number"),
)  # fmt: skip
"""(package, what makes its models exportable), for models whose classes come from there."""
UNPROVEN = "Constraints violated"
"""torch's words for a condition on a dynamic size that does not follow from what is known of it."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Terminal colours, which the exporter writes into its messages."""


_VIEW = re.compile(r"Cannot view a tensor|view size is not compatible")
_CONSTANT = re.compile(r"specialized it to be a constant|inferred to be a constant|inferred a static shape")


@dataclass(frozen=True)
class Traced:
    """What is traced, and again after an error, to find the place."""

    module: torch.nn.Module
    tensors: tuple[torch.Tensor, ...]
    dynamic_shapes: Any
    inputs: dict[str, tuple[int | str, ...]]
    """The declared shapes; names are the axes that were to stay dynamic."""

    def program(self, *, strict: bool = False) -> torch.export.ExportedProgram:
        """The ExportedProgram of a copy of the module. Raises what torch and the user's code raise.

        Args:
            strict: Whether TorchDynamo reads the code, which otherwise runs.
        """
        import torch

        module = untouched(self.module)
        return torch.export.export(module, self.tensors, dynamic_shapes=self.dynamic_shapes, strict=strict)

    def axes(self, words: str) -> list[str]:
        """The user's names of the axes that torch calls ``batch`` or ``L['x'].size()[2]``; all where none is named."""
        named = [str(axis) for shape in self.inputs.values() for axis in shape if isinstance(axis, str)]
        places = re.findall(r"\['(\w+)'\](?:\.size\(\)|\.shape)\[(\d+)\]", words)
        found = [axis for axis in named if re.search(rf"\b{axis}\b", words)]
        for name, place in places:
            shape = self.inputs.get(name, next(iter(self.inputs.values())))
            found += [str(axis) for axis in shape[int(place) : int(place) + 1] if isinstance(axis, str)]
        return list(dict.fromkeys(found or named))


def of_a_constant(error: Exception) -> bool:
    """Whether torch.export refused because one size came out of an axis that was to stay dynamic."""
    return bool(_CONSTANT.search(str(error)))


def of_a_view(error: ExportError) -> bool:
    """Whether the exporter refused because a ``view`` does not fit the memory layout that it meets."""
    return bool(_VIEW.search(_whole(error.__cause__)))


def _whole(error: BaseException | None) -> str:
    """The words of an error and of those behind it."""
    words = []
    while error is not None:
        words.append(str(error))
        error = error.__cause__
    return "\n".join(words)


def capture_error(error: Exception, traced: Traced) -> ExportError:
    """torch.export's refusal as one sentence.

    "Froze the axis" is said only where an axis came out with one size. The line that froze it is found by
    ``torch.export.draft_export``.
    """
    words = str(error)
    frozen = "\n".join(line for line in words.splitlines() if _CONSTANT.search(line))
    if frozen:
        name = ", ".join(traced.axes(frozen))
        said = f"the export froze the axis {name!r}: the model's code uses its size as a constant"
        return _of_axis(said, name, error, traced, "use x.shape[0] or -1 instead of a number in view/reshape/expand")
    if UNPROVEN in words:
        name = ", ".join(traced.axes(words))
        said = (
            f"torch.export cannot keep the axis {name!r} dynamic: the model's code puts a condition on its size that "
            "torch cannot prove"
        )
        change = "write that line without arithmetic on the size (slices x[:n] and x[n:] in place of torch.chunk)"
        return _of_axis(said, name, error, traced, change)
    if "data-dependent" in words or "DataDependent" in type(error).__name__:
        return ExportError(
            f"torch.export cannot trace the model: its code branches on a value that is known only at run time"
            f"{code_place(words)}{log(error)}",
            do="use torch.where or torch.cond there, or move the decision out of forward()",
        )
    advice = family(traced.module)
    return ExportError(
        f"torch.export cannot trace the model: {type(error).__name__}: {_plain(words)}{code_place(words)}{log(error)}",
        do=(f"{advice}; or " if advice else "") + "; or ".join(REMEDIES[:2]),
    )


def _of_axis(said: str, name: str, error: Exception, traced: Traced, change: str) -> ExportError:
    """An axis that cannot stay dynamic as the code stands; ``change``: of the code, so that it can."""
    advice = family(traced.module)
    return ExportError(
        f"{said}{_guard_place(traced) or code_place(str(error))}{log(error)}",
        expected=f"code that works for any size of {name!r}",
        do=(f"{advice}; or " if advice else "") + f"{change}, or give the axis a number in [model.inputs]",
    )


def translation_error(error: Exception) -> ExportError:
    """The ONNX exporter's refusal as one sentence: the operator without a translation, or on which it fails, and its
    place."""
    words, root = _whole(error), error
    while isinstance(root.__cause__, Exception):
        root = root.__cause__
    remedies = "; ".join(f"{number}. {text}" for number, text in enumerate(REMEDIES, 1))
    where = f"{code_place(words)}{log(error)}"
    unknown = re.search(r"No (?:ONNX function|decompositions?)[^<\n]*<?(?:OpOverload\(op=)?'?([\w:.]+)'?", words)
    if unknown:
        return ExportError(
            f"the operator {unknown[1]} has no ONNX translation{where}",
            expected="operators that the ONNX exporter knows",
            do=remedies,
        )
    said = f"{type(root).__name__}: {_plain(str(root))}"
    failed = re.search(r"target=torch\.ops\.([\w.]+)", words)
    if failed:
        step = "decomposing" if "decompose the FX graph" in words else "translating"
        return ExportError(f"torch fails in {step} the operator {failed[1]}: {said}{where}", do=remedies)
    return ExportError(f"the ONNX exporter refuses the model: {said}{where}", do=remedies)


def require_opset(model: onnx.ModelProto, opset: int) -> None:
    """Refuse operators that the operator set of the graph does not have, by their own schemas.

    Raises:
        ExportError: Names the operator and the first operator set that has it.
    """
    import onnx

    schemas = onnx.defs.get_all_schemas_with_history()
    first: dict[str, int] = {}
    for schema in schemas:
        if schema.domain == "":
            first[schema.name] = min(first.get(schema.name, schema.since_version), schema.since_version)
    for node in model.graph.node:
        since = first.get(node.op_type, 0) if node.domain in ("", "ai.onnx") else 0
        if since > opset:
            raise ExportError(
                f"the operator {node.op_type} needs opset {since}, and model.opset is {opset}",
                expected=f"opset {since} or later",
                do=f"set opset = {since} in [model], or --opset {since}",
            )


def family(module: torch.nn.Module) -> str:
    """What makes models of this package exportable; empty for packages that nothing is known of."""
    packages = {type(part).__module__ for part in module.modules()}
    return next((do for name, do in FAMILIES if any(package.startswith(name) for package in packages)), "")


def code_place(words: str) -> str:
    """``, at model.py:12 in forward`` from the last place of the user's code in a traceback."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', words)
    return _place(frames)


def _place(frames: Iterable[tuple[str, Any, str]]) -> str:
    own = [frame for frame in frames if "/torch/" not in frame[0] and not frame[0].startswith("<")]
    return f", at {Path(own[-1][0]).name}:{own[-1][1]} in {own[-1][2]}" if own else ""


def _guard_place(traced: Traced) -> str:
    """Where a size became a constant, from torch's draft of the export; empty where that does not tell."""
    import torch

    try:
        draft: Any = torch.export.draft_export(
            untouched(traced.module), traced.tensors, dynamic_shapes=traced.dynamic_shapes, strict=False
        )
        report = draft._report
    except Exception:  # noqa: BLE001 - it runs the user's forward() again; the refusal itself is already known
        return ""
    finally:
        _close_trace_files()
    for failure in report.failures:
        if str(failure.data.get("expr", "")).startswith("Eq("):
            names = {number: name for name, number in torch._logging.structured.INTERN_TABLE.items()}
            stack = failure.data.get("user_stack", [])
            return _place(
                (str(names.get(frame["filename"], frame["filename"])), frame["line"], frame["name"]) for frame in stack
            )
    return ""


def _close_trace_files() -> None:
    """Close the trace files that torch's draft leaves open."""
    from torch.export._draft_export import CaptureStructuredTrace

    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        handler = reference()
        if isinstance(handler, CaptureStructuredTrace):
            handler.close()


def _plain(words: str) -> str:
    """The first line that says something, without symbolic sizes: ``s77``, ``4*Min(300, u0)``."""
    own = COLOURS.sub("", words).partition("While executing %")[0]
    lines = [line.strip(" -") for line in own.splitlines() if line.strip()]
    plain = next((line for line in lines if not re.search(r"\b[su]\d+\b|Min\(|Max\(|//|L\['", line)), "")
    single = next((line for line in lines if not re.search(r"\bu\d+\b|\bs\d+ ?[*+/-]|Min\(|Max\(|//|L\['", line)), "")
    said = plain or re.sub(r"\bs\d+\b", "?", single) or "a size that depends on other sizes cannot be expressed"
    return one_line(RuntimeError(said), 200)


def log(error: BaseException) -> str:
    """Write the exporter's own words to a file; say where."""
    handle, name = tempfile.mkstemp(prefix="edgeship-export-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.writelines(traceback.format_exception(error))
    return f" (torch's own words: {name})"
