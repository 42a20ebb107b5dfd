"""Trial directories: resumed, refused, isolated in a process of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeship import engines, targets
from edgeship.config import Benchmark, Target
from edgeship.data.reference import importable
from edgeship.engines import OpenOptions
from edgeship.errors import (
    ArtifactError,
    DataError,
    EngineError,
    EngineMismatch,
    MissingExtra,
    ModelError,
    StageError,
    StorageError,
    UnsafeFile,
    WorkFolderBusy,
)
from edgeship.files import lock, sha256_file
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.pipeline.trials import require_measured
from edgeship.results import Artifact, Budget, Build, Failure, Latency, Trial, TrialSpec, read, trial_folder, write
from edgeship.targets import local, supervisor, wire
from edgeship.trial.run import STEPS, run_trial
from edgeship.trial.turns import MIN_ROUNDS
from vehicle_support import Ground, ground, make_trial

PRODUCTS = ("build.json", "audit.json", "latency.json", "evaluation.json", "trial.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def done(made: Ground, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_trial(tmp_path_factory.mktemp("done") / "trial", made)
    run_trial(folder)
    return folder


@pytest.fixture
def finished(done: Path, tmp_path: Path) -> Path:
    shutil.copytree(done, tmp_path / "trial")
    return tmp_path / "trial"


def change(folder: Path, **fields: object) -> None:
    """Rewrite the spec with other values."""
    spec = read(TrialSpec, folder / "spec.json")
    write(spec.model_copy(update=fields), folder / "spec.json")


def test_a_trial_measures_everything(done: Path) -> None:
    trial = read(Trial, done / "trial.json")
    assert trial.failure is None
    assert trial.build is not None and trial.audit is not None and trial.outputs is not None
    assert trial.latency is not None and trial.latency.batch == 2 and trial.latency.load_s is not None
    assert trial.evaluation is not None and trial.evaluation.metrics["top1"] == 1.0
    for artifact in (trial.build.engine, trial.latency.samples, trial.evaluation.records, trial.outputs):
        assert artifact is not None and sha256_file(done / artifact.path) == artifact.sha256


def test_a_finished_trial_is_not_run_again(finished: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    said: list[str] = []
    trial = run_trial(finished, lambda _done, _total, what: said.append(what))
    assert trial == read(Trial, finished / "trial.json")
    assert not said
    after = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"lock"}


@pytest.mark.parametrize("missing", range(len(PRODUCTS)))
def test_a_killed_trial_continues_where_it_was(finished: Path, missing: int) -> None:
    before = {name: (finished / name).stat().st_mtime_ns for name in PRODUCTS}
    for name in PRODUCTS[missing:]:
        (finished / name).unlink()
    trial = run_trial(finished)
    assert trial.failure is None and trial.evaluation is not None
    for name in PRODUCTS[:missing]:
        assert (finished / name).stat().st_mtime_ns == before[name]


def test_many_images_are_evaluated_beside_the_timed_session_with_the_same_answers(
    made: Ground, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[OpenOptions] = []

    def noted(path: Path, options: OpenOptions) -> engines.Runner:
        opened.append(options)
        return whole(path, options)

    engine = engines.get("onnxruntime")
    whole = engine.open
    monkeypatch.setattr(engine, "open", noted)
    monkeypatch.setattr("edgeship.trial.run.MANY", 1)
    trial = run_trial(make_trial(tmp_path / "trial", made))
    assert trial.evaluation is not None and [options.judging for options in opened] == [False, True]
    assert (tmp_path / "trial" / "records.npz").read_bytes() == (done / "records.npz").read_bytes()


def test_a_half_written_step_is_done_again(finished: Path) -> None:
    for name in ("latency.json", "trial.json"):
        (finished / name).write_text('{"batch": ')
    trial = run_trial(finished)
    assert trial.latency is not None and trial.latency.batch == 2


def test_another_spec_forgets_what_was_made_for_the_first(finished: Path) -> None:
    old = read(Build, finished / "build.json")
    change(finished, rebuild=1)
    trial = run_trial(finished)
    assert trial.rebuild == 1
    assert trial.build is not None and trial.build.seconds != old.seconds


@pytest.mark.parametrize("bounded", [True, False], ids=["the calls bound it", "the calls are too few"])
def test_another_rule_measures_only_what_it_asks_for(finished: Path, bounded: bool) -> None:
    known = read(Latency, finished / "latency.json")
    write(known.model_copy(update={"answers": (0.5, 0.99) if bounded else (0.5,)}), finished / "latency.json")
    trial_folder.note_step(finished, "latency.json", read(Latency, finished / "latency.json"))
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    change(finished, gated=(0.5, 0.99), budget=Budget(frame=True))
    trial = run_trial(finished)
    assert trial.failure is None and trial.frame is not None and trial.latency is not None
    again = {name for name, when in before.items() if (finished / name).stat().st_mtime_ns != when}
    measured = set() if bounded else {"latency.json", "latency.npz"}
    told = {"lock", "spec.json", "spec.sha256", "steps.json", "trial.json", "known.npz", "outputs.npz"}
    assert again - told == measured
    assert {"build.json", "evaluation.json", "records.npz", "model.engine.onnx"}.isdisjoint(again)
    assert 0.99 in trial.latency.answers


def test_what_a_rule_asks_for_beyond_a_finished_trial_is_said(done: Path) -> None:
    spec, trial = read(TrialSpec, done / "spec.json"), read(Trial, done / "trial.json")
    assert trial.latency is not None
    few = trial.model_copy(update={"latency": trial.latency.model_copy(update={"answers": (0.5,)})})
    asked = spec.model_copy(update={"gated": (0.5, 0.99), "budget": Budget(frame=True, fps=30, starts=True)})
    assert spec.unanswered(few) == ""
    assert f"p99 of latency, which {trial.latency.wall_ms.samples} calls do not bound, whole frames, starts" in (
        asked.unanswered(few)
    )
    assert asked.unanswered(few.model_copy(update={"failure": Failure(stage="open", kind="x", message="")})) == ""
    blind = asked.model_copy(update={"gated": (0.5,), "budget": Budget(frame=True), "evaluation": None})
    assert blind.unanswered(few) == "", "there are no images to time a frame of, now or later"


def test_changed_inputs_are_refused(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match="has changed"):
        run_trial(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        run_trial(folder)
    outside = Artifact(path="../model.onnx", sha256="0" * 64, size_bytes=1)
    change(folder, model=outside)
    with pytest.raises(ArtifactError, match="leads out of"):
        run_trial(folder)


def test_wrong_data_stops_the_run_and_an_engine_error_fails_the_candidate(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "data", made)
    spec = read(TrialSpec, folder / "spec.json")
    assert spec.evaluation is not None
    change(folder, evaluation=spec.evaluation.model_copy(update={"images": tmp_path / "absent"}))
    with pytest.raises(DataError):
        run_trial(folder)
    assert not (folder / "trial.json").exists()
    assert (folder / "latency.json").is_file()

    folder = make_trial(tmp_path / "engine", made)
    graph = onnx.load(folder / "model.onnx")
    sizes = [onnx.numpy_helper.from_array(np.ones(size, np.float32), f"ones{size}") for size in (2, 3)]
    graph.graph.initializer.extend(sizes)
    graph.graph.node.append(onnx.helper.make_node("Add", [tensor.name for tensor in sizes], ["unlike"]))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("unlike", onnx.TensorProto.FLOAT, None))
    onnx.save(graph, folder / "model.onnx")
    change(folder, model=Artifact.of(folder / "model.onnx", folder))
    trial = run_trial(folder)
    assert trial.failure is not None and trial.failure.stage == "build"
    assert read(Trial, folder / "trial.json") == trial


def test_outputs_that_cannot_be_decoded_fail_a_candidate_and_stop_for_the_reference(
    made: Ground, tmp_path: Path
) -> None:
    (tmp_path / "own_answers.py").write_text(
        "def nothing(outputs, geometry):\n    return outputs['logits'] * float('nan')\n"
    )
    folder = make_trial(tmp_path / "trial", made)
    spec = read(TrialSpec, folder / "spec.json")
    assert spec.evaluation is not None
    change(folder, evaluation=spec.evaluation.model_copy(update={"decoder": "own_answers:nothing"}))
    with importable(tmp_path):
        trial = targets.run(Target(), folder)
    assert trial.failure is not None and trial.latency is not None
    assert (trial.failure.kind, trial.failure.stage) == ("OutputError", "evaluate")
    trials = TargetTrials("default", Target(), [(spec.candidate, trial, folder)])
    with pytest.raises(DataError, match="own_answers:nothing returned scores with NaN"):
        require_measured(trials)
    fine = trial.model_copy(update={"failure": None})
    require_measured(TargetTrials("default", Target(), [(spec.candidate, fine, folder)]))
    leaking = trial.model_copy(update={"failure": Failure(stage="c", kind="InconsistentError", message="batch 1")})
    with pytest.raises(ModelError, match="the model itself, fp32 on onnxruntime: batch 1"):
        require_measured(TargetTrials("default", Target(), [(spec.candidate, leaking, folder)]))
    broken = trial.model_copy(update={"failure": Failure(stage="build", kind="BuildError", message="no kernel")})
    with pytest.raises(StageError, match=r"the reference, fp32 on onnxruntime .* build failed: no kernel"):
        require_measured(TargetTrials("default", Target(), [(spec.candidate, broken, folder)]))


def test_two_processes_do_not_mix_in_one_folder(finished: Path) -> None:
    with lock(finished), pytest.raises(WorkFolderBusy, match=str(os.getpid())):
        run_trial(finished, patience_s=0.1)


def test_a_process_that_crashes_fails_its_candidate(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    change(folder, benchmark=Benchmark(warmup_s=30, min_s=30, max_s=60))
    strike(folder, signal.SIGSEGV)
    trial = targets.run(Target(), folder)
    assert trial.failure is not None
    assert (trial.failure.kind, trial.failure.stage) == ("Crash", "benchmark")
    assert "SIGSEGV" in trial.failure.message
    assert trial.build is not None and trial.audit is not None
    assert targets.run(Target(), folder) == trial


def strike(folder: Path, number: int) -> None:
    """Send a signal to the trial's process when it has come to the benchmark."""

    def work() -> None:
        deadline = time.monotonic() + 60
        while not (folder / "audit.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        holder = (folder / "lock").read_text().strip()
        os.kill(int(holder), number)

    threading.Thread(target=work, daemon=True).start()


def own_task(folder: Path, body: str) -> Path:
    """A folder with a module ``owntask`` beside a config."""
    folder.mkdir()
    (folder / "owntask.py").write_text(f"def score(outputs, target):\n    {body}\n")
    return folder


def test_a_task_of_ones_own_is_imported_from_the_configs_folder(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    spec = read(TrialSpec, folder / "spec.json")
    assert spec.evaluation is not None
    change(folder, evaluation=spec.evaluation.model_copy(update={"task": "owntask:score"}))
    with pytest.raises(DataError, match="owntask cannot be imported"):
        local.run(folder)
    with importable(own_task(tmp_path / "config", 'return {"largest": float(outputs["logits"].max())}')):
        trial = local.run(folder)
    assert trial.failure is None and trial.evaluation is not None
    assert trial.evaluation.metrics["largest"] > 0


def test_what_a_task_of_ones_own_raises_stops_the_run_and_names_the_line(made: Ground, tmp_path: Path) -> None:
    """It is the user's code that failed: no candidate did, so there is nothing to judge."""
    folder = make_trial(tmp_path / "trial", made)
    spec = read(TrialSpec, folder / "spec.json")
    assert spec.evaluation is not None
    change(folder, evaluation=spec.evaluation.model_copy(update={"task": "owntask:score"}))
    for number, (body, said) in enumerate(
        (
            ("return len(target + None)", r"raised TypeError: .*owntask\.py:2\)"),
            ("raise SystemExit(0)", r"raised SystemExit: 0 \(.*owntask\.py:2\)"),
            ("return {'psnr': 'high'}", "returned psnr = 'high'"),
        )
    ):
        with importable(own_task(tmp_path / f"config{number}", body)), pytest.raises(DataError, match=said):
            local.run(folder)
    assert not (folder / "trial.json").exists()


def test_a_process_without_a_result_is_an_error_and_its_words_are_kept(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    spec = read(TrialSpec, folder / "spec.json")
    assert spec.evaluation is not None
    change(folder, evaluation=spec.evaluation.model_copy(update={"task": "owntask:score"}))
    end = "import os; os.write(2, b'Traceback of a library\\nFatal: no luck\\n'); os._exit(1)"
    with importable(own_task(tmp_path / "config", end)), pytest.raises(StageError) as caught:
        local.run(folder)
    assert caught.value.found == (
        "the trial process ended with exit code 1 and wrote no result; its last words: Fatal: no luck "
        "(all of them: crash.log)"
    )
    assert "Traceback" in (folder / "crash.log").read_text()
    assert not (folder / "trial.json").exists()


def test_the_last_line_is_short_and_printable() -> None:
    assert local.last_line("") == "" and local.last_line(" \n\n") == ""
    assert local.last_line("one\n two\x1b[31m \n\n") == "two[31m"
    assert len(local.last_line("x" * 5000)) == 300


def test_a_killed_process_is_continued(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    change(folder, benchmark=Benchmark(warmup_s=0.5, min_s=1.0, max_s=3.0, min_samples=10))
    strike(folder, signal.SIGKILL)
    said: list[str] = []
    trial = local.run(folder, lambda _done, _total, what: said.append(what))
    assert trial.failure is None and trial.evaluation is not None
    assert "continuing after SIGKILL" in said


def test_a_trial_that_takes_too_long_is_stopped(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    change(folder, benchmark=Benchmark(warmup_s=0.1, min_s=60, max_s=90))
    said = ["start"]
    trial = local.run(folder, lambda _done, _total, what: said.append(what.rpartition(": ")[2]), timeout_s=3)
    assert trial.failure is not None and trial.failure.kind == "Timeout"
    assert trial.failure.stage == [step for step in said if step in ("start", *STEPS)][-1]
    assert trial.failure.message == (
        "not ended after 3 s, so it was stopped; raise candidates.timeout_s if it needs longer"
    )


def test_a_trial_whose_time_is_of_no_interest_is_not_measured(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    change(folder, benchmark=None)
    trial = run_trial(folder)
    assert trial.failure is None and trial.latency is None
    assert trial.evaluation is not None and trial.outputs is not None
    assert not (folder / "latency.json").exists()


def test_the_trial_ends_with_the_process_that_waits_for_it(made: Ground, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", made)
    change(folder, benchmark=Benchmark(warmup_s=60, min_s=60, max_s=90))
    code = "import sys; from pathlib import Path; from edgeship.targets import local; local.run(Path(sys.argv[1]))"
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    deadline = time.monotonic() + 60
    while not (folder / "audit.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    change(folder, benchmark=Benchmark(warmup_s=0.01, min_s=0.02, max_s=0.5, min_samples=5))
    assert run_trial(folder, patience_s=20).failure is None


def test_errors_cross_the_pipe_as_their_own_class() -> None:
    errors = [
        StorageError("no space left", do="free some"),
        MissingExtra("the engine", "onnxruntime", "onnxruntime"),
        EngineMismatch(["built for another GPU"], do="edgeship rebuild"),
    ]
    for error in errors:
        back = wire.revive(wire.describe(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
    assert wire.revive({"what": "progress"}) is None
    unknown = wire.revive({"error": {"kind": "OSError", "found": "x", "expected": None, "do": None}})
    assert type(unknown).__name__ == "TargetError"
    assert wire.hear("a library's own print") == {} and wire.hear("[1]") == {}


def test_a_full_disk_on_the_device_is_said_and_the_trial_is_not_repeated(made: Ground, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the error still fits, the trial's results do not."""
    folder = make_trial(tmp_path / "trial", made)
    code = (
        "import resource, signal, sys; from pathlib import Path; from edgeship.targets import supervisor\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3300, 3300))\n"
        "sys.exit(supervisor.supervise(Path(sys.argv[1]), None))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    told = wire.revive(wire.hear((folder / "error.json").read_text()))
    assert isinstance(told, StorageError) and "File too large" in str(told)


@pytest.mark.parametrize("name", sorted(supervisor.FILES - {supervisor.STOPPED, supervisor.ERROR}))
def test_the_devices_own_files_lead_nowhere_else(made: Ground, tmp_path: Path, name: str) -> None:
    folder = make_trial(tmp_path / "base" / "trials" / "t", made)
    (tmp_path / "victim").write_text("precious")
    (folder / name).symlink_to(tmp_path / "victim")
    agent = subprocess.run(
        [sys.executable, "-m", "edgeship.targets.remote", "serve", str(tmp_path / "base")],
        input='{"do": "follow", "trial": "t"}\n',
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = wire.revive(wire.hear(agent.stdout.splitlines()[-1]))
    assert isinstance(told, UnsafeFile) and "symbolic link" in str(told)
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_device_too_full_to_note_an_error_ends_the_trial_after_one_attempt(made: Ground, tmp_path: Path) -> None:
    """The ballast leaves room for the process number that stood there before, and for nothing else."""
    trial = make_trial(tmp_path / "base" / "trials" / "t", made)
    (trial / "supervisor.pid").write_text("none")
    (tmp_path / "there").mkdir()
    script = (
        'mount -t tmpfs -o size=1m tmpfs "$1" && cp -r "$2/." "$1" && '
        '{ head -c 2m /dev/zero > "$1/ballast" 2>/dev/null; exec "$3" -m edgeship.targets.remote serve "$1"; }'
    )
    command = ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path / "there", tmp_path / "base", sys.executable]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdin is not None and agent.stdout is not None
        agent.stdin.write('{"do": "follow", "trial": "t"}\n')
        agent.stdin.flush()
        told = wire.revive(wire.hear(agent.stdout.readline()))
        agent.stdin.close()
    assert isinstance(told, StorageError), told
    assert "the device has no space left" in str(told)


def test_finished_trials_take_turns_in_a_process_of_their_own(done: Path, made: Ground, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(done, other)
    for place in (trial_folder.SPEC, trial_folder.TRIAL):
        content = json.loads((other / place).read_text())
        content["candidate"]["name"] = "twin"
        (other / place).write_text(json.dumps(content))
    found = local.take_turns([done, other], tmp_path / "turns.json")
    assert found.names[1] == "twin" and len(found.rounds_ms) >= MIN_ROUNDS
    assert all(value > 0 for row in found.rounds_ms for value in row)
    (other / "engine.onnx").write_bytes(b"changed")
    with pytest.raises(EngineError, match=r"could not be timed turn by turn.*"):
        local.take_turns([done, other], tmp_path / "again.json")
