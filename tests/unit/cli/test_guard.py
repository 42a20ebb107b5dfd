from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from onnx import helper

from edgeship.cli.guard import crash
from processes import edgeship

PROGRAM = """
import ctypes, os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
from edgeship.cli.guard import guarded
def stopped(number, frame):
    sys.exit(70 + number)
def waits():
    signal.signal(signal.SIGTERM, stopped)
    print(os.getpid(), flush=True)
    time.sleep(60)
work = {"crash": lambda: ctypes.string_at(0), "seven": lambda: 7, "waits": waits,
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL), "hung up": lambda: os.kill(os.getpid(), signal.SIGHUP)}
sys.exit(guarded(work[sys.argv[1]], lambda error, trace: print(error, file=sys.stderr)))
"""


def start(what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_crash_is_one_sentence_and_exit_code_4() -> None:
    with start("crash") as process:
        _, said = process.communicate()
    assert process.returncode == 4
    assert said.startswith("a native library crashed and ended the process (SIGSEGV)")


def test_a_process_that_was_killed_is_told_from_a_crash() -> None:
    with start("killed") as process:
        _, said = process.communicate()
    assert process.returncode == 4
    assert "memory is full" in said


@pytest.mark.parametrize(("what", "code"), [("seven", 7), ("hung up", -signal.SIGHUP)])
def test_other_ends_pass_through(what: str, code: int) -> None:
    with start(what) as process:
        assert process.communicate() == ("", "")
    assert process.returncode == code


def test_a_signal_is_passed_on_and_no_process_is_left() -> None:
    with start("waits") as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert worker != process.pid
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 70 + signal.SIGTERM
    assert not Path(f"/proc/{worker}").exists()


def test_the_work_ends_with_a_parent_that_is_killed() -> None:
    with start("waits") as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 30
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running(worker)


def test_a_graph_that_the_parser_does_not_survive_is_one_sentence(tmp_path: Path) -> None:
    inner = helper.make_node("Block", ["a"], ["b"], domain="mine")
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    tensors = [helper.make_tensor_value_info(name, 1, [1, 3]) for name in ("x", "y")]
    made = helper.make_graph([helper.make_node("Block", ["x"], ["y"], domain="mine")], "g", tensors[:1], tensors[1:])
    function = helper.make_function("mine", "Block", ["a"], ["b"], [inner], imports)
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(made, opset_imports=imports, functions=[function]).SerializeToString())
    done = edgeship("build", path, "--engine", "tensorrt-rtx")
    assert done.returncode == 4
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_crash_names_the_library_and_what_was_asked_of_it() -> None:
    home = Path(crash.__code__.co_filename).parents[1]
    trace = f"""Fatal Python error: Segmentation fault

Thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 2 in wait

Current thread 0x00007e (most recent call first):
  File "/x/site-packages/onnxruntime/capi/session.py", line 566 in _create_inference_session
  File "{home}/engines/ort/session.py", line 211 in _construct
  File "/x/site-packages/typer/main.py", line 2 in __call__
  File "{home}/cli/__init__.py", line 70 in _run

Extension modules: numpy
"""
    error = crash(signal.SIGABRT, trace)
    assert error.found == (
        "onnxruntime crashed and ended the process (SIGABRT); called by engines/ort/session.py in _construct"
    )
    assert "another version of onnxruntime" in (error.do or "")
    assert os.fspath(home) not in str(error)
