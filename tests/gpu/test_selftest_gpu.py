"""``edgeship selftest`` on this GPU: FP16 runs, and what onnxruntime does not have there is no failure."""

from __future__ import annotations

from edgeship.selftest import selftest


def test_onnxruntime_proves_everything_that_it_has_on_a_gpu() -> None:
    outcome = {check.name: (check.outcome, check.said) for check in selftest("onnxruntime", "cuda:0").checks}
    assert {name: told for name, told in outcome.items() if told[0] == "failed"} == {}
    for name in ("build fp16", "answers fp16", "audit fp16", "CUDA graph", "bundle and known answer"):
        assert outcome[name][0] == "passed", (name, outcome[name])
    assert outcome["build int8"][0] == "not here"
    assert "INT8 on a GPU needs engine = 'tensorrt'" in outcome["build int8"][1]
