"""What every benchmark shares: the facts of machine and run, one ``--json``, one table writer, processes of their own.

A recorded file holds one run on one machine: :func:`record` replaces it whole. Nothing of an earlier run is kept, so
that no figure stands beside figures of another machine or another day.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgeship.engines import processor

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PACKAGES = (
    "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "torchvision", "nvidia-modelopt", "pillow",
    "cuda-bindings", "openvino", "nncf", "pycocotools",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """Machine with instruction sets, load, versions, commit and day. Nothing that names a person or a host."""
    return {
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": os.environ.get("EDGESHIP_COMMIT") or commit(),
        "cpu": processor.name(),
        "isa": list(processor.instruction_sets()),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def facts_with_gpu() -> dict[str, Any]:
    """The same, with the first GPU."""
    from edgeship.engines import cuda

    gpu, known = cuda.properties(0), cuda.versions()
    return facts() | {
        "gpu": {
            "name": gpu.name,
            "compute_capability": gpu.compute_capability,
            "memory_mib": gpu.memory_bytes >> 20,
            "driver_cuda": known.driver,
        }
    }


def commit() -> str:
    """The commit of this tree; ``+`` at its end where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that prints the script's own description and knows ``--json``."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="write the figures of this run there")
    return made


def record(path: Path | None, before: dict[str, Any], **figures: Any) -> None:
    """Write one run: the facts from before it, the load after it, and its figures."""
    if path is None:
        return
    whole = {"machine": before | {"load_after": round(os.getloadavg()[0], 2)}, **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, indent=1, default=_plain) + "\n", encoding="utf-8")
    temporary.replace(path)


def earlier(path: Path | None, commit: str) -> dict[str, Any]:
    """The figures of earlier pieces; none where there is no file yet."""
    if path is None:
        raise SystemExit("--more needs --json: the file that is added to")
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text())
    if found["machine"]["commit"] != commit:
        raise SystemExit(f"{path} is of commit {found['machine']['commit']}, this is {commit}: begin a new file")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in the figures")


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], *, pad: bool = True) -> str:
    """A Markdown table that also reads well in a terminal; floats with three significant places."""
    lines = [[str(name) for name in head], *([cell(value) for value in row] for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    widths = widths if pad else [3] * len(widths)
    lines.insert(1, ["-" * width for width in widths])
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def cell(value: Any) -> str:
    """One value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return "–" if value is None else str(value)


def target(what: str, seen: float, limit: float, *, at_least: bool = False) -> dict[str, Any]:
    """Print and return one target with what was seen: ``at_least`` where more is better."""
    reached = seen >= limit if at_least else seen <= limit
    sign = "≥" if at_least else "≤"
    print(f"target: {what} {sign} {cell(float(limit))}: seen {cell(float(seen))}, {'reached' if reached else 'MISSED'}")
    return {"what": what, "limit": limit, "at_least": at_least, "seen": seen, "reached": reached}


def turns(sides: dict[str, Callable[[], object]], rounds: int, warm: int = 5) -> dict[str, np.ndarray]:
    """Milliseconds of one call of each side a round, in a new random order each: drift meets all sides alike, and each
    follows each, since a call is slower or faster by what the one before it left in the caches."""
    names = list(sides)
    found = {name: np.empty(rounds) for name in names}
    for call in sides.values():
        for _ in range(warm):
            call()
    order = np.random.default_rng(0)
    for number in range(rounds):
        for name in (names[place] for place in order.permutation(len(names))):
            start = time.perf_counter_ns()
            sides[name]()
            found[name][number] = (time.perf_counter_ns() - start) / 1e6
    return found


def child(script: str | Path, *arguments: object, limit_s: float | None = None) -> dict[str, Any]:
    """The JSON that a script of ours prints as its last line, from a process of its own.

    Raises:
        SystemExit: It failed; with the end of what it said.
    """
    command = [sys.executable, "-W", "ignore", str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s, env=environment())
    if done.returncode or not done.stdout.strip():
        raise SystemExit(f"{' '.join(command[2:])} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment(**more: str) -> dict[str, str]:
    """This environment for a process that is timed as users start it: what it imports is compiled once, as by pip."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | more


def compile_sources() -> None:
    """Compile edgeship's own files, as pip does when it installs them: a checkout is not compiled before it is used."""
    package = Path(processor.__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True, env=environment())


def edgeship(*arguments: object, **options: Any) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Seconds and result of one edgeship command."""
    command = [sys.executable, "-m", "edgeship", *map(str, arguments)]
    options.setdefault("env", environment())
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return time.perf_counter() - start, done


def high_water_mib() -> float:
    """The largest resident size of this program so far, MiB (``VmHWM``: unlike ``ru_maxrss`` it begins with it)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def medians(rounds: Sequence[dict[str, dict[str, float]]], key: str) -> dict[str, float]:
    """The median of ``key`` over rounds, by contender; a contender may be absent from some rounds."""
    names = dict.fromkeys(name for found in rounds for name in found)
    return {name: statistics.median(found[name][key] for found in rounds if name in found) for name in names}


def pictures() -> list[np.ndarray]:
    """Real photographs, uint8 RGB and larger than 224: scikit-image's where it is installed, else the example's."""
    from PIL import Image

    try:
        from skimage import data
    except ImportError:
        paths = sorted((HERE.parent / "examples" / "fashion" / "calib").glob("*.png"))[:64]
        large = (Image.open(path).convert("RGB").resize((320, 320), Image.Resampling.BICUBIC) for path in paths)
        return [np.asarray(picture) for picture in large]
    return [data.astronaut(), data.chelsea(), data.coffee()]


def crops(side: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Seeded square crops of :func:`pictures` without end, uint8 RGB, some mirrored."""
    random = np.random.default_rng(seed)
    stack = pictures()
    number = 0
    while True:
        picture = stack[number % len(stack)]
        number += 1
        top, left = (int(random.integers(0, length - side + 1)) for length in picture.shape[:2])
        crop = picture[top : top + side, left : left + side]
        yield np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)
