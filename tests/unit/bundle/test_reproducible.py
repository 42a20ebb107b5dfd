"""Two bundles of one run are the same bytes, and nothing in them says whose machine made them."""

from __future__ import annotations

import getpass
import io
import platform
import re
import zipfile
from pathlib import Path

import pytest

from edgeship.bundle import Contents, write, zip_bundle
from edgeship.trial.run import run_trial
from vehicle_support import decision, ground, make_trial


def texts(folder: Path) -> dict[str, bytes]:
    """Every file, those of an .npz one by one."""
    found: dict[str, bytes] = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        data = path.read_bytes()
        found[str(path.relative_to(folder))] = data
        if path.suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found |= {f"{path.name}:{name}": archive.read(name) for name in archive.namelist()}
    return found


def test_a_bundle_is_reproducible_and_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    trial = make_trial(tmp_path / "somewhere" / "trial", ground(tmp_path / "somewhere" / "ground"))
    run_trial(trial)
    packed = []
    for name in ("a", "b"):
        write(Contents(trial, decision(), reference=trial), tmp_path / name)
        packed.append(zip_bundle(tmp_path / name, tmp_path / f"{name}.zip").read_bytes())
    assert packed[0] == packed[1]
    places = [str(tmp_path).encode(), str(Path.home()).encode() + b"/"]
    names = [re.escape(platform.node().encode()), re.escape(getpass.getuser().encode())]
    for name, data in texts(tmp_path / "a").items():
        assert not any(place in data for place in places), name
        assert not re.search(rb'"(' + b"|".join(names) + rb')"', data), name
