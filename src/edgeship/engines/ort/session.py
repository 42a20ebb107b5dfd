"""Sessions of onnxruntime: the only place that makes one. Its errors in our words.

Three purposes: :func:`make_session` opens an engine as it is measured and shipped, :func:`plugin_session` one for a
plugin's provider; :func:`exact_session` runs a graph whose numbers are compared, so that they do not depend on this
machine's instruction sets.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgeship.engines import OpenOptions, onnx_policy, processor, read_engine
from edgeship.engines.onnx_file import read_inputs, weights_are_half
from edgeship.engines.ort.arithmetic import REDUCED, arithmetic_of
from edgeship.engines.ort.settings import OWN, settings_of
from edgeship.errors import DeviceError, EngineError, MissingExtra, ModelError, UserInputError
from edgeship.results import TensorInfo

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(int32)": "int32",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
UNWANTED_OPTIMIZER = "WeightBiasQuantization"
"""onnxruntime 1.21 and later quantize the float weights of a layer between Q/DQ nodes, with ranges of their own:
a layer that the candidate keeps in high precision would silently run in INT8."""
Level = Literal["none", "fuse", "all"]
"""What onnxruntime may do to a graph: nothing; fuse nodes; also change layouts, which is faster for convolutions and
ends the process on some FP16 recurrent graphs."""
_LEVELS: dict[Level, str] = {"none": "ORT_DISABLE_ALL", "fuse": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
EXACT_INT8 = "session.x64quantprecision"
"""onnxruntime's name for: uint8 × uint8 kernels instead of uint8 × int8 ones, which saturate without VNNI. With VNNI
they are exact as they are, and the others four times slower (seen), so it is set only where it is needed."""
NO_CPU = "session.disable_cpu_ep_fallback"
"""onnxruntime's name for: refuse a model of which the CPU provider would run a node."""
_NO_MEMORY = re.compile(r"out of memory|failed to allocate memory|ALLOC_FAILED|bad_?alloc|CUDA failure 2\b", re.I)
_FAILED = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CUFFT) failure")
_PLACES = re.compile(r"/onnxruntime_src/\S+:\d+ (?:[\w:<>~&*, ]+\([^)]*\)(?: const)?(?: \[with [^\]]*\])? )?")
"""Source files and signatures of onnxruntime's own code in its messages."""
_UNKNOWN = re.compile(r"(?P<domain>[\w.]+):(?P<operator>\w+)\(-?\d+\) is not a registered function/op")
_NO_GRAPH = re.compile(r"graph capture feature|CUDA ?graph", re.I)


@functools.cache
def library() -> Any:
    """The onnxruntime package.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("the onnxruntime engine", "onnxruntime", "onnxruntime") from None
    onnxruntime.set_default_logger_severity(4)  # cuDNN's search logs every plan it discards; failures are raised
    return onnxruntime


@functools.cache
def failures() -> tuple[type[Exception], ...]:
    """The exception classes of onnxruntime's binding."""
    library()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*kinds, RuntimeError)


@contextmanager
def translated(doing: str, device: str) -> Iterator[None]:
    """Turn onnxruntime's exceptions into DeviceError (out of memory, CUDA) or EngineError."""
    try:
        yield
    except failures() as error:
        text = " ".join(str(error).split())
        if _NO_MEMORY.search(text):
            raise OutOfMemory(f"out of memory on {device} while {doing}", do="use a smaller batch") from error
        if _FAILED.search(text):
            raise DeviceError(f"{doing} on {device}: {text[:600]}", do="start the command again") from error
        raise EngineError(f"{doing} on {device}: onnxruntime says: {text[:600]}") from error


class OutOfMemory(DeviceError):
    """The device's memory did not suffice."""


