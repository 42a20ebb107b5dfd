"""Which process this is, by the environment that torchrun and accelerate make."""

from __future__ import annotations

import pytest

from edgeship.qat.launched import Place, is_follower, place

SECOND = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, Place(1, 2, 2)),
        ({"WORLD_SIZE": "4"}, Place(1, 4, 2)),
        ({"LOCAL_WORLD_SIZE": ""}, Place(1, 2, 2)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"MASTER_PORT": ""}, None),
        ({"RANK": "first"}, None),
    ],
)
def test_the_place_is_what_the_launcher_says(
    changed: dict[str, str], wanted: Place | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (SECOND | changed).items():
        monkeypatch.setenv(name, value)
    assert place() == wanted
    assert is_follower() == (wanted is not None)
