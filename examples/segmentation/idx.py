"""Reads the gzipped IDX files in which Fashion-MNIST is published."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts them."""


def read(path: Path) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes as an array of the shape its header gives."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    ndim = data[3]
    shape = np.frombuffer(data, ">u4", count=ndim, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(tuple(int(n) for n in shape))


def split(name: str, folder: Path = FOLDER) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The images (N, 28, 28) and labels (N,) of ``train`` or ``t10k``."""
    return read(folder / f"{name}-images-idx3-ubyte.gz"), read(folder / f"{name}-labels-idx1-ubyte.gz")