@dataclass(frozen=True)
class SessionRequest:
    """How to make a session beyond :class:`OpenOptions`."""

    level: Level = "all"
    write_optimized: Path | None = None
    profile: Path | None = None
    """Prefix of the profile's file name."""
    stream: int | None = None
    """A ``cudaStream_t`` to work in."""
    cuda_graph: bool = False
    search: str = "EXHAUSTIVE"
    """On CUDA: how cuDNN's convolutions are chosen."""
    fuse: bool = False
    """On CUDA: one kernel for a convolution with its bias, sum and activation, where cuDNN has one."""
    packed: bool = True
    """Whether kernels keep a copy of constant weights in a layout of their own."""


@dataclass(frozen=True)
class Opened:
    """A session and whether it captures CUDA graphs."""

    session: Any
    cuda_graph: bool


def make_session(path: Path, options: OpenOptions, request: SessionRequest | None = None) -> Opened:
    """A session on the provider that ``options.device`` names, checked to be the one it uses.

    A session that was asked to capture CUDA graphs and cannot (a node of the model runs on the CPU) is made
    without; ``Opened.cuda_graph`` says which it is.

    Raises:
        UserInputError: The file is not there.
        ArtifactError: It was changed since it was checked.
        DeviceError: The provider is not installed or did not start, or the device's memory is full.
        ModelError: The file is not a whole ONNX file.
        EngineError: onnxruntime refuses it.
    """
    request = request or SessionRequest()
    if not path.is_file():
        raise UserInputError(f"no engine file at {path}", do="edgeship build MODEL.onnx --engine onnxruntime")
    wanted, said = provider_for(options.device)
    if wanted == CUDA and not options.tf32 and weights_are_half(path):
        # With use_tf32 = 0 onnxruntime keeps FP16 convolutions off the tensor cores too (seen on an H200: ResNet-50 at
        # batch 8 1.44 against 0.92 ms). No weight here is FP32, so nothing can run in TF32.
        options = replace(options, tf32=True)
    try:
        session = _session(path, options, request)
    except EngineError as error:
        read_inputs(path)  # a file that is not ONNX or not whole is refused in our words
        if not (request.cuda_graph and _NO_GRAPH.search(str(error))):
            raise
        plain = replace(request, cuda_graph=False)
        return Opened(_session(path, options, plain), cuda_graph=False)
    _refuse_fallback(session, wanted, options.device, said)
    return Opened(session, cuda_graph=request.cuda_graph and wanted == CUDA)


def exact_session(
    source: bytes | Path, *, level: Level = "fuse", threads: int = 0, device: str = "cpu", packed: bool = True
) -> Any:
    """A session for comparing numbers: INT8 exact on every processor, float layers in float, no TF32.

    Args:
        source: A serialized ONNX model, or the path of one.
        level: What onnxruntime may do to the graph.
        threads: CPU threads of one run (0: onnxruntime's own choice).
        device: ``"cpu"`` or ``"cuda:0"``.
        packed: Whether kernels keep a copy of the weights in a layout of their own.

    Raises:
        MissingExtra: onnxruntime is not installed.
        ModelError: onnxruntime refuses the graph.
        DeviceError: The provider of ``device`` is not there, or did not start.
    """
    try:
        ort = library()
    except MissingExtra:
        raise MissingExtra("running an ONNX graph", "onnxruntime", "host") from None
    wanted, said = provider_for(device)
    options = OpenOptions(device=device, threads=threads, nhwc=False, arithmetic="exact", session=OWN)
    request = SessionRequest(level=level, search="HEURISTIC", packed=packed)
    given = str(source) if isinstance(source, Path) else source
    try:
        try:
            made = _construct(given, options, request)
        except failures():
            if level == "none" or device != "cpu" or not processor.saturates():
                raise
            # its conversion to uint8 weights refuses weights that nodes share; as they stand they run in float: exact
            made = _construct(given, options, replace(request, level="none"))
    except failures() as error:
        words = one_line(error)[:400]
        unknown = _UNKNOWN.search(words)
        if unknown:
            operator, domain = unknown["operator"], unknown["domain"]
            raise ModelError(
                f"onnxruntime {ort.__version__} does not know the operator {operator} of {domain}",
                expected="operators of ONNX: every candidate is compared with FP32 in onnxruntime",
                do="export the model with standard operators in its place (custom_translation_table of torch.onnx)",
            ) from None
        other = "edgeship preflight names the nodes; or export it again with another model.opset"
        typed = "convert the model to float32 before the export: model.float(); onnxruntime lacks it in other types"
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load the graph: {words}",
            do=typed if words.startswith("Could not find an implementation") else other,
        ) from None
    _refuse_fallback(made, wanted, device, said)
    return made


