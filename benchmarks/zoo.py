"""About a hundred architectures through every step, each beside the plain path by hand.

    python benchmarks/zoo.py [NAME or family/ ...] [--workers 2] [--limit-s 3000] [--work build/zoo] [--json zoo.json]

Every step is the command a user would type, in a process of its own (with ``--together``: one process for all commands
of an architecture, which takes a third of the time): export with a dynamic batch (and with a batch of
one where that is refused), slim, preflight, parity, calibrate, INT8 for TensorRT and for onnxruntime, FP16, and the
engines of onnxruntime and TensorRT-RTX with their audit. The plain path is torch.onnx.export, onnxslim,
quantize_static and TensorRT-RTX's own parser and builder. Outcomes lie in the work folder: a second run goes on where
the first one ended, and what has an outcome is not run again. torchvision, timm, segmentation_models_pytorch,
ultralytics and transformers are wanted; a row whose package is not installed says so and counts in no share.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import facts, parser, record, table, target
from zoo_networks import CI, ZOO, build, frames

STEP_S = 240.0
FRAMES = 8
HALF = "edgeship quantize --precision fp16"
"""How the remedy of an FP16 graph begins whose answers are noise."""
WHY = 2000
"""Characters kept of a refusal: its remedy stands at the end."""
CAPABILITY = "8.9"
INTEGER = ("int8 tensorrt", "int8 onnxruntime")
QUANTIZED = (*INTEGER, "fp16")
BUILT = {"rtx fp32": "slim", "rtx fp16": "fp16", "rtx int8": "int8-tensorrt"}
WHOLE = ("slim", "parity", "calibrate", "int8 tensorrt", "rtx int8")
"""What stands between an exported graph and an INT8 engine of TensorRT-RTX."""
WHERE = ("day", "commit", "cpu", "isa", "cores", "versions")
"""What each outcome says of its run: a zoo that is gathered in several runs is no single one."""
Outcome = dict[str, Any]


def edgeship(folder: Path, *arguments: object, threads: int) -> Outcome:
    """One command as a user types it: ``said`` is ok, refused, FAILED (edgeship itself, a crash, no end)."""
    command = [sys.executable, "-m", "edgeship", *map(str, arguments), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path_of(folder)}
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=STEP_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"said": "FAILED", "why": f"did not end in {STEP_S:.0f} s", "s": STEP_S}
    outcome: Outcome = {"s": round(time.perf_counter() - begin, 1)}
    if done.returncode == 0:
        return outcome | {"said": "ok", "told": json.loads(done.stdout)}
    text = done.stderr.strip()
    if done.returncode < 0 or "edgeship itself failed" in text or not text:
        return outcome | {"said": "FAILED", "why": f"exit {done.returncode}: {text[-600:]}"}
    return outcome | {"said": "refused", "why": " ".join(text.split())[:WHY], "code": done.returncode}


def here(folder: Path, *arguments: object) -> Outcome:
    """The same command in this process: seconds faster, and a crash of a library ends everything."""
    from edgeship.cli import app
    from edgeship.errors import EdgeshipError

    begin, printed = time.perf_counter(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed):
            app(args=[*map(str, arguments), "--json"], standalone_mode=False)
        outcome: Outcome = {"said": "ok", "told": json.loads(printed.getvalue())}
    except EdgeshipError as error:
        outcome = {"said": "refused", "why": " ".join(str(error).split())[:WHY], "code": error.exit_code}
    except Exception as error:  # noqa: BLE001 - whatever comes out of a command is what is being counted
        outcome = {"said": "FAILED", "why": f"{type(error).__name__}: {error}"[:600]}
    return outcome | {"s": round(time.perf_counter() - begin, 1)}


def path_of(folder: Path) -> str:
    """PYTHONPATH for a child: the network's folder, the zoo, and what this process has."""
    return os.pathsep.join([str(folder), str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])


