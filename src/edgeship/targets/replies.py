"""What a device may answer: a schema for every reply, its text cleaned, its numbers and counts bounded.

A device is a stranger: it may be broken, or somebody else's by now. Whatever does not fit is a TargetError that
names it. Errors that it reports keep their kind and their words; advice is ours alone, for a device could advise
anything.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from edgeship.config import Target
from edgeship.errors import EdgeshipError, MissingExtra, StorageError, TargetError, UserInputError
from edgeship.targets import wire
from edgeship.text import line, printable

MAX_RESULTS = 64
"""Files of one trial."""
MAX_NAME_CHARS = 128
MAX_COUNT = 1 << 53
EXTRAS = ("host", "onnxruntime", "openvino", "onnxruntime-rtx", "rtx", "tensorrt", "nvml", "coco")
DISTRUST = "trust nothing from that device until it is known why"


def _cut(most: int) -> AfterValidator:
    return AfterValidator(lambda text: text if len(text) <= most else text[: most - 1] + "…")


Line = Annotated[StrictStr, AfterValidator(line), _cut(300)]
Lines = Annotated[StrictStr, AfterValidator(printable), _cut(4000)]
Place = Annotated[StrictStr, StringConstraints(pattern=r"^/[^\x00-\x1f\x7f-\x9f]*$", max_length=4096)]
"""An absolute path on the device."""
Sha256 = Annotated[StrictStr, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[StrictStr, StringConstraints(pattern=rf"^[A-Za-z0-9_][A-Za-z0-9_.+-]{{0,{MAX_NAME_CHARS - 1}}}$")]
"""A file in a trial's folder."""
Count = Annotated[StrictInt, Field(ge=0, le=MAX_COUNT)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Scalar = StrictBool | Annotated[StrictInt, Field(ge=-MAX_COUNT, le=MAX_COUNT)] | Number | Line | None
Scalars = Annotated[list[Scalar], Field(max_length=256)]
Fact = Scalar | Scalars | Annotated[dict[Line, Scalar | Scalars], Field(max_length=256)]
Facts = Annotated[dict[Line, Fact], Field(max_length=64)]


class Reply(BaseModel):
    """Base of all replies. Fields that are not known are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Hello(Reply):
    """Where the device keeps its files, and how many bytes are free there."""

    base: Place
    free: Count


class Done(Reply):
    """It was done."""

    ok: StrictBool


class Made(Reply):
    """The folder that was made."""

    path: Place


class Missing(Reply):
    """Which of the asked-for things are not there."""

    missing: tuple[StrictStr, ...]


class Modules(Missing):
    """Which modules a trial would not find, and where that Python looks for modules."""

    place: Place


class Machine(Reply):
    """What trials are bound to, or the ``reason`` why the device could not tell."""

    reason: Line | None = None
    identity: Facts | Line | None = None
    installed: Facts | None = None
    processor: Facts | None = None
    trtexec: Line | None = None
    libraries: dict[Line, Line] | None = Field(default=None, max_length=64)

    @model_validator(mode="after")
    def _told(self) -> Machine:
        if self.reason is None and (self.identity is None or self.installed is None or self.libraries is None):
            raise ValueError("neither a reason nor identity, installed and libraries")
        return self


class MachineTold(Reply):
    """The reply that holds a :class:`Machine`."""

    machine: Machine


class Listing(Reply):
    """The results of a trial: name → size in bytes, sha256."""

    files: dict[Name, tuple[Count, Sha256]] = Field(max_length=MAX_RESULTS)


class Head(Reply):
    """What comes before a file's bytes: how many there are."""

    payload: Count


class Step(Reply):
    """Progress of a trial."""

    done: Count
    total: Count | None
    what: Line


class Followed(Reply):
    """That a trial still runs, or how following it ended."""

    running: StrictBool = False
    finished: StrictBool = False
    stopped: StrictBool = False

    @model_validator(mode="after")
    def _says_something(self) -> Followed:
        if not (self.running or self.finished or self.stopped):
            raise ValueError("it says neither that the trial runs nor that it ended")
        return self


class _Error(Reply):
    kind: Name
    found: Lines
    expected: Lines | None = None
    extra: Name | None = None


R = TypeVar("R", bound=Reply)


def check(kind: type[R], message: dict[str, Any], host: str) -> R:
    """A reply as a value.

    Raises:
        TargetError: It does not fit the schema; says where.
    """
    try:
        return kind.model_validate(message)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = line(".".join(str(part) for part in problem["loc"]))[:100] or kind.__name__
        raise TargetError(
            f"{host} answers with something else than edgeship does: {where}: {line(problem['msg'])[:200]}",
            expected=f"a reply of the form {kind.__name__}",
            do=DISTRUST,
        ) from None


def error_of(message: dict[str, Any], target: Target) -> EdgeshipError | None:
    """The error that the device reports, of its own class, in its words and with our advice; None: no error.

    Raises:
        TargetError: It reports an error in a form that is not ours.
    """
    if "error" not in message:
        return None
    host = target.host or "the device"
    told = message["error"]
    said = check(_Error, told if isinstance(told, dict) else {}, host)
    kind = wire.kind_of(said.kind)
    error = kind.__new__(kind)
    advice = _advice(kind, said.extra, target)
    EdgeshipError.__init__(error, f"on {host}: {said.found}", expected=said.expected, do=advice)
    return error


def _advice(kind: type[EdgeshipError], extra: str | None, target: Target) -> str:
    if issubclass(kind, MissingExtra) and extra in EXTRAS:
        return f"there: {target.python} -m pip install 'edgeship[{extra}]'"
    if issubclass(kind, StorageError):
        return f"free some space on {target.host}, then run the same command again: it continues"
    if issubclass(kind, UserInputError):
        return "correct what it names, then run the same command again"
    return f"look at {target.host}, then run the same command again: finished trials are kept"
