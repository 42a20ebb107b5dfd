"""manifest.json: the schema of a bundle, and which paths a bundle may hold."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgeship.config import Arithmetic, Evaluation, Gate, Preprocess, Target
from edgeship.data.feeds import fixed_batch
from edgeship.errors import BundleError
from edgeship.files import parse_json
from edgeship.results import Calibrated, Candidate, Identity, Quantiles, Result, TensorInfo, VerdictWord
from edgeship.text import line

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
MODEL_SIGNATURE = "model.sig"
"""A signature over all files as OpenSSF Model Signing has it; optional, and read by nothing but its own check."""
MODEL_SIGNATURE_BYTES = 4 << 20
MAX_SIGNATURES = 16
SIGNATURE_BYTES = 64
STATEMENT = "evidence/provenance.intoto.json"
"""The in-toto statement of what the bundle was made from; each signer also signs it in an envelope of its own."""
ENVELOPE_BYTES = 4 << 20
BUNDLE_SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20
MAX_FILES = 4096
MAX_FILE_BYTES = 16 << 30
MAX_TOTAL_BYTES = 32 << 30
MAX_PATH_CHARS = 512
LEAST_SNR_DB = 10.0
LEAST_EQUAL = 0.9
"""No manifest may ask less of the known answer: nonsense is near 0 dB."""

GET_AGAIN = "do not load it; get the bundle again from where it was made"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Role = Literal["engine", "model", "cache", "known-answer", "plugin", "evidence", "licence"]
ReleaseNumber = Annotated[int, Field(ge=0, le=1 << 53)]
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$")]

MOMENT = "%Y-%m-%dT%H:%M:%SZ"
Moment = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"),
    AfterValidator(lambda text: f"{datetime.strptime(text, MOMENT).isoformat()}Z"),
]
"""UTC, ISO 8601."""
_SIGNED_BY = re.compile(r"manifest\.[0-9a-f]{16}\.sig")
_ENVELOPE_OF = re.compile(r"provenance\.[0-9a-f]{16}\.intoto\.jsonl")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]*")


class BundledFile(Result):
    """A file of the bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    role: Role


class KnownAnswer(Result):
    """An input whose output was recorded where the engine was tried: ``.npz`` with ``in:NAME`` and ``out:NAME``.

    ``min_snr_db`` is how close the vehicle's answer must come, as signal-to-noise over each output; integer
    outputs must agree in ``min_equal`` of their elements. ``arithmetic``: of INT8 on a CPU, when it was recorded.
    """

    path: str
    min_snr_db: Annotated[float, Field(ge=LEAST_SNR_DB, le=1000)]
    min_equal: Annotated[float, Field(ge=LEAST_EQUAL, le=1)] = 0.99
    arithmetic: Arithmetic | None = None


class CalibrationProvenance(Result):
    """Where the INT8 ranges came from."""

    method: str
    frames: int
    frames_sha256: str
    graph_sha256: str
    preprocess_sha256: str
    trusted_cache: bool = False

    @classmethod
    def of(cls, calibrated: Calibrated) -> CalibrationProvenance:
        """The provenance in a calibration's result."""
        return cls.model_validate(calibrated.model_dump(include=set(cls.model_fields)))


