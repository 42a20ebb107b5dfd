"""What ``faults.py fuzz`` mutates: good bytes of every kind of file that edgeship reads, and what reads them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "end_to_end")]
# ruff: noqa: E402

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from edgeship import __version__
from edgeship.bundle import MANIFEST, Contents, verify, write, zip_bundle
from edgeship.bundle.manifest import SIGNATURE, parse
from edgeship.bundle.sign import make_keys, sign
from edgeship.config import Evaluation, Gate
from edgeship.config_file import load as load_config
from edgeship.data import coco, labels, masks
from edgeship.data.datasets import open_dataset
from edgeship.data.names import read_classes
from edgeship.data.preprocess import open_image
from edgeship.decide.runs import judge_again
from edgeship.engines.inspect import describe, sidecar
from edgeship.engines.trt import timing_cache, trtexec
from edgeship.files import Hasher, sha256_bytes
from edgeship.prepare import calibration_cache
from edgeship.prepare.graph import inputs_of, load_onnx
from edgeship.prepare.model import _read_state
from edgeship.results import Identity, TensorRange, Trial, TrialSpec, read
from edgeship.results.seal import seal
from edgeship.runtime.model import load as load_bundle
from edgeship.targets import wire
from edgeship.trial.run import run_trial
from made_trials import finished_run, measured
from vehicle_support import decision, ground, make_trial

Reader = Callable[[bytes], object]
Kinds = dict[str, tuple[bytes, Reader]]


def in_file(place: Path, reader: Callable[[Path], object]) -> Reader:
    """A reader of bytes that writes them to ``place`` first."""

    def work(data: bytes) -> object:
        place.write_bytes(data)
        return reader(place)

    return work


def kinds_of(root: Path) -> Kinds:
    """What is mutated: its good bytes, and what reads it."""
    trial = make_trial(root / "trial", ground(root / "ground"))
    run_trial(trial)
    scratch = root / "scratch"
    scratch.mkdir()
    kinds = bundles(root, trial) | results(root, trial) | calibrations(scratch) | data(scratch) | models(scratch, trial)
    return kinds | messages(scratch)


def bundles(root: Path, trial: Path) -> Kinds:
    """A bundle, its zip, its signature, the keys, and its files under a manifest that agrees with them."""
    bundle, signed, keys = root / "bundle", root / "signed", root / "keys"
    keys.mkdir()
    make_keys(keys / "key.pem", keys / "pub.pem")
    write(Contents(trial, decision(), reference=trial), bundle)
    write(Contents(trial, decision(), reference=trial, key=keys / "key.pem"), signed)
    packed = zip_bundle(bundle, root / "good.zip").read_bytes()
    good = (bundle / MANIFEST).read_bytes()

    def in_runtime(data: bytes) -> object:
        (bundle / MANIFEST).write_bytes(data)
        with load_bundle(bundle) as model:
            return model.inputs

    consistent = json.loads(good)
    answer = (bundle / "known.npz").read_bytes()

    def as_known_input(data: bytes) -> object:
        (bundle / "known.npz").write_bytes(data)
        consistent["files"]["known.npz"] |= {"sha256": sha256_bytes(data), "size_bytes": len(data)}
        try:
            return in_runtime(json.dumps(consistent).encode())
        finally:
            (bundle / "known.npz").write_bytes(answer)

    def as_key(path: Path) -> object:
        return verify(signed, path)

    scratch, signature = root / "scratch", signed / SIGNATURE
    return {
        "zip": (packed, in_file(scratch / "mutated.zip", verify)),
        "manifest": (good, lambda data: parse(data, "mutated")),
        "bundle": (good, in_file(bundle / MANIFEST, lambda _: verify(bundle))),
        "runtime": (good, in_runtime),
        "known input": (answer, as_known_input),
        "signature": (signature.read_bytes(), in_file(signature, lambda _: verify(signed, keys / "pub.pem"))),
        "public key": ((keys / "pub.pem").read_bytes(), in_file(scratch / "pub.pem", as_key)),
        "private key": ((keys / "key.pem").read_bytes(), in_file(scratch / "key.pem", lambda path: sign(b"x", path))),
    }


def results(root: Path, trial: Path) -> Kinds:
    """The config, a trial's files, and the result of a run."""
    scratch, run = root / "scratch", root / "run"
    finished_run(run, measured("int8"))
    judged = run / "int8"
    kept = {path: path.read_bytes() for path in judged.iterdir()}
    records = json.loads(kept[judged / "trial.json"])

    def as_records(data: bytes) -> object:
        (judged / "records.npz").write_bytes(data)
        records["evaluation"]["records"] |= {"sha256": sha256_bytes(data), "size_bytes": len(data)}
        (judged / "trial.json").write_text(json.dumps(records))
        seal(judged, "trial:int8", 1.0)
        try:
            return judge_again(run, Gate(max_drop={"top1": 0.1}))
        finally:
            for path, content in kept.items():
                path.write_bytes(content)

    good = (run / "result.json").read_bytes()

    def as_result(data: bytes) -> object:
        (run / "result.json").write_bytes(data)
        seal(run, "run", 1.0, ("result.json",))
        return judge_again(run, Gate())

    return {
        "config": (
            (HERE.parent / "examples" / "fashion" / "edgeship.toml").read_bytes(),
            in_file(scratch / "edgeship.toml", load_config),
        ),
        "spec": (
            (trial / "spec.json").read_bytes(),
            in_file(scratch / "spec.json", lambda path: read(TrialSpec, path)),
        ),
        "trial": ((trial / "trial.json").read_bytes(), in_file(scratch / "trial.json", lambda path: read(Trial, path))),
        "result": (good, as_result),
        "records": (kept[judged / "records.npz"], as_records),
        "hashes": (b'{"/a/b.png": [12, 34, 56, "ab12"]}', in_file(scratch / "hashes.json", Hasher)),
    }


