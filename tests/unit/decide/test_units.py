"""What counts as one: groups, clips, copies, neighbours that change together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeship.config import Gate
from edgeship.decide.gate import judge
from edgeship.decide.neighbours import block_length, video_length
from edgeship.decide.units import units_of
from made_trials import measured, records


def ids(*names):
    return {"ids": np.array(names)}


def test_images_are_their_own_units():
    units = units_of(ids("a.png", "b.png", "c.png"))
    assert (units.count, units.single, units.notes) == (3, True, ())
    assert units.spread(np.array([[1.0, 2.0, 0.0]])).tolist() == [[1.0, 2.0, 0.0]]


def test_groups_are_drawn_as_a_whole():
    units = units_of({**ids(*"abcd"), "group": np.array(["y", "x", "y", "x"])})
    assert (units.count, units.single, units.word) == (2, False, "groups")
    assert units.spread(np.array([[3.0, 0.0]])).tolist() == [[0.0, 3.0, 0.0, 3.0]]
    assert units.sums(np.array([1.0, 2.0, 4.0, 8.0])).tolist() == [10.0, 5.0]


def test_copies_count_once_and_are_said():
    units = units_of({**ids(*"abcd"), "digests": np.array(["s", "t", "s", "s"])})
    assert (units.count, units.member.tolist()) == (2, [0, 1, -1, -1])
    assert units.notes == ("2 of 4 images are copies of others: 2 differ, each counted once",)
    near = units_of({**ids(*"abcd"), "digests": np.array(list("stuv")), "copy_of": np.array([0, 0, 2, 3])})
    assert near.member.tolist() == [0, -1, 1, 2]


@pytest.mark.parametrize(
    ("names", "labels", "count"),
    [
        ([f"clip_{k}/{i:04}.png" for k in range(3) for i in range(5)], [i % 2 for i in range(15)], 3),
        ([f"class_{k}/{i:04}.png" for k in range(3) for i in range(5)], [i // 5 for i in range(15)], 15),
        ([f"city_{k}/{i * 97:06}.png" for k in range(3) for i in range(5)], [i % 2 for i in range(15)], 15),
        ([f"{i:04}.png" for i in range(15)], [i % 2 for i in range(15)], 15),
    ],
    ids=["numbered frames", "folders of classes", "gaps", "one folder"],
)
def test_folders_of_numbered_frames_are_clips(names, labels, count):
    assert units_of({**ids(*names), "label": np.array(labels)}).count == count


def test_one_picture_many_times_is_no_evidence():
    arrays = {**records(each=100), "digests": np.array(["same"] * 300)}
    other = measured(arrays={**arrays, "score": arrays["score"] * np.float32(0.99)})
    decision = judge(Gate(max_drop={"top1": 0.02}), [other], measured("reference", arrays=arrays, precision="fp32"))
    assert decision.verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(("together", "found"), [(True, True), (False, False)])
def test_neighbours_that_change_together_are_blocks(together, found):
    random = np.random.default_rng(3)
    change = random.normal(size=600)
    if together:
        change += np.repeat(random.normal(size=40), 15)
    assert (block_length(change) > 1) == found


@pytest.mark.parametrize(("together", "found"), [(0.8, True), (0.2, False), (0.0, False)])
def test_answers_that_resemble_the_next_are_frames_of_a_video(together, found):
    random = np.random.default_rng(5)
    level = np.repeat(random.normal(0, math.sqrt(together), 40), 30)
    answers = level + random.normal(0, math.sqrt(1 - together), 1200)
    assert (video_length(np.exp(3 * answers)) > 1) == found
    assert video_length(np.sort(answers)[:10]) == 1, "too few to say"
    assert video_length(np.ones(1200)) == 1


def test_forty_clips_of_a_video_that_show_no_change_prove_nothing():
    """Nothing changed, so no change can tell that frames belong together; the reference's scores do."""
    arrays = records(each=400)
    random = np.random.default_rng(5)
    level = np.repeat(random.normal(0, 1, 40), 30) + random.normal(0, 0.4, 1200)
    for scores, outcome in ((level, "inconclusive"), (random.permutation(level), "pass")):
        video = {**arrays, "score": (1 / (1 + np.exp(-scores))).astype(np.float32)}
        item = measured(arrays={**video, "score": video["score"] * np.float32(0.99)})
        decision = judge(Gate(max_drop={"top1": 0.02}), [item], measured("reference", arrays=video, precision="fp32"))
        found = next(rule for rule in decision.judged[0].rules if rule.name == "max_drop.top1")
        assert found.outcome == outcome, found.reason
        assert ("the reference answers alike on neighbouring images" in found.reason) == (outcome != "pass")


def test_frames_of_one_video_are_counted_as_blocks_and_said():
    arrays = records(each=400)
    wrong = arrays["top"].copy()
    wrong[::100] = wrong[::100, [1, 0, 2]]
    for start in (30, 330, 700):
        wrong[start : start + 12] = wrong[start : start + 12][:, [1, 0, 2]]
    item = measured(arrays={**arrays, "top": wrong})
    decision = judge(Gate(max_drop={"top1": 0.06}), [item], measured("reference", arrays=arrays, precision="fp32"))
    reason = next(rule.reason for rule in decision.judged[0].rules if rule.name == "max_drop.top1")
    assert "name the clips with evaluation.group" in reason
