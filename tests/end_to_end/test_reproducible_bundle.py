"""Two runs of one project in two places: the same bundle but for what was measured, and no word of either place.

``CHANGES`` is closed: a key that is not in it may not differ, in no JSON file of the bundle.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from projects import ROOT, Project, make_project

import processes
from edgeship.config_file import load
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import write_report, write_summary
from edgeship.pipeline.bundles import portable
from edgeship.results import RunResult, read

pytestmark = pytest.mark.slow

MEASURED = (
    "evidence/*/trial.json",
    "evidence/*/latency.npz",
    "evidence/*.json",
    "evidence/report.html",
    "evidence/summary.md",
)
"""Files that tell times: their hashes in the manifest differ with them."""
CHANGES = {
    "manifest.json": ("created", "sentence", "latency_ms.*", *(f"files.{name}.*" for name in MEASURED)),
    "evidence/*/trial.json": (
        "seconds",
        "build.seconds",
        "build.peak_memory_mib",
        "audit.hottest.*",  # the operators by their share of the time
        "audit.order.*.ms",
        "evaluation.seconds",
        "evaluation.images_per_s",
        "latency.seconds",
        "latency.load_s",
        "latency.warmup_s",
        "latency.throughput",
        "latency.peak_memory_mib",
        "latency.wall_ms.*",
        "latency.drift",
        "latency.drift_sure",
        "latency.answers.*",  # which quantiles the calls bound
        "latency.settled",
        "latency.unsettled",
        "latency.samples.sha256",
        "latency.samples.size_bytes",
        "latency.conditions.changed",
        "latency.conditions.clock_mhz.*",
        "latency.conditions.temperature_c.*",
        "latency.conditions.power_w.*",
        "latency.conditions.machine.*",
    ),
    "evidence/result.json": (
        "finished",
        "sentence",
        "stages.*.seconds",
        "*.latency_ms.*",
        "*.audit.hottest.*",
        "decisions.*.sentence",
        "decisions.*.judged.*.speedup",
        "decisions.*.judged.*.rules.latency_p99_ms.*",
    ),
    "evidence/bom.cdx.json": ("metadata.timestamp", "components.*.properties.edgeship:sentence.value"),
    "evidence/provenance.intoto.json": ("predicate.runDetails.metadata.finishedOn",),
}


@dataclass(frozen=True)
class Made:
    """A project that was shipped, its bundle out of the zip, and the words that name its place and its user."""

    project: Project
    bundle: Path
    words: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a project lies, and who works there."""

    folder: Path
    user: str

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start edgeship there, as that user."""
        own = {"HOME": str(self.folder / self.user), "TMPDIR": str(self.folder / "scratch")}
        environment = {**os.environ, **own, "USER": self.user, "LOGNAME": self.user}
        return processes.start(*arguments, env=environment, cwd=self.folder)

    def ship(self) -> subprocess.Popen[str]:
        """Start to ship a small project of one candidate: which of two is the faster one is measured."""
        for name in (self.user, "scratch"):
            (self.folder / name).mkdir(parents=True)
        project = make_project(self.folder / "lane")
        project.change('["fp32", "int8"]', '["int8"]')
        return self.start("ship", project.config)

    def unpack(self) -> Made:
        """The bundle, as its zip gives it."""
        project = Project(self.folder / "lane")
        packing = self.start("bundle", project.out, "--zip", self.folder / "lane.zip")
        _, said = packing.communicate(timeout=100)
        assert packing.returncode == 0, said
        with zipfile.ZipFile(self.folder / "lane.zip") as archive:
            archive.extractall(self.folder / "unpacked")
        return Made(project, self.folder / "unpacked", (str(self.folder), self.user))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """Both runs, side by side."""
    root = tmp_path_factory.mktemp("places")
    one, two = Place(root / "a", "annqx"), Place(root / "further" / "down", "bobzwq")
    for running in [place.ship() for place in (one, two)]:
        told, said = running.communicate(timeout=300)
        assert running.returncode == 0, told + said
    return one.unpack(), two.unpack()


def files(folder: Path) -> dict[str, bytes]:
    """Every file, the arrays of an .npz one by one."""
    found: dict[str, bytes] = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        found[name] = data
        if path.suffix == ".npz":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found |= {f"{name}:{member}": archive.read(member) for member in archive.namelist()}
    return found


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its place: ``stages.3.seconds``; a rule or a property is placed by its name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            named = item.get("name") if isinstance(item, dict) and place.endswith((".rules", ".properties")) else None
            yield from leaves(item, f"{place}.{named or index}")
    else:
        yield place, value


def allowed(name: str) -> tuple[str, ...]:
    """The keys of a JSON file that may differ."""
    return next((keys for pattern, keys in CHANGES.items() if fnmatchcase(name, pattern)), ())


def test_only_what_was_measured_differs(made: tuple[Made, Made]) -> None:
    one, two = (files(item.bundle) for item in made)
    assert one.keys() == two.keys()
    compared = set()
    for name in one:
        if name.endswith(".json") and one[name] != two[name]:
            told, again = (dict(leaves(json.loads(data))) for data in (one[name], two[name]))
            differ = {place for place in told.keys() | again.keys() if told.get(place, ...) != again.get(place, ...)}
            assert {place for place in differ if not any(fnmatchcase(place, key) for key in allowed(name))} == set(), (
                name
            )
            compared.add(name)
        elif not fnmatchcase(name, "evidence/*/latency.npz*") and name not in (
            "evidence/report.html",
            "evidence/summary.md",
        ):
            assert one[name] == two[name], name
    assert compared >= {"manifest.json", "evidence/candidate/trial.json", "evidence/result.json"}
    assert {
        "model.onnx",
        "engine.onnx",
        "known.npz:in:images.npy",
        "calibration.cache",
        "evidence/candidate/records.npz",
    } <= one.keys()
    for name in ("evidence/candidate/latency.npz", "evidence/reference/latency.npz"):
        arrays = (np.load(io.BytesIO(data[name]), allow_pickle=False) for data in (one, two))
        assert [array.files for array in arrays] == [["wall_ms"], ["wall_ms"]]


def test_the_report_rests_on_the_results_alone(made: tuple[Made, Made], tmp_path: Path) -> None:
    """Drawn from a copy of the work folder elsewhere it has the bundle's bytes: nothing but results went into it."""
    shutil.copytree(made[0].project.folder, tmp_path / "moved" / "lane")
    config = load(tmp_path / "moved" / "lane" / "edgeship.toml")
    out = tmp_path / "moved" / "lane" / "edgeship-out"
    told = portable(read(RunResult, out / "result.json"), config)
    run = FinishedRun(told, out)
    write_report(run, tmp_path / "report.html")
    write_summary(run, tmp_path / "summary.md")
    for name in ("report.html", "summary.md"):
        assert (tmp_path / name).read_bytes() == (made[0].bundle / "evidence" / name).read_bytes(), name


def test_nothing_names_the_machine_the_user_or_a_place(made: tuple[Made, Made]) -> None:
    """Where this host or user is called as a word of our own, that word says nothing: the made-up users still count."""
    own = {word for path in (ROOT / "src").rglob("*.py") for word in re.findall(r"\w+", path.read_text())}
    names = {platform.node(), getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name} - own
    places = {str(ROOT), sys.prefix, str(Path.home()), tempfile.gettempdir()}
    words = [rf"(?<![\w.~]){re.escape(place)}/" for place in places]
    words += [rf'["\'>=:@ ]{re.escape(name)}["\'<@]' for name in names]
    for item in made:
        pattern = re.compile("|".join([*words, *map(re.escape, item.words)]).encode())
        assert pattern.search(f'"{item.project.folder}"'.encode())
        for name, data in files(item.bundle).items():
            found = pattern.search(data)
            assert found is None, (name, found)
