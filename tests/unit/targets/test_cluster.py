"""Trials on a cluster's workers, over TLS: run once, continued after a death, quarantined; unsafe addresses refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeship.config import Target
from edgeship.errors import StorageError, TargetError, UserInputError
from edgeship.fleet import certificates
from edgeship.fleet.config import Device, Fleet
from edgeship.fleet.started import Workers, facts, scheduler, wait_until_there
from edgeship.fleet.worker import Joining, work
from edgeship.results import Artifact, Trial, trial_folder
from edgeship.targets import cluster, on_worker
from edgeship.targets.access import Access
from edgeship.targets.cluster import Cluster, connected
from edgeship.trial import shared
from fleet_support import trial
from tiny_project import save

FLEET = Fleet(
    models={"m": Path("m")}, matrix={"m": ("a",)}, devices={"a": Device(labels=("x",)), "b": Device(at_once=2)}
)
TARGET = Target(host="worker:x")


@pytest.fixture(scope="module")
def access() -> Iterator[Access]:
    with scheduler(FLEET) as made:
        yield made


@pytest.fixture(scope="module")
def workers(access: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    made = Workers(access, tmp_path_factory.mktemp("workers"))
    made.start(FLEET.devices)
    opened = Cluster(access)
    wait_until_there(opened, made, {"a", "b"})
    opened.close()
    yield made
    made.end()


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("tcp://10.1.2.3:8786", "is not encrypted: whoever reaches that port runs code on every worker"),
        ("tcp://scheduler:8786", "is not encrypted"),
        ("tls://scheduler:8786", "needs three PEM files, and these are not there: --ca is not given"),
        ("scheduler:8786", "is not the address of a scheduler"),
        ("tls://scheduler", "is not the address of a scheduler"),
    ],
)
def test_an_address_over_which_others_could_run_code_is_refused(address, what):
    with pytest.raises(UserInputError, match=what):
        Access(address).require_safe()
    Access("tcp://127.0.0.1:8786").require_safe()


def test_files_that_are_no_certificates_are_named(tmp_path):
    cert, key = certificates.make(tmp_path)
    (tmp_path / "text").write_text("no certificate")
    Access("tls://scheduler:8786", cert, cert, key).require_safe()
    for files, said in (((tmp_path / "text", cert, key), "--ca"), ((cert, cert, tmp_path / "text"), "--cert")):
        with pytest.raises(UserInputError, match=f"{said} .*cannot be used"):
            Access("tls://scheduler:8786", *files).require_safe()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": "a/b"}, "cannot be called 'a/b'"),
        ({"labels": ("x y",)}, "cannot be called 'x y'"),
        ({"via": Target(host="-oProxyCommand=x")}, "is not a host"),
    ],
)
def test_a_worker_whose_own_settings_are_wrong_does_not_wait_for_a_scheduler(tmp_path, changes, what):
    access = Access("tcp://127.0.0.1:1")
    with pytest.raises(UserInputError, match=what):
        work(Joining(**{"access": access, "name": "a", "base": tmp_path} | changes))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        work(Joining(access, "a", base=tmp_path / "file" / "base"))


def test_a_worker_of_a_fleet_needs_a_fleet(tmp_path):
    with pytest.raises(UserInputError, match="this is not a fleet"):
        cluster.run(TARGET, trial(TARGET, tmp_path / "t"))


def test_the_agents_answers_are_the_same_in_memory(tmp_path):
    on_worker.configure(tmp_path / "base", "here", ("x",))
    model = save(tmp_path / "model.onnx").read_bytes()
    digest = Artifact.of(tmp_path / "model.onnx", tmp_path).sha256
    asked = [
        ({"do": "blob", "sha256": digest}, model),
        ({"do": "sync"}, None),
        ({"do": "have", "blobs": {digest: 1}}, None),
    ]
    told = on_worker.answer(asked)
    assert [message for message, _ in told] == [{"ok": True}, {"missing": [digest]}]
    assert (tmp_path / "base" / "blobs" / digest).read_bytes() == model
    wrong = on_worker.answer([({"do": "blob", "sha256": "0" * 64}, model), ({"do": "sync"}, None)])
    assert "damaged on its way" in wrong[0][0]["error"]["found"]
    assert on_worker.run_trial("../escape", None)["error"]["kind"] == "ArtifactError"


def test_small_results_come_with_their_list(tmp_path):
    on_worker.configure(tmp_path, "here", ())
    place = tmp_path / "trials" / "t"
    place.mkdir(parents=True)
    (place / "build.json").write_text("{}")
    with (place / "records.npz").open("wb") as stream:
        stream.truncate(on_worker.MOST_BYTES)
    (place / "latency.json").write_text("[]")
    listed, *files = on_worker.results("t")
    assert {name: size for name, (size, _) in listed[0]["files"].items()} == {
        "build.json": 2, "latency.json": 2, "records.npz": on_worker.MOST_BYTES,
    }  # fmt: skip
    assert [(message["name"], data) for message, data in files] == [("build.json", b"{}"), ("latency.json", b"[]")]
    assert "is not a plain name" in on_worker.results("../t")[0][0]["error"]["found"]


@pytest.mark.slow
def test_a_trial_runs_on_the_worker_of_its_label_once(access, workers, tmp_path):
    with connected(Cluster(access)) as opened:
        told: list[str] = []
        made = cluster.run(TARGET, trial(TARGET, tmp_path / "t"), lambda _done, _total, what: told.append(what))
        assert made.failure is None and made.latency is not None
        trial_folder.verify_artifacts(tmp_path / "t", *trial_folder.artifacts_of(made))
        assert any(what.startswith("a: ") for what in told)
        assert cluster.run(TARGET, tmp_path / "t") == made, "what is finished is not run again"
        assert list((workers.folder / "a" / "trials").iterdir()) == [], "cleared when it was fetched"
        assert cluster.machine(TARGET)["installed"]["available"] is True
        assert {name: told["labels"] for name, told in facts(opened).items()} == {"a": ["a", "x"], "b": ["b"]}


@pytest.mark.slow
def test_a_shared_device_has_room_for_two_and_is_timed_when_nobody_else_is_there(
    access, workers, tmp_path, monkeypatch
):
    target, begun, made = Target(host="worker:b"), threading.Event(), list[Trial]()
    place = trial(target, tmp_path / "t")

    def hear(_done: int, _total: int | None, what: str) -> None:
        if what == "b: begins":
            begun.set()

    with connected(Cluster(access)) as opened:
        told = opened.client().scheduler_info(n_workers=-1)["workers"].values()
        assert {item["name"]: item["resources"][f"device:{item['name']}"] for item in told} == {"a": 1.0, "b": 2.0}
        monkeypatch.setenv(shared.VARIABLE, str(workers.folder / "b" / "device"))
        with shared.beside():
            hand = threading.Thread(target=lambda: made.append(cluster.run(target, place, hear)))
            hand.start()
            assert begun.wait(120)
            assert not list((workers.folder / "b" / "trials").glob("*/latency.json")), "it waits for whoever is there"
        hand.join()
    assert made[0].failure is None and made[0].latency is not None


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again_and_the_trial_ends(access, workers, tmp_path):
    with connected(Cluster(access)) as opened:
        killed = threading.Timer(1.5, lambda: workers._running["a"].kill())
        killed.start()
        made = cluster.run(TARGET, trial(TARGET, tmp_path / "t", 4.0))
        assert made.failure is None and opened.quarantined == []
        assert workers._starts["a"] == 2
        assert not _processes(str(workers.folder)), "nothing of it is left running"


@pytest.mark.slow
def test_a_trial_that_kills_its_workers_is_quarantined(access, workers, tmp_path):
    def kill_when_it_measures(_done: int, _total: int | None, what: str) -> None:
        if what.startswith("a: ") and "begins" in what:
            workers._running["a"].kill()

    with connected(Cluster(access)) as opened:
        made = cluster.run(TARGET, trial(TARGET, tmp_path / "t", 30.0), kill_when_it_measures)
    assert made.failure is not None and made.failure.kind == "Crash"
    assert made.failure.message.startswith("quarantined: a worker died 3 times while it ran (a)")
    assert len(opened.quarantined) == 1


@pytest.mark.slow
def test_who_has_another_authority_or_a_taken_name_does_not_join(access, workers, tmp_path):
    cert, key = certificates.make(tmp_path)
    stranger = Access(access.address, cert, cert, key)
    with pytest.raises(TargetError, match="cannot be reached"):
        Cluster(stranger).client()
    with pytest.raises(TargetError, match="b cannot join"):
        work(Joining(access, "b", base=tmp_path / "base"))


def _processes(text: str) -> list[int]:
    """Trial processes whose command names a folder."""
    time.sleep(0.5)
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in command and "\0trial\0" in command:
            found.append(int(place.parent.name))
    return found