def through(name: str, folder: Path, run: Callable[..., Outcome], *, whole: bool = True) -> dict[str, Outcome]:
    """Every step of edgeship for one architecture; ends where nothing later can be done.

    ``run`` runs one command. Without ``whole`` the calibration method is given, and FP16 and the engines other than
    INT8 are left out.
    """
    entry, done = ZOO[name], {}
    (folder / "net.py").write_text(f"from zoo_networks import build\n\n\ndef make():\n    return build({name!r})\n")
    np.savez(folder / "frames.npz", **frames(entry, FRAMES))
    for step, batch in (("export", "batch"), ("export one", "1")):
        shapes = [f"{key}={batch},{','.join(map(str, shape))}" for key, shape in entry.inputs.items()]
        inputs = [part for shape in shapes for part in ("-i", shape)]
        done[step] = run("export", "net:make", *inputs, "-o", "net.onnx")
        if done[step]["said"] == "ok":
            break
    else:
        return done
    done["slim"] = run("slim", "net.onnx", "-o", "slim.onnx")
    if done["slim"]["said"] != "ok":
        return done
    done["preflight"] = run("preflight", "slim.onnx", "--engine", "tensorrt-rtx")
    done["parity"] = run("parity", "net:make", "--onnx", "slim.onnx", *inputs, "--seeds", "1")
    count = ("--npz", "frames.npz", "--count", FRAMES, "--batch", "1" if "export one" in done else "4")
    method = () if whole else ("--method", "minmax")
    done["calibrate"] = run("calibrate", "slim.onnx", *count, *method, "-o", "c.cache")
    for step in QUANTIZED if whole else INTEGER:
        precision, _, style = step.partition(" ")
        made = ["--precision", precision, "-o", f"{step.replace(' ', '-')}.onnx", "--npz", "frames.npz"]
        made += ["--for", style or "tensorrt"] + (["--cache", "c.cache"] if style else [])
        done[step] = allowing(run, "quantize", "slim.onnx", *made)
    done["ort int8"] = run("build", "int8-onnxruntime.onnx", "--engine", "onnxruntime")
    for step, graph in BUILT.items() if whole else [("rtx int8", BUILT["rtx int8"])]:
        sizes = () if "export one" in done else ("--opt-batch", "2")
        rtx = ("--engine", "tensorrt-rtx", "--compute-capability", CAPABILITY, *sizes)
        done[step] = run("build", f"{graph}.onnx", *rtx) if (folder / f"{graph}.onnx").is_file() else {"said": "–"}
    return done


def allowing(run: Callable[..., Outcome], *arguments: object) -> Outcome:
    """The command; where it refuses outputs that are noise, it again with its own remedy."""
    first = run(*arguments)
    if first["said"] == "refused" and HALF in first["why"]:
        flags = first["why"].split(HALF)[1].partition(" (candidates")[0]
        return run(*arguments, *shlex.split(flags)) | {"noise": first["why"]}
    if first["said"] != "refused" or "--allow-noise" not in first["why"]:
        return first
    names = [word.strip("'\",.;") for word in first["why"].split("--allow-noise ")[1:]]
    allowed = [part for name in names for part in ("--allow-noise", name.split()[0].strip("'\",.;"))]
    return run(*arguments, *allowed) | {"noise": first["why"]}


