"""A shared device: evaluations are there together, what is timed is there alone, and goes before who comes later."""

from __future__ import annotations

import threading

from edgeship.trial import shared


def held(
    name: str, told: list[str], there: threading.Event, leave: threading.Event, *, alone: bool
) -> threading.Thread:
    """A thread that holds the device until it is told to leave."""

    def hold() -> None:
        with shared.turn() as turn:
            (turn.alone if alone else turn.beside)()
            told.append(name)
            there.set()
            leave.wait()

    made = threading.Thread(target=hold)
    made.start()
    return made


def test_evaluations_are_there_together_and_timing_is_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(shared.VARIABLE, str(tmp_path / "device"))
    told: list[str] = []
    events = {name: (threading.Event(), threading.Event()) for name in ("one", "two", "timed", "later")}
    threads = [held(name, told, *events[name], alone=False) for name in ("one", "two")]
    assert all(events[name][0].wait(60) for name in ("one", "two")), "together"
    threads.append(held("timed", told, *events["timed"], alone=True))
    assert not events["timed"][0].wait(0.2), "others are there"
    threads.append(held("later", told, *events["later"], alone=False))
    assert not events["later"][0].wait(0.2), "who waits to be alone goes first"
    for name in ("one", "two"):
        events[name][1].set()
    assert events["timed"][0].wait(60)
    assert not events["later"][0].wait(0.2), "it is alone"
    events["timed"][1].set()
    assert events["later"][0].wait(60)
    events["later"][1].set()
    for thread in threads:
        thread.join()
    assert told[2:] == ["timed", "later"]


def test_who_was_alone_lets_others_in(tmp_path, monkeypatch):
    monkeypatch.setenv(shared.VARIABLE, str(tmp_path / "device"))
    with shared.turn() as turn:
        turn.alone()
        turn.beside()
        with shared.beside():
            pass


def test_a_device_that_is_not_shared_is_not_held(tmp_path, monkeypatch):
    monkeypatch.delenv(shared.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with shared.turn() as turn, shared.turn() as other:
        turn.alone()
        other.alone()
    assert list(tmp_path.iterdir()) == []