class Manifest(Result):
    """What a bundle is and what it holds.

    Tensor names, shapes and dtypes are the engine's own. ``files`` names every file but the manifest and its
    signature; anything else in the folder makes the bundle invalid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    kind: Literal["edgeship-bundle"]
    schema_version: Literal[1]
    name: str
    created: str
    """UTC, ISO 8601."""
    edgeship: str
    """Version that wrote the bundle."""
    verdict: VerdictWord
    sentence: str
    """The verdict in words."""
    release: ReleaseNumber | None = None
    """Grows with every bundle that is released of this model: an older one is known by it."""
    model_id: ModelId | None = None
    expires: Moment | None = None
    """From then on the bundle is refused."""
    candidate: Candidate
    target_name: str
    target: Target
    """How the engine was built: enough to build it again."""
    identity: Identity
    """What the engine is bound to."""
    engine: str
    model: str
    """The ONNX the engine was built from."""
    cache: str | None = None
    """The calibration cache that an INT8 candidate's ranges stand in."""
    inputs: tuple[TensorInfo, ...] = Field(min_length=1)
    outputs: tuple[TensorInfo, ...]
    profiles: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = Field(default_factory=dict)
    preprocess: Preprocess | None = None
    evaluation: Evaluation | None = None
    """How outputs are decoded and were judged; the image and label paths are left out."""
    classes: tuple[str, ...] = ()
    gate: Gate | None = None
    calibration: CalibrationProvenance | None = None
    known_answer: KnownAnswer | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    latency_ms: Quantiles | None = None
    latency_clock: Literal["device", "wall"] | None = None
    latency_batch: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the machine that the engine was tried on."""
    prepared: dict[str, str] = Field(default_factory=dict)
    """Versions of what made the ONNX: the exporter, torch, onnx and the rest. A rebuilt bundle keeps them."""
    files: dict[str, BundledFile]

    @field_validator("files")
    @classmethod
    def _paths(cls, files: dict[str, BundledFile]) -> dict[str, BundledFile]:
        if len(files) > MAX_FILES:
            raise ValueError(f"{len(files)} files; at most {MAX_FILES} are allowed")
        for path in files:
            check_path(path)
            if path == MANIFEST or is_unlisted(path):
                raise ValueError(f"{path} cannot list itself")
        parents = {str(parent) for path in files for parent in PurePosixPath(path).parents}
        spelled: dict[str, str] = {}
        for name in (MANIFEST, SIGNATURE, MODEL_SIGNATURE, *sorted(parents | set(files))):
            before = spelled.setdefault(name.casefold(), name)
            if before != name:
                raise ValueError(f"{before!r} and {name!r} differ only in upper and lower case")
        for path in files:
            if is_unlisted(path.casefold()):
                raise ValueError(f"{path!r} differs only in upper and lower case from the name of a signature")
        clash = sorted(set(files) & parents)
        if clash:
            raise ValueError(f"{clash[0]} is both a file and a folder")
        if sum(entry.size_bytes for entry in files.values()) > MAX_TOTAL_BYTES:
            raise ValueError(f"the files are over {MAX_TOTAL_BYTES >> 30} GiB together")
        return files

    @model_validator(mode="after")
    def _named_files(self) -> Manifest:
        named: list[tuple[str, Role]] = [(self.engine, "engine"), (self.model, "model")]
        if self.cache is not None:
            named.append((self.cache, "cache"))
        if self.known_answer is not None:
            named.append((self.known_answer.path, "known-answer"))
        named += [(str(plugin), "plugin") for plugin in self.target.plugins]
        for path, role in named:
            entry = self.files.get(path)
            if entry is None:
                raise ValueError(f"the {role} {path!r} is not among the files")
            if entry.role != role:
                raise ValueError(f"{path!r} is named as the {role} but listed as {entry.role}")
        return self

    @model_validator(mode="after")
    def _one_arithmetic(self) -> Manifest:
        if self.known_answer is not None and self.known_answer.arithmetic != self.identity.arithmetic:
            raise ValueError(
                f"the known answer was recorded with {self.known_answer.arithmetic} INT8 arithmetic, "
                f"the engine runs with {self.identity.arithmetic}"
            )
        return self

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest batch of the engine: of its first input with a dynamic first axis, or the fixed one."""
        fixed = fixed_batch(self.inputs)
        if fixed is not None:
            return (fixed, fixed)
        first = next(info for info in self.inputs if info.shape and isinstance(info.shape[0], str))
        if first.name in self.profiles:
            low, _, high = self.profiles[first.name]
            return (low[0], high[0]) if low and high else (1, 1)
        return (self.target.batch.min, self.target.batch.max)


def signature_name(key_id: str) -> str:
    """The file of one key's signature."""
    return f"manifest.{key_id}.sig"


def is_signature(name: str) -> bool:
    """Whether a file of the bundle is a signature, which the manifest cannot list."""
    return name == SIGNATURE or _SIGNED_BY.fullmatch(name) is not None


def envelope_name(key_id: str) -> str:
    """The file of one key's signed envelope of the provenance statement."""
    return f"provenance.{key_id}.intoto.jsonl"


def is_envelope(name: str) -> bool:
    """Whether a file of the bundle is a signed envelope of its provenance statement."""
    return _ENVELOPE_OF.fullmatch(name) is not None


def is_unlisted(name: str) -> bool:
    """Whether a file of the bundle is one that the manifest cannot list: a signature of any kind."""
    return name == MODEL_SIGNATURE or is_signature(name) or is_envelope(name)


def check_path(path: str) -> None:
    """Refuse any path that is not plainly inside the bundle.

    Raises:
        ValueError: Absolute, escaping, hidden, too long, or with characters outside letters, digits and ``_.+ -``.
    """
    if not path or len(path) > MAX_PATH_CHARS:
        raise ValueError(f"a path must have 1 to {MAX_PATH_CHARS} characters")
    for part in path.split("/"):
        if not _PART.fullmatch(part) or part.endswith((".", " ")):
            raise ValueError(f"the path {path[:80]!r} is not allowed in a bundle")


def parse(data: bytes, where: str) -> Manifest:
    """Read a manifest from bytes.

    Raises:
        BundleError: Too large, not JSON, of another schema version, or against the schema; the first problem is named.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{where}: the manifest has {len(data)} bytes", expected=f"at most {MAX_MANIFEST_BYTES}")
    try:
        parse_json(data.decode("utf-8"))
        return Manifest.model_validate_json(data)
    except ValueError as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            problem = f"{place[:200]!r}: {first['msg']}"
        raise BundleError(
            f"{where}: the manifest is not valid: {line(problem)[:400]}",
            expected=f"bundle schema version {BUNDLE_SCHEMA_VERSION}",
            do=GET_AGAIN,
        ) from None


def schema() -> dict[str, Any]:
    """The JSON schema of manifest.json, made from the model."""
    made = Manifest.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