def one_line(error: Exception) -> str:
    """onnxruntime's words without their code and without places in its source, on one line."""
    words = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return _PLACES.sub("", words)


def _session(path: Path, options: OpenOptions, request: SessionRequest) -> Any:
    source: str | bytes = str(path)
    if options.sha256 is not None:
        source = read_engine(path, options)
        onnx_policy.check_bytes(source, path.name, plugins=bool(options.plugins))
    with translated(f"loading {path.name}", options.device):
        return _construct(source, options, request)


def plugin_session(data: bytes, name: str, options: OpenOptions, handle: Any, settings: dict[str, str]) -> Any:
    """A session all of whose nodes run on a plugin's provider.

    Args:
        data: A serialized ONNX model that was checked.
        name: Its file's name, for errors.
        handle: onnxruntime's handle of the plugin's device.
        settings: The provider's own options.

    Raises:
        DeviceError: The device's memory is full, or CUDA failed.
        EngineError: The provider refuses the model or a node of it.
    """
    with translated(f"loading {name}", options.device):
        made = session_options(replace(options, arithmetic=REDUCED), SessionRequest())
        made.add_session_config_entry(NO_CPU, "1")
        made.add_provider_for_devices([handle], settings)
        return _made(data, made)


def _construct(source: str | bytes, options: OpenOptions, request: SessionRequest) -> Any:
    if options.session is None and options.device == "cpu":
        options = replace(options, session=settings_of(source))
    if options.session is not None and options.judging:
        options = replace(options, session=replace(options.session, spinning=False))
    if options.arithmetic is None and processor.saturates():
        options = replace(options, arithmetic=arithmetic_of(source))
    asked = {"providers": providers(options, request), "enable_fallback": 0}
    return _made(source, session_options(options, request), **asked)


def _made(source: str | bytes, options: Any, **asked: Any) -> Any:
    """The one call that makes a session."""
    return library().InferenceSession(source, options, **asked)


def _refuse_fallback(session: Any, wanted: str, device: str, said: str) -> None:
    used = session.get_providers()
    if wanted not in used:
        raise DeviceError(
            f"{device} was asked for, and onnxruntime fell back to {', '.join(used)}{said}",
            expected=f"a session on {wanted}",
            do="make the CUDA and cuDNN libraries of this onnxruntime-gpu loadable: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', and check the driver with nvidia-smi",
        )


def session_options(options: OpenOptions, request: SessionRequest) -> Any:
    """onnxruntime's SessionOptions for a request."""
    ort = library()
    made = ort.SessionOptions()
    made.log_severity_level = 4
    made.intra_op_num_threads = options.threads
    if options.session is not None:
        options.session.apply(made)
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[request.level])
    made.add_session_config_entry("optimization.disable_specified_optimizers", UNWANTED_OPTIMIZER)
    if not request.packed:
        made.add_session_config_entry("session.disable_prepacking", "1")
    if options.arithmetic != REDUCED and processor.saturates():
        made.add_session_config_entry(EXACT_INT8, "1")
    if request.write_optimized is not None:
        made.optimized_model_filepath = str(request.write_optimized)
    if request.profile is not None:
        made.enable_profiling = True
        made.profile_file_prefix = str(request.profile)
    for plugin in options.plugins:
        with translated(f"loading the custom operators of {plugin}", options.device):
            made.register_custom_ops_library(str(plugin))
    return made