def plain(name: str, folder: Path) -> dict[str, str]:
    """The same by hand: ``ok`` or the exception's first line, by step."""
    import torch

    entry, said = ZOO[name], {}
    network, real = build(name), frames(entry, FRAMES)

    def attempt(step: str, work: Callable[[], object]) -> bool:
        try:
            work()
            said[step] = "ok"
        except Exception as error:  # noqa: BLE001 - whatever the libraries raise is the outcome
            said[step] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
        return said[step] == "ok"

    def export(rows: int) -> None:
        example = tuple(torch.from_numpy(array[:rows]) for array in real.values())
        axes: Any = tuple({0: torch.export.Dim.DYNAMIC} for _ in example) if rows > 1 else None
        first = next(iter(inspect.signature(network.forward).parameters.values()))
        if axes and first.kind is inspect.Parameter.VAR_POSITIONAL:  # torch takes forward(*inputs) as one tuple
            axes = (axes,)
        torch.onnx.export(
            network, example, str(folder / "plain.onnx"), input_names=list(real), dynamo=True, opset_version=18,
            dynamic_shapes=axes, external_data=False, verbose=False,
        )  # fmt: skip

    if not attempt("export", lambda: export(2)) and not attempt("export one", lambda: export(1)):
        return said
    if not attempt("slim", lambda: _slim(folder)):
        shutil.copyfile(folder / "plain.onnx", folder / "plain-slim.onnx")
    rows = 1 if "export one" in said else 4
    attempt("int8 onnxruntime", lambda: _quantize_static(folder, real, rows))
    attempt("rtx fp32", lambda: _rtx(folder / "plain-slim.onnx", rows))
    return said


def _slim(folder: Path) -> None:
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(str(folder / "plain.onnx")), str(folder / "plain-slim.onnx"))


def _quantize_static(folder: Path, real: dict[str, np.ndarray], rows: int) -> None:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{k: array[at : at + rows] for k, array in real.items()} for at in range(0, FRAMES, rows)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quant_pre_process(folder / "plain-slim.onnx", folder / "plain-pre.onnx", skip_symbolic_shape=True)
    quantize_static(
        folder / "plain-pre.onnx", folder / "plain-int8.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True
    )
    session = onnxruntime.InferenceSession(str(folder / "plain-int8.onnx"), providers=["CPUExecutionProvider"])
    session.run(None, {k: array[:rows] for k, array in real.items()})


def _rtx(model: Path, rows: int) -> None:
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    onnx_parser = trt.OnnxParser(network, logger)
    if not onnx_parser.parse(model.read_bytes()):
        raise ValueError(onnx_parser.get_error(0).desc())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    for index in range(network.num_inputs):
        value = network.get_input(index)
        shape = [rows if size < 0 else size for size in value.shape]
        profile.set_shape(value.name, shape, shape, shape)
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise ValueError("the builder returned no engine")


def one(name: str, work: Path, threads: int, *, together: bool = False) -> dict[str, Any]:
    """The outcome of one architecture, kept in ``work``; taken from there when it is known."""
    kept = work / f"{name.replace('/', '+')}.json"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    folder = work / name.replace("/", "+")
    folder.mkdir(parents=True, exist_ok=True)
    probe = _child(f"import zoo_networks as z; z.build({name!r})", folder, threads)
    if "ModuleNotFoundError" in probe:
        return {"missing": probe.strip().splitlines()[-1]}
    begin = time.perf_counter()
    if probe:
        found = {"not made": probe.strip().splitlines()[-1][:300]}
    else:
        if together:
            ours = _printed(f"zoo.together({name!r}, folder)", folder, threads)
            ours = ours if "died" not in ours else {"export": {"said": "FAILED", "why": ours["died"]}}
        else:
            ours = through(name, folder, partial(edgeship, folder, threads=threads))
        theirs = _printed(f"zoo.plain({name!r}, folder)", folder, threads)
        found = {"edgeship": ours, "plain": theirs}
        if theirs.get("int8 onnxruntime") == "ok":
            found["plain audit"] = edgeship(
                folder, "build", "plain-int8.onnx", "--engine", "onnxruntime", threads=threads
            )
    found["s"] = round(time.perf_counter() - begin, 1)
    found["on"] = {key: value for key, value in facts().items() if key in WHERE}
    kept.write_text(json.dumps(trimmed(found)))
    shutil.rmtree(folder)
    print(f"{name}: {found['s']:.0f} s, {verdict(found)}", flush=True)
    return trimmed(found)