def calibrations(scratch: Path) -> Kinds:
    """A calibration cache and what stands beside it, each changed alone, under a binding that agrees with it."""
    text = b"TRT-101600-EntropyCalibration2\nimages: 3c010a14\nconv1: 3d2a3b4c\nlogits: 3e99999a\n"
    place = scratch / "bound.cache"
    entry = TensorRange(low=-1, high=2, bounds={"minmax": (-1, 2)}, amax={"minmax": 2})
    frames = [(("0.png",), {"images": np.zeros((1, 3, 4, 4), np.float32)})]
    facts = {"edgeship": __version__, "method": "minmax", "frames": 1}
    facts |= {f"{part}_sha256": "0" * 64 for part in ("graph", "preprocess", "frames")}
    calibration_cache.save(place, calibration_cache.Content({"images": 0.5}, {"images": entry}, frames), facts)
    binding = json.loads(calibration_cache.sidecar_path(place).read_text())
    parts = {
        "cache": place,
        "ranges": calibration_cache.ranges_path(place),
        "samples": calibration_cache.samples_path(place),
    }
    good = {part: path.read_bytes() for part, path in parts.items()}

    def as_part(part: str) -> Reader:
        def work(data: bytes) -> object:
            for name, path in parts.items():
                path.write_bytes(data if name == part else good[name])
            told = binding | ({f"{part}_sha256": sha256_bytes(data)} if part in parts else {})
            sidecar = json.dumps(told).encode() if part in parts else data
            calibration_cache.sidecar_path(place).write_bytes(sidecar)
            return calibration_cache.samples(calibration_cache.load(place, calibration_cache.Expected()))

        return work

    sidecar = calibration_cache.sidecar_path(place).read_bytes()
    found: Kinds = {f"calibration {part}": (data, as_part(part)) for part, data in good.items()}
    found["calibration sidecar"] = (sidecar, as_part("sidecar"))
    return found | {"cache": (text, in_file(scratch / "calib.cache", calibration_cache.parse_cache))}


