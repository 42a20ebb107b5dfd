"""Which kind of file a model file is that is not ONNX, by its first bytes; and what to do with one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgeship.errors import ModelError
from edgeship.files import open_outside


@dataclass(frozen=True)
class FileKind:
    """What such a file is, and how a model in it comes to edgeship."""

    what: str
    do: str = "export the model: edgeship export"


_PICKLE = FileKind(
    "a Python pickle, which may run code and is not opened",
    'write source = "module:callable" for the network and weights = the file of its tensors',
)
_PACKED = "a {} archive"
_UNPACK = "unpack it and give the .onnx inside"
_IMAGE = FileKind("an image", "give the model here, and images with --images")
_TEXT = FileKind(
    "ONNX in text form, where the binary one is read",
    'write it in binary: onnx.save(onnx.load(FILE, format="{}"), "model.onnx")',
)
_KERAS = "convert it: python -m tf2onnx.convert --saved-model FOLDER --opset 18 --output model.onnx"
_PAGE = FileKind("a page of HTML: the download gave an error or asked for a login", "download the file again")
_ENGINE = FileKind("a built engine of TensorRT", "give the .onnx that it was built from")
SIGNS: dict[bytes, FileKind] = {
    b"PK\x03\x04": FileKind(
        "a zip archive: a PyTorch checkpoint, TorchScript, a .pt2, a .keras or an .npz",
        'a .pt2 is taken under that name; for weights write source = "module:callable" and weights = the file; '
        "tf2onnx converts Keras",
    ),
    b"\x80\x02": _PICKLE,
    b"\x80\x03": _PICKLE,
    b"\x80\x04": _PICKLE,
    b"\x80\x05": _PICKLE,
    b"\x89HDF": FileKind("an HDF5 file, as Keras writes", _KERAS),
    b"version https://git-lfs": FileKind("a pointer of Git LFS to a file that was not fetched", "git lfs pull"),
    b"\x1f\x8b": FileKind(_PACKED.format("gzip"), _UNPACK),
    b"\xfd7zXZ": FileKind("an xz archive", _UNPACK),
    b"BZh": FileKind(_PACKED.format("bzip2"), _UNPACK),
    b"\x28\xb5\x2f\xfd": FileKind(_PACKED.format("Zstandard"), _UNPACK),
    b"7z\xbc\xaf": FileKind(_PACKED.format("7z"), _UNPACK),
    b"Rar!": FileKind(_PACKED.format("RAR"), _UNPACK),
    b"GGUF": FileKind("a GGUF file of a language model"),
    b"\x89PNG": _IMAGE,
    b"\xff\xd8\xff": _IMAGE,
    b"%PDF": FileKind("a PDF"),
    b"ftrt": _ENGINE,
    b"vtrt": _ENGINE,
}
"""First bytes of files that are often taken for an ONNX file."""
WORDS: dict[bytes, FileKind] = {
    b"<?xml": FileKind("XML, such as OpenVINO's own format", "give the .onnx that it was converted from"),
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"ir_version": replace(_TEXT, do=_TEXT.do.format("textproto")),
    b"{": FileKind(
        "JSON: ONNX in text form, or the answer of a server that refused the download",
        _TEXT.do.format("json") + "; or download it again",
    ),
    b"<\n": replace(_TEXT, do='write the model itself in binary: onnx.save(model, "model.onnx")'),
}
"""The same for text, in lower case and behind a byte order mark and white space."""
AFTER_FOUR = {
    b"TFL3": FileKind(
        "a TensorFlow Lite file", "convert it: python -m tf2onnx.convert --tflite FILE --output model.onnx"
    ),
    b"ORTM": FileKind("a file in onnxruntime's own format (.ort)", "give the .onnx that it was made from"),
}
"""The bytes behind the first four."""
TAR = 257
"""Where a tar archive names itself."""


def other_kind(path: Path) -> FileKind | None:
    """What a file is that is not ONNX; None: it may be. Raises OSError."""
    with open_outside(path) as stream:
        head = stream.read(TAR + 5)
    if not head:
        return FileKind("empty")
    if head[TAR:] == b"ustar":
        return FileKind(_PACKED.format("tar"), _UNPACK)
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 2**30:
        return FileKind(
            "a safetensors file: weights without a network",
            f'write source = "module:callable" for the network and weights = "{path.name}"',
        )
    if not any(head):
        return FileKind("full of zeros: its download or copy did not end", "copy or download it again")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    signs = ((start, sign, kind) for start, known in ((head, SIGNS), (text, WORDS)) for sign, kind in known.items())
    found = next((kind for start, sign, kind in signs if start.startswith(sign)), None)
    return found or AFTER_FOUR.get(head[4:8])


def require_onnx(path: Path) -> None:
    """Refuse a file of another kind.

    Raises:
        ModelError: What it is, and what to do with it.
        OSError: It cannot be read.
    """
    kind = other_kind(path)
    if kind is not None:
        raise ModelError(f"{path} is {kind.what}", expected="an ONNX file", do=kind.do)