def together(name: str, folder: Path) -> dict[str, Outcome]:
    """Every step of edgeship for one architecture, all of them in this process."""
    ours = through(name, folder, partial(here, folder))
    trimmed({"edgeship": ours})
    return ours


def _printed(expression: str, folder: Path, threads: int) -> dict[str, Any]:
    """The value of an expression over ``zoo`` and ``folder``, from a process of its own; ``died`` without one."""
    code = f"import json, pathlib, zoo; folder = pathlib.Path('.').resolve(); print('\\n' + json.dumps({expression}))"
    printed = _child(code, folder, threads, out=True)
    if not printed.strip().endswith("}"):
        return {"died": printed[-300:]}
    value: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return value


def _child(code: str, folder: Path, threads: int, *, out: bool = False) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path_of(folder)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=2 * STEP_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"did not end in {2 * STEP_S:.0f} s"
    return done.stdout if out and done.returncode == 0 else "" if done.returncode == 0 else done.stderr or "died"


def trimmed(found: dict[str, Any]) -> dict[str, Any]:
    """Without what the commands told, but for the share that INT8 has."""
    told = [*found.get("edgeship", {}).values(), found.get("plain audit", {})]
    for outcome in told:
        audit = (outcome.pop("told", None) or {}).get("audit") if "told" in outcome else None
        if audit:
            outcome["achieved"] = audit.get("achieved")
    return found


def verdict(found: dict[str, Any]) -> str:
    """One architecture in a few words."""
    if "edgeship" not in found:
        return str(found.get("missing") or found.get("not made"))
    steps = found["edgeship"]
    bad = [f"{step} {outcome['said']}" for step, outcome in steps.items() if outcome["said"] not in ("ok", "–")]
    return ", ".join(bad) or "the whole way"


def arrived(found: dict[str, Any]) -> bool:
    """Whether an INT8 engine of TensorRT-RTX came out."""
    steps = found["edgeship"]
    return all(steps.get(step, {}).get("said") == "ok" for step in WHOLE)


def behind(found: dict[str, Any]) -> list[str]:
    """Steps that the plain path does and edgeship does not."""
    ours, theirs = found["edgeship"], found["plain"]
    said = {step: ours.get(step, {}).get("said") == "ok" for step in theirs}
    said["export one"] = said.get("export one", False) or ours["export"]["said"] == "ok"
    return [step for step, text in theirs.items() if text == "ok" and not said[step]]


