"""Files that are taken for ONNX: each is named, with what to do with it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from safetensors.numpy import save
from small_onnx import convolutions

from edgeship.engines.file_kind import require_onnx
from edgeship.engines.inspect import describe
from edgeship.engines.onnx_file import read_inputs
from edgeship.engines.trt.plan import TAGS
from edgeship.errors import ArtifactError, ModelError


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "model.onnx"
    convolutions(path)
    return path


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("model.onnx", content)
    return made.getvalue()


def tarred(content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo("model.onnx")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def parsed(content: bytes) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(content)


FORMS = {
    "gzip": (gzip.compress, "a gzip archive", "unpack it"),
    "xz": (lzma.compress, "an xz archive", "unpack it"),
    "bzip2": (bz2.compress, "a bzip2 archive", "unpack it"),
    "tar": (tarred, "a tar archive", "unpack it"),
    "zip": (zipped, "a zip archive", "module:callable"),
    "pickle": (pickle.dumps, "a Python pickle, which may run code", "module:callable"),
    "safetensors": (lambda _: save({"w": np.zeros(3)}), "a safetensors file", "module:callable"),
    "text": (
        lambda raw: onnx.printer.to_text(onnx.ModelProto.FromString(raw)).encode(),
        "ONNX in text",
        "onnx.save(model",
    ),
    "textproto": (lambda raw: str(onnx.ModelProto.FromString(raw)).encode(), "ONNX in text", "textproto"),
    "json": (lambda raw: json_format.MessageToJson(onnx.ModelProto.FromString(raw)).encode(), "ONNX in text", "json"),
    "ort": (lambda raw: b"\x18\0\0\0ORTM" + raw, "onnxruntime's own format", "the .onnx that it was made from"),
    "tflite": (lambda raw: b"\x1c\0\0\0TFL3" + raw, "a TensorFlow Lite file", "tf2onnx"),
    "keras": (lambda raw: b"\x89HDF\r\n\x1a\n" + raw, "an HDF5 file", "tf2onnx"),
    "html": (lambda _: b"<!DOCTYPE html><html></html>", "a page of HTML", "download"),
    "html, as most servers write it": (lambda _: b"\xef\xbb\xbf\n\n<!doctype html>", "a page of HTML", "download"),
    "error in JSON": (lambda _: b'{"error": "Not found"}', "a server that refused the download", "binary"),
    "xml": (lambda _: b'<?xml version="1.0"?><net/>', "XML", "converted from"),
    "zeros": (lambda raw: bytes(len(raw)), "full of zeros", "again"),
    "nothing": (lambda _: b"", "empty", "export"),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_onnx_is_named_with_what_to_do(form: str, real: Path, tmp_path: Path) -> None:
    make, what, remedy = FORMS[form]
    path = tmp_path / "model.onnx"
    path.write_bytes(make(real.read_bytes()))
    for read, kind in ((require_onnx, ModelError), (read_inputs, ModelError), (describe, ArtifactError)):
        with pytest.raises(kind) as caught:
            read(path)
        assert what in str(caught.value) and remedy in str(caught.value), read


@pytest.mark.parametrize("tag", TAGS)
def test_an_engine_is_not_a_model(tag: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tag + bytes(60))
    with pytest.raises(ModelError, match="a built engine of TensorRT"):
        read_inputs(path)


def test_text_forms_become_onnx_by_the_remedy(real: Path, tmp_path: Path) -> None:
    model = onnx.load(real)
    for form in ("textproto", "json"):
        onnx.save(model, tmp_path / f"m.{form}", format=form)
        with pytest.raises(ModelError, match=f'onnx.load\\(FILE, format="{form}"\\)'):
            require_onnx(tmp_path / f"m.{form}")
        onnx.save(onnx.load(tmp_path / f"m.{form}", format=form), tmp_path / "again.onnx")
        assert read_inputs(tmp_path / "again.onnx") == read_inputs(real)


def test_onnx_itself_is_taken(real: Path) -> None:
    require_onnx(real)
    assert describe(real).kind == "onnx"
