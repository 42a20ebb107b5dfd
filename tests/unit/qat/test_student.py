"""The student rounds where its deployed graph does: coverage by name, equal answers, for both kinds of engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_network import Case

from edgeship.errors import TrainingError
from edgeship.prepare import calibration_cache
from edgeship.prepare.calibration_cache import CalibrationCache, Expected
from edgeship.prepare.graph import load_onnx
from edgeship.prepare.quantize import QuantizeOptions, quantize
from edgeship.prepare.quantized_tensors import Style
from edgeship.prepare.running import Running
from edgeship.qat.learned import save_learned
from edgeship.qat.rounding import Grid, Rounded, Rounding, read_rounding
from edgeship.qat.student import Student, frozen, in_layout, make_student, plain_module


def deployed(case: Case, calibration: CalibrationCache, style: Style, out: Path, *, per_channel: bool = True) -> Path:
    precision = "int8" if style == "onnxruntime" else "int8-fp32"
    options = QuantizeOptions(
        style, precision, per_channel=per_channel, placement="default", layers=False, rows=8, allow_noise=("output",)
    )
    quantize(case.slim, calibration, out, case.frames, options)
    return out


def student_of(case: Case, graph: Path) -> Student:
    return make_student(case.program, case.reference, read_rounding(load_onnx(graph), case.reference))


@pytest.mark.parametrize(("style", "per_channel"), [("onnxruntime", True), ("onnxruntime", False), ("tensorrt", True)])
def test_the_student_answers_as_the_deployed_graph_with_learned_ranges(
    case: Case, tmp_path: Path, style: Style, per_channel: bool
) -> None:
    first = deployed(case, case.calibration, style, tmp_path / "first.onnx", per_channel=per_channel)
    student = student_of(case, first)
    assert student.missed == []
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for quantizer in student.activations.values():
            quantizer.growth += 0.2 * torch.rand(1, generator=generator) - 0.1
    save_learned(tmp_path / "learned.cache", case.calibration, student.activations, case.reference)
    learned = calibration_cache.load(tmp_path / "learned.cache", Expected(method="learned"))
    second = deployed(case, learned, style, tmp_path / "second.onnx", per_channel=per_channel)
    images = case.frames[0][1]["images"]
    wanted = Running(second, optimize=False).run(None, {"images": images})[0]
    with torch.no_grad():
        found = student.module(torch.from_numpy(images)).numpy()
        plain = case.module(torch.from_numpy(images)).numpy()
    step = float(np.abs(wanted).max()) / 127
    assert np.abs(found - wanted).max() <= step
    assert np.sqrt(np.square(found - wanted).mean()) < 0.2 * np.sqrt(np.square(plain - wanted).mean())


def test_sums_concatenations_and_depthwise_weights_are_rounded(case: Case, tmp_path: Path) -> None:
    graph = deployed(case, case.calibration, "onnxruntime", tmp_path / "q.onnx")
    rounding = read_rounding(load_onnx(graph), case.reference)
    made = {name: node.op_type for node in case.reference.graph.node for name in node.output}
    rounded = {made.get(name, "input") for name in rounding.activations}
    assert {"input", "Relu", "Conv", "Add", "Sigmoid", "Mul", "Concat"} <= rounded
    assert len(rounding.weights) == 4
    student = student_of(case, graph)
    assert (student.rounded, student.weighted) == (len(rounding.activations), 4)


def test_the_learned_scales_stand_in_the_graphs_of_both_engines(case: Case, tmp_path: Path) -> None:
    student = student_of(case, deployed(case, case.calibration, "onnxruntime", tmp_path / "q.onnx"))
    relu = next(node.output[0] for node in case.reference.graph.node if node.op_type == "Relu")
    with torch.no_grad():
        student.activations[relu].growth += 0.5
    before = case.calibration.bounds(relu)
    assert before is not None
    save_learned(tmp_path / "learned.cache", case.calibration, student.activations, case.reference)
    learned = calibration_cache.load(tmp_path / "learned.cache", Expected())
    high = before[1] * float(np.exp(0.5))
    for style, steps in (("onnxruntime", 255), ("tensorrt", 127)):
        proto = load_onnx(deployed(case, learned, style, tmp_path / f"{style}.onnx"))
        scales = [float(onnx.numpy_helper.to_array(item).item()) for item in proto.graph.initializer if not item.dims]
        assert any(abs(scale - high / steps) < 1e-5 * high for scale in scales)


def test_a_program_without_the_places_of_the_rounding_is_refused(case: Case) -> None:
    grid = Grid("elsewhere", 0.1, 0, -128, 127)
    strange = Rounding({"elsewhere": Rounded(grid, None)}, {"node_elsewhere": True})
    with pytest.raises(TrainingError, match=r"none of the 1 rounded tensors and 1 rounded weights .* has a place"):
        make_student(case.program, case.reference, strange)


def test_the_layout_of_the_weights_does_not_change_the_answers(case: Case, tmp_path: Path) -> None:
    student = student_of(case, deployed(case, case.calibration, "onnxruntime", tmp_path / "q.onnx"))
    images = torch.from_numpy(case.frames[0][1]["images"])
    with torch.no_grad():
        wanted = student.module(images)
        in_layout(student.module, torch.channels_last)
        found = student.module(images)
    assert student.module.get_parameter("join.weight").is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=float(wanted.abs().max()) / 127)


def test_without_rounding_the_program_answers_as_the_module(case: Case) -> None:
    images = torch.from_numpy(case.frames[0][1]["images"])
    teacher = frozen(plain_module(case.program))
    torch.testing.assert_close(teacher(images), case.module(images).detach(), rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