def report(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Print the table by family, every refusal and failure, and the targets."""
    went = {name: row for name, row in found.items() if "edgeship" in row}
    families: dict[str, list[dict[str, Any]]] = {}
    for name, row in went.items():
        families.setdefault(ZOO[name].family, []).append(row)
    rows = [
        (
            family, len(group), sum(row["edgeship"]["export"]["said"] == "ok" for row in group),
            sum(map(arrived, group)), sum(row["plain"].get("export") == "ok" for row in group),
            sum(row["plain"].get("rtx fp32") == "ok" for row in group),
        )
        for family, group in families.items()
    ]  # fmt: skip
    print(table(("family", "tried", "dynamic batch", "RTX INT8", "plain: dynamic", "plain: RTX FP32"), rows))
    for name, row in found.items():
        for step, outcome in row.get("edgeship", {}).items():
            if outcome["said"] in ("refused", "FAILED"):
                print(f"{name} {step} {outcome['said']}: {outcome['why'][:300]}")
        if "edgeship" not in row:
            print(f"{name}: {verdict(row)}")
    failed = [f"{n} {s}" for n, row in went.items() for s, o in row["edgeship"].items() if o["said"] == "FAILED"]
    worse = [f"{name}: {', '.join(steps)}" for name, row in went.items() if (steps := behind(row))]
    lower = [name for name, row in went.items() if _lower(row)]
    print("behind the plain path:", "; ".join(worse) or "none")
    print("INT8 share below the plain path's:", ", ".join(lower) or "none")
    many = max(1, len(went))
    return [
        target("architectures tried", len(went), 85, at_least=True),
        target("export with dynamic batch", sum(r["edgeship"]["export"]["said"] == "ok" for r in went.values()) / many,
               0.9, at_least=True),
        target("the whole way to an RTX INT8 engine", sum(map(arrived, went.values())) / many, 0.85, at_least=True),
        target("edgeship itself failed", len(failed), 0),
        target("the plain path goes on and edgeship does not", len(worse), 0),
        target("INT8 share below the plain path's", len(lower), 0),
    ]  # fmt: skip


def _lower(row: dict[str, Any]) -> bool:
    ours, theirs = row["edgeship"].get("ort int8", {}).get("achieved"), row.get("plain audit", {}).get("achieved")
    return ours is not None and theirs is not None and ours < theirs - 0.005


def quick() -> int:
    """The ten architectures of CI, in this process, without the plain path; prints a line of outcomes for each."""
    failed = 0
    for name in CI:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            found = through(name, Path(folder), partial(here, Path(folder)), whole=False)
        trimmed({"edgeship": found})
        failed += any(found.get(step, {}).get("said") != "ok" for step in WHOLE)
        said = {step: outcome.get("achieved") or outcome["said"] for step, outcome in found.items()}
        print(f"{name}: {time.perf_counter() - begin:.0f} s, {json.dumps(said)}", flush=True)
        for step, outcome in found.items():
            if outcome["said"] != "ok":
                print(f"  {step}: {outcome.get('why')}", flush=True)
    return int(failed > 0)


def main() -> int:
    """Run what has no outcome yet, as long as there is time; then the table over all outcomes."""
    options = _options()
    if options.quick:
        return quick()
    before, begin = facts(), time.perf_counter()
    names = [name for name in ZOO if not options.names or any(name.startswith(part) for part in options.names)]
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    threads = max(1, len(os.sched_getaffinity(0)) // options.workers)

    def timely(name: str) -> dict[str, Any]:
        known = (work / f"{name.replace('/', '+')}.json").is_file()
        late = time.perf_counter() - begin > options.limit_s
        if late and not known:
            return {"missing": "no time left in this run"}
        return one(name, work, threads, together=options.together)

    with ThreadPoolExecutor(options.workers, initializer=pinned, initargs=(_shares(options.workers),)) as pool:
        found = dict(zip(names, pool.map(timely, names), strict=True))
    targets = report(found)
    record(options.json, before, targets=targets, outcomes=found)
    return int(
        any(outcome["said"] == "FAILED" for row in found.values() for outcome in row.get("edgeship", {}).values())
    )


def _shares(workers: int) -> queue.SimpleQueue[set[int]]:
    """The cores of this process, dealt out to so many workers."""
    cores, shares = sorted(os.sched_getaffinity(0)), queue.SimpleQueue()
    for worker in range(workers):
        shares.put(set(cores[worker::workers]) or {cores[worker % len(cores)]})
    return shares


def pinned(shares: queue.SimpleQueue[set[int]]) -> None:
    """Keep this thread, and every process that it starts, on cores of its own.

    Libraries start as many threads as they see cores: 16 workers with 16 threads each took ten times as long.
    """
    os.sched_setaffinity(0, shares.get())


def _options() -> argparse.Namespace:
    asked = parser(__doc__)
    asked.add_argument("names", nargs="*", help="architectures, or how their names begin (timm/); default: all")
    asked.add_argument("--workers", type=int, default=1, help="architectures side by side")
    asked.add_argument("--quick", action="store_true", help="only the ten of CI, INT8 alone, in one process")
    asked.add_argument("--together", action="store_true", help="all commands of an architecture in one process")
    asked.add_argument("--limit-s", type=float, default=3000.0, help="begin none after this many seconds")
    asked.add_argument("--work", type=Path, default=Path("build/zoo"), help="folder of the outcomes")
    return asked.parse_args()


if __name__ == "__main__":
    sys.exit(main())