def data(scratch: Path) -> Kinds:
    """Labels, class names, arrays, masks and images."""
    coco_text = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "cyclist"}],
    }
    arrays, array, picture = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(arrays, images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([0, 1]))
    np.save(array, np.zeros((8, 8), np.uint8))
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(picture, "JPEG")
    mask = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(mask, "PNG")

    def as_dataset(path: Path) -> object:
        return [item.target for item in open_dataset(Evaluation(task="classification", images=path)).items]

    return {
        "labels CSV": (b"image,label\na.png,car\nb.png,1\n", in_file(scratch / "labels.csv", labels.read)),
        "labels JSON": (b'[{"image": "a.png", "label": "car"}]', in_file(scratch / "labels.json", labels.read)),
        "COCO": (json.dumps(coco_text).encode(), in_file(scratch / "coco.json", lambda path: coco.read(path, None))),
        "class names": (b"car\ncyclist\npedestrian\n", in_file(scratch / "classes.txt", read_classes)),
        "npz": (arrays.getvalue(), in_file(scratch / "arrays.npz", as_dataset)),
        "mask array": (array.getvalue(), in_file(scratch / "mask.npy", masks.read)),
        "mask": (mask.getvalue(), in_file(scratch / "mask.png", masks.read)),
        "image": (picture.getvalue(), open_image),
    }


def models(scratch: Path, trial: Path) -> Kinds:
    """ONNX files, engines and their record, weights."""
    plan = b"ftrt" + bytes(12) + (400).to_bytes(8, "little") + bytes((10, 3, 0, 26)) + bytes(range(256)) + bytes(116)
    (scratch / "recorded.engine").write_bytes(plan)
    weights = scratch / "good.safetensors"
    state = {"w": torch.zeros(4, 4), "b": torch.ones(4)}
    save_file(state, weights)
    torch.save(state, scratch / "good.pt")
    onnx_bytes = (trial / "model.onnx").read_bytes()

    def state_of(path: Path) -> object:
        return _read_state(path, None)

    return {
        "onnx": (onnx_bytes, in_file(scratch / "model.onnx", describe)),
        "onnx to prepare": (onnx_bytes, in_file(scratch / "prepared.onnx", lambda path: inputs_of(load_onnx(path)))),
        "engine": (plan, in_file(scratch / "model.engine", describe)),
        "engine's record": (
            (trial / "build.json").read_bytes(),
            in_file(sidecar(scratch / "recorded.engine"), lambda _: describe(scratch / "recorded.engine")),
        ),
        "safetensors": (weights.read_bytes(), in_file(scratch / "weights.safetensors", state_of)),
        "checkpoint": ((scratch / "good.pt").read_bytes(), in_file(scratch / "weights.pt", state_of)),
    }


def messages(scratch: Path) -> Kinds:
    """What a device, trtexec and a timing cache's proof say."""
    bound = Identity(engine="tensorrt", version="10.3.0", device="Orin")
    (scratch / "timing.cache").write_bytes(b"measured")
    proof = json.dumps({"sha256": sha256_bytes(b"measured"), **timing_cache.binding(bound)}).encode()
    times = b'[{"computeMs": 1.5, "latencyMs": 1.75, "h2dMs": 0.1, "d2hMs": 0.1}]'
    said = b'{"error": {"kind": "DataError", "found": "no image", "expected": null, "do": "mend it"}}'
    return {
        "device's words": (said, lambda data: wire.revive(wire.hear(data.decode("utf-8", "replace")))),
        "trtexec's times": (times, lambda data: trtexec.read_times(data.decode("utf-8", "replace"))),
        "timing cache": (
            proof,
            in_file(
                timing_cache.proof_path(scratch / "timing.cache"),
                lambda _: timing_cache._read(scratch / "timing.cache", bound),
            ),
        ),
    }
