"""With ``--json`` standard output carries the result alone, whatever the user's code prints and by which way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeship.cli import app
from edgeship.cli.output import emit, write_json
from edgeship.cli.streams import results_alone
from processes import python

LOUD = """
import atexit, ctypes, os, subprocess, sys
def shout(what):
    print(f"print {what}")
    sys.stdout.write(f"write {what}\\n")
    os.write(1, f"descriptor {what}\\n".encode())
    ctypes.CDLL(None).puts(f"native {what}".encode())
    subprocess.run(["echo", f"child {what}"], check=True)
"""
WAYS = ("print", "write", "descriptor", "native", "child")
REAL = (
    LOUD
    + """
from edgeship.cli.output import emit
from edgeship.cli.streams import close_streams, prepare_streams, results_alone
prepare_streams()
atexit.register(shout, "at the end")
with results_alone():
    with results_alone():
        shout("before")
        emit({"a": 1}, as_json=True, lines=list)
    shout("after")
close_streams(as_json=True)
"""
)
MODEL = (
    LOUD
    + """
from torch import nn
shout("on import")
class Net(nn.Conv2d):
    def forward(self, x):
        print("print in forward")
        return super().forward(x)
def build():
    shout("in build")
    return Net(3, 4, 3)
"""
)


def test_a_result_as_json_stands_alone_on_standard_output() -> None:
    done = python("-c", REAL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"a": 1}
    for when in ("before", "after", "at the end"):
        assert {way for way in WAYS if f"{way} {when}" in done.stderr} == set(WAYS), when


def test_a_result_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = python("-c", REAL, capture_output=False, stdout=full, stderr=-1)
    assert done.returncode == 0
    assert "not all of the output could be written: No space left on device\n" in done.stderr


def test_an_error_inside_leads_standard_output_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LookupError), results_alone():
        raise LookupError
    write_json({"b": 2})
    print("as before", flush=True)
    emit({}, as_json=False, lines=lambda: ["a line"])
    assert capfd.readouterr().out == '{\n  "b": 2\n}\nas before\na line\n'


@pytest.mark.slow
def test_what_a_model_prints_does_not_mix_with_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loud_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    given = ["loud_model:build", "-i", "x=1,3,8,8"]
    for line, when in (
        (["export", *given, "-o", "m.onnx"], ("on import", "in build")),
        (["parity", *given, "--onnx", "m.onnx", "--seeds", "1"], ("in build",)),
    ):
        app(args=[*line, "--json"], standalone_mode=False)
        told = capfd.readouterr()
        assert isinstance(json.loads(told.out), dict), line
        for moment in when:
            assert {way for way in WAYS if f"{way} {moment}" in told.err} == set(WAYS), (line, moment)
        assert "print in forward" in told.err
