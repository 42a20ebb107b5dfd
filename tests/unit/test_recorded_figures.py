"""Every measured figure of the documentation stands in a recorded run, and a recorded run says where it was measured.

A figure is a number with a unit of time, memory, speed or noise. A section that shows one names the file of
``benchmarks/results`` that holds it; what is no measurement, a limit or a setting, is listed here by its page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
UNITS = r"ms|µs|ns|s|seconds|minutes|MiB|GiB|MB|GB|dB|×|frames a second|images a second"
FIGURE = re.compile(rf"(?<![\w.`/-])(\d[\d,]*(?:\.\d+)?)[ \u00a0]?({UNITS})(?![\w/])(?! \d)")
FILE = re.compile(r"`(?:benchmarks/results/)?([\w-]+\.json)`")
SCALES = (1.0, 1e3, 1e-3, 1e6, 1e-6, 1e2, 1e-2, 60.0, 1 / 60)
"""Files hold seconds, milliseconds and shares; pages write what reads well."""
LIMITS = {
    "docs/explanation/calibration.md": {"10 dB", "30 dB", "0.1 dB", "6 dB", "128 MiB"},
    "docs/explanation/qat.md": {"40 dB"},
    "docs/explanation/search.md": {"1 dB", "30 dB"},
    "docs/explanation/security.md": {"16 GiB", "32 GiB", "16 MiB", "10 dB", "2 GiB"},
    "docs/how-to/calibrate-and-quantize.md": {"10 dB"},
    "docs/how-to/fleet.md": {"600 s"},
    "docs/how-to/frame-budget.md": {"33 ms"},
    "docs/how-to/onnxruntime.md": {"2 GiB"},
    "docs/how-to/qat.md": {"0.1 dB"},
}
"""What the code asks for or holds to: no measurement."""
WHOLE = ("day", "commit", "cpu", "isa", "cores", "load_before", "versions")
PIECES = {"gpu-h100.json", "gpu-h200.json"}
"""Of a script that goes through a GPU's sections one by one, on a machine that nobody else uses."""
OLD = {"search.json"}
"""Recorded before a run told of its machine, and not since: no target of theirs is shown."""


def pages() -> list[Path]:
    """The pages that people wrote."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if "enerated by" not in path.read_text(encoding="utf-8")[:400]]


def leaves(value: Any) -> Iterator[float]:
    """Every number of a recorded run."""
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield abs(float(value))


def held(text: str, numbers: list[float]) -> bool:
    """Whether a number that a page writes is one of a run, at the digits that the page writes."""
    digits = len(text.partition(".")[2])
    wanted = float(text.replace(",", ""))
    near = 0.5000001 * 10**-digits
    return any(abs(number * scale - wanted) <= near for number in numbers for scale in SCALES)


def unheld(text: str, limits: set[str], results: Path = RESULTS) -> list[str]:
    """The figures of a page that neither a limit nor a file which their section names explains."""
    found = []
    for section in re.split(r"\n(?=#+ )", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        files = [results / name for name in FILE.findall(section) if (results / name).is_file()]
        numbers = [number for path in files for number in leaves(json.loads(path.read_text(encoding="utf-8")))]
        for number, unit in FIGURE.findall(section):
            if f"{number} {unit}" not in limits and not held(number, numbers):
                found.append(f"{number} {unit}")
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_figure_of_a_page_stands_in_a_recorded_run_that_its_section_names(page: Path) -> None:
    assert unheld(page.read_text(encoding="utf-8"), LIMITS.get(str(page.relative_to(ROOT)), set())) == []


def test_a_figure_that_no_run_holds_is_found(tmp_path: Path) -> None:
    (tmp_path / "runtime.json").write_text(json.dumps({"rounds": [{"call_ms": 0.0042}], "peak_mib": 161.6}))
    text = "# A\n4.2 µs and 162 MiB (`runtime.json`), then 4.3 µs.\n\n# B\nHere 4.2 µs; a limit of 10 dB.\n"
    assert unheld(text, {"10 dB"}, tmp_path) == ["4.3 µs", "4.2 µs"]


@pytest.mark.parametrize(
    "path", [path for path in sorted(RESULTS.glob("*.json")) if path.name[:8] != "selftest"], ids=lambda path: path.stem
)
def test_a_recorded_run_says_where_and_when_it_was_measured(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    if path.name in OLD:
        assert "machine" not in found or isinstance(found["machine"], str)
        return
    machine = found["machine"]
    if path.name not in PIECES:
        assert [name for name in (*WHOLE, "load_after") if name not in machine] == []
    assert machine["commit"]
    for item in found.get("targets") or ():
        seen, limit = float(item["seen"]), float(item["limit"])
        assert item["reached"] == (seen >= limit if item["at_least"] else seen <= limit), item