def providers(options: OpenOptions, request: SessionRequest) -> list[Any]:
    """The provider list: the one that was asked for, and the CPU for shape arithmetic beside CUDA."""
    if options.device == "cpu":
        return [CPU]
    from edgeship.engines import cuda

    settings = {
        "device_id": str(cuda.index_of(options.device)),
        "cudnn_conv_algo_search": request.search,
        "cudnn_conv_use_max_workspace": "1",
        "fuse_conv_bias": "1" if request.fuse else "0",
        "use_tf32": "1" if options.tf32 else "0",
        "prefer_nhwc": "1" if options.nhwc else "0",
        "enable_cuda_graph": "1" if request.cuda_graph else "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if request.stream is not None:
        settings["has_user_compute_stream"] = "1"
        settings["user_compute_stream"] = str(request.stream)
    return [(CUDA, settings), CPU]


def provider_for(device: str) -> tuple[str, str]:
    """The provider for a device, and what the loader said while it looked for CUDA's libraries.

    Raises:
        DeviceError: Unknown device, or this onnxruntime has no CUDA provider.
    """
    if device == "cpu":
        return CPU, ""
    if not device.startswith("cuda"):
        raise DeviceError(f"the onnxruntime engine knows no device {device!r}", expected="'cpu', 'cuda:0', 'cuda:1', …")
    ort = library()
    if CUDA not in ort.get_available_providers():
        raise DeviceError(
            f"{device} was asked for, and the onnxruntime {ort.__version__} installed here has no CUDA provider",
            expected=f"{CUDA} among {', '.join(ort.get_available_providers())}",
            do="pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'; or use device = 'cpu'",
        )
    from edgeship.engines import cuda

    cuda.use(device)
    return CUDA, _preload()


@functools.cache
def _preload() -> str:
    """Load CUDA and cuDNN from the vendor's Python packages, wherever they lie; say what onnxruntime complained of.

    onnxruntime itself looks only beside its own package, which misses those of another folder on the path.
    """
    preload = getattr(library(), "preload_dlls", None)
    if preload is None:
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for name, wanted in (("cu*", {"cuda": True, "cudnn": False}), ("cudnn", {"cuda": False, "cudnn": True})):
            folders = [place for place in _vendor_folders(name) if any(place.glob("*.so*"))]
            preload(**wanted, directory=str(folders[0]) if folders else None)
    lines = [line for line in said.getvalue().splitlines() if "ailed" in line]
    return f" ({'; '.join(lines[:3])})" if lines else ""


def _vendor_folders(name: str) -> list[Path]:
    """The ``lib`` folders of the vendor's packages ``nvidia/NAME``."""
    found = importlib.util.find_spec("nvidia")
    places = list(found.submodule_search_locations or []) if found else []
    folders = [folder for place in places for folder in sorted(Path(place).glob(f"{name}/lib"))]
    return [folder for folder in folders if name == "cudnn" or folder.parent.name[2:].isdigit()]


def tensors(described: Any) -> tuple[TensorInfo, ...]:
    """The inputs or outputs of a session as it names them.

    Raises:
        EngineError: A tensor is of a kind that is not a numeric array (a sequence, a string).
    """
    found = []
    for number, item in enumerate(described):
        dtype = DTYPES.get(item.type)
        if dtype is None:
            raise EngineError(
                f"{item.name!r} has the type {item.type}", expected="numeric tensors as inputs and outputs"
            )
        shape = tuple(
            axis if isinstance(axis, int) else (axis or f"{item.name}_{place}_{number}")
            for place, axis in enumerate(item.shape)
        )
        found.append(TensorInfo(name=item.name, shape=shape, dtype=dtype))
    return tuple(found)
