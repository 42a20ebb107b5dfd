"""Pack what edgeship needs on a GPU machine that reaches no package registry: wheels → parts below a size.

    python benchmarks/pack_wheels.py WHEELS... --out .wheels --part-mib 48 --arch 90
    sh benchmarks/unpack_wheels.sh .wheels /tmp/site        # on the machine, once all parts are there

The wheels are those for the machine's Python (``pip download --no-deps --python-version 3.12 …``). Left out are
parts that no vision model needs (onnxruntime's transformer models, C library, TensorRT provider; solvers).
With ``--arch`` the CUDA machine code for other architectures is blanked inside onnxruntime's CUDA provider, which
cuts the upload to half; the file then runs on that architecture alone, with the same code as before. ``--lean`` also
blanks kernels that exist for one architecture alone: the products of quantized language models. A model that needs one
would fail loudly when it loads it.
"""

from __future__ import annotations

import argparse
import io
import lzma
import struct
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = (
    "onnxruntime/transformers/models/",
    "onnxruntime/datasets/",
    "onnxruntime/ThirdPartyNotices.txt",
    "onnxruntime/capi/libonnxruntime.so.",
    "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
    "pulp/solverdir/",
    "pulp/tests/",
)
CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
FATBIN_MAGIC = struct.pack("<I", 0xBA55ED50)
FATBIN_HEADER, ENTRY_HEADER = 16, 32
CUBIN = 2


def main() -> int:
    """Pack the wheels and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(".wheels"))
    parser.add_argument("--part-mib", type=int, default=48)
    parser.add_argument("--arch", type=int, default=None, help="keep only this compute capability: 90 is 9.0")
    parser.add_argument("--lean", action="store_true", help="also blank kernels made for one architecture alone")
    given = parser.parse_args()
    packed = _packed(given.wheels, given.arch, given.lean)
    size = given.part_mib << 20
    for number, start in enumerate(range(0, len(packed), size), 1):
        place = given.out / str(number)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"site.tar.xz.{number:02d}").write_bytes(packed[start : start + size])
    count = -(-len(packed) // size)
    (given.out / "1" / "parts").write_text(f"{count}\n")
    print(f"{len(packed) / (1 << 20):.1f} MiB in {count} parts under {given.out}")
    return 0


def _packed(wheels: list[Path], arch: int | None, lean: bool) -> bytes:
    stream = io.BytesIO()
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6}]
    with lzma.open(stream, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for wheel in sorted(wheels):
            for name, data in _files(wheel):
                stripped = arch is not None and name.endswith(CUDA_PROVIDER)
                content = only_architecture(data, arch or 0, lean) if stripped else data
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755 if name.endswith(".so") else 0o644
                tar.addfile(entry, io.BytesIO(content))
            print(f"packed {wheel.name}", file=sys.stderr, flush=True)
    return stream.getvalue()


def _files(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a wheel that are wanted, as they lie in site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            if item.is_dir() or item.filename.startswith(LEFT_OUT):
                continue
            name = item.filename
            for kind in ("purelib", "platlib"):
                _, found, rest = name.partition(f".data/{kind}/")
                name = rest if found else name
            yield name, archive.read(item)


def only_architecture(library: bytes, arch: int, lean: bool = False) -> bytes:
    """Blank the machine code of other architectures in a shared library's fat binaries; every offset stays.

    A fat binary is a 16-byte header (magic, version, header size, size of the entries) and entries of a header
    (kind, version, header size, payload size, compressed size, …, architecture) and a payload.
    """
    data = bytearray(library)
    place, kept, blanked = 0, 0, 0
    while (place := data.find(FATBIN_MAGIC, place)) >= 0:
        version, header, size = struct.unpack_from("<HHQ", data, place + 4)
        if version != 1 or header != FATBIN_HEADER or place + header + size > len(data):
            place += len(FATBIN_MAGIC)
            continue
        codes = list(_machine_code(data, place + header, place + header + size))
        alone = lean and {found for found, _, _ in codes} == {arch}
        for found, start, payload in codes:
            if found == arch and not alone:
                kept += payload
            else:
                data[start : start + payload] = bytes(payload)
                blanked += payload
        place += header + size
    print(f"machine code: {kept >> 20} MiB for {arch} kept, {blanked >> 20} MiB blanked", file=sys.stderr, flush=True)
    if not kept:
        raise SystemExit(f"the library holds no machine code for {arch}")
    return bytes(data)


def _machine_code(data: bytearray, entry: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(architecture, offset, size) of each cubin between two offsets."""
    while entry + ENTRY_HEADER <= end:
        kind, _, header, payload = struct.unpack_from("<HHIQ", data, entry)
        if header == 0:
            return
        if kind == CUBIN:
            yield struct.unpack_from("<I", data, entry + 28)[0], entry + header, payload
        entry += header + payload


if __name__ == "__main__":
    raise SystemExit(main())
