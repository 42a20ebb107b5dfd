"""A ranking spread over workers is the local one to the bit, also where a worker dies, and pieces are never lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeship.errors import ArtifactError
from edgeship.fleet.config import Device, Fleet
from edgeship.fleet.started import Workers, scheduler, wait_until_there
from edgeship.prepare.noise_meter import Switched, on_threads
from edgeship.prepare.sensitivity import RankOptions, Simulator, rank
from edgeship.targets import cluster, on_worker, ranking
from edgeship.targets.cluster import Cluster, connected
from edgeship.targets.ranking import Hand, Ranking, Share

FLEET = Fleet(models={"m": Path("m")}, matrix={"m": ("a",)}, devices={"a": Device(), "b": Device()})
FRAMES = [(("1", "2"), {"images": np.random.default_rng(0).random((2, 3, 8, 8), np.float32)})]
LAYERS = 12


def network() -> onnx.ModelProto:
    """Convolutions in a row; FP16 rounds each of them."""
    random = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(random.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32), f"w{k}") for k in range(LAYERS)
    ]
    nodes = [
        helper.make_node("Conv", [f"x{k}" if k else "images", f"w{k}"], [f"x{k + 1}"], f"conv{k}", pads=[1] * 4)
        for k in range(LAYERS)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 8, 8]) for name in ("images", f"x{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def switched() -> Switched:
    return Simulator(network(), None, FRAMES, RankOptions("fp16", frames=2)).switched


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Workers]]:
    with scheduler(FLEET) as access:
        made = Workers(access, tmp_path_factory.mktemp("workers"))
        made.start(FLEET.devices)
        with connected(Cluster(access)) as opened:
            wait_until_there(opened, made, {"a", "b"})
            yield opened, made
        made.end()


def test_every_piece_is_taken_and_one_without_an_answer_again():
    share = Share(3, workers=2)
    assert [share.take() for _ in range(3)] == [0, 1, 2]
    share.put(1, [1.0])
    assert share.take() == 0, "nobody has answered it"
    assert share.take() == 2, "fewer took it"
    share.put(0, [0.5])
    share.put(0, [9.0])
    assert share.wait(0) == [0.5], "the first answer counts"
    threading.Timer(0.05, lambda: share.put(2, [2.0])).start()
    assert share.wait(2) == [2.0]
    assert share.take() is None


def test_a_piece_that_nobody_can_answer_is_given_back():
    share = Share(1, workers=1)
    share.take()
    threading.Timer(0.05, share.leave).start()
    assert share.wait(0) is None


def test_a_ranking_of_no_fleet_is_measured_here(switched):
    assert cluster.current() is None
    with ranking.over_workers()(switched, 2) as measure, on_threads(switched, 1) as alone:
        assert list(measure([[0], [1, 2]])) == list(alone([[0], [1, 2]]))


def test_a_ranking_that_was_not_sent_is_an_error_of_its_own(tmp_path):
    on_worker.configure(tmp_path, "here", ())
    assert "there is no ranking 'rank-0'" in ranking.measure("rank-0", [[0]], 1)["error"]["found"]
    assert "is not a plain name" in ranking.measure("../rank", [[0]], 1)["error"]["found"]
    with pytest.raises(ArtifactError, match="is not a plain name"):
        on_worker.place_of("../rank")


@pytest.mark.slow
def test_two_workers_rank_as_one_process_does_and_keep_nothing(fleet, switched):
    opened, workers = fleet
    found = {
        spread: rank(network(), None, FRAMES, RankOptions("fp16", workers=1, spread=spread))
        for spread in (on_threads, ranking.over_workers())
    }
    here, there = found.values()
    assert there.groups == here.groups and there.curve == here.curve
    for name in ("a", "b"):
        assert any((workers.folder / name / "blobs").iterdir()), "it was sent to both"
        assert list((workers.folder / name / "trials").iterdir()) == []
    assert ranking.hands_of(opened, 64) == [], "alone with more threads than they have: nothing is sent"


@pytest.mark.slow
def test_a_worker_that_dies_or_has_no_space_is_left_out_and_the_rest_measures(fleet, switched, tmp_path):
    opened, workers = fleet
    told: list[str] = []
    sets = [[k] for k in range(LAYERS)]
    with on_threads(switched, 1) as alone:
        wanted = list(alone(sets))
    seen = opened.workers()
    hands = [Hand(seen["a"], 1), Hand(seen["b"], 1)]
    made = Ranking(opened, switched, tmp_path, lambda _done, _total, what: told.append(what))
    blobs = workers.folder / "a" / "blobs"
    blobs.rename(blobs.with_name("kept"))
    blobs.write_text("no folder")  # what is sent there cannot be written
    try:
        assert list(made.measure(hands, sets)) == wanted
        assert hands[0].lost and not hands[1].lost
        assert [what.partition(":")[0] for what in told] == ["a is left out of the ranking"]
        answers = made.measure(hands, [sets[0]] * 200)
        first = next(answers)
        workers._running["b"].kill()
        assert [first, *answers] == [wanted[0]] * 200, "what nobody answered is measured here"
    finally:
        blobs.unlink()
        blobs.with_name("kept").rename(blobs)
        made.end(hands)
