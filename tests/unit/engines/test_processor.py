"""Facts of the processor, read from flags."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeship.engines import processor
from edgeship.engines.ort.session import library

HASWELL = ("sse4_1", "avx", "avx2", "fma", "f16c")
SKYLAKE = (*HASWELL, "avx512f", "avx512bw", "avx512dq", "avx512vl")


@pytest.mark.parametrize(
    ("flags", "machine", "wrong"),
    [
        (("sse4_1", "avx"), "x86_64", False),
        (HASWELL, "x86_64", True),
        (SKYLAKE, "x86_64", True),
        ((*SKYLAKE, "avx512_vnni"), "x86_64", False),
        ((*HASWELL, "avx_vnni"), "x86_64", False),
        (("asimd",), "aarch64", False),
        (HASWELL, "AMD64", True),
    ],
)
def test_saturation_follows_the_flags(flags: tuple[str, ...], machine: str, wrong: bool) -> None:
    assert processor.saturates(flags, machine) is wrong


def test_what_the_processor_denies_is_not_there() -> None:
    """An emulator shows the host's /proc/cpuinfo and answers CPUID as the processor it plays."""
    told = frozenset({*SKYLAKE, "avx512_vnni", "avx_vnni", "amx_int8", "something_else"})
    assert processor.relevant(told, {}) == (*SKYLAKE, "avx512_vnni", "avx_vnni", "amx_int8")
    played = {"AVX2": True, "FMA3": True, "F16C": True, "AVX512F": False, "AVX512VNNI": False}
    assert processor.relevant(told, played) == HASWELL
    assert processor.relevant(told, {"AVX2": False, "AVX512F": False}) == ("sse4_1", "avx", "fma", "f16c")


def test_the_flags_say_what_onnxruntime_does_here() -> None:
    """255 · 127 + 255 · 127 fits 17 bits: what a uint8 × int8 product gives shows whether pairs are added in 16."""
    rows = 64
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, [rows, rows]),
            helper.make_tensor_value_info("b", TensorProto.INT8, [rows, rows]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, rows])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = library().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"a": np.full((rows, rows), 255, np.uint8), "b": np.full((rows, rows), 127, np.int8)}
    exact = bool((session.run(None, feeds)[0] == rows * 255 * 127).all())
    assert exact is not processor.saturates()


def test_facts_say_what_a_time_depends_on() -> None:
    facts = processor.facts()
    assert facts["processor"] and facts["cores"] >= 1 and facts["host"] != platform.node()
    assert facts["cores"] == len(facts["affinity"])
    assert facts["memory_mib"] > 100
    assert tuple(facts["instruction_sets"]) == processor.instruction_sets()
    assert ("would saturate" in processor.int8_words()) is processor.saturates()
