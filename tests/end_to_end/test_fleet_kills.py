"""A fleet whose client or scheduler is ended in the middle: nothing is left running, and the next run ends right."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from fleet_support import fleet_file, free_port, models, processes, start, start_scheduler, wait_until


@pytest.mark.slow
def test_a_fleet_goes_on_after_its_client_and_its_scheduler_were_ended(tmp_path: Path) -> None:
    models(tmp_path, "m", trial_s=3.0)
    port = free_port()
    file = fleet_file(tmp_path, {"m": ["cpu"]}, ("one",), f"tcp://127.0.0.1:{port}")
    scheduler = start_scheduler(port)

    def measures() -> bool:
        return bool(processes(tmp_path, "trial"))

    try:
        for ending in (signal.SIGKILL, signal.SIGINT):
            fleet = start(file)
            assert wait_until(measures), (tmp_path / "fleet.err").read_text()
            fleet.send_signal(ending)
            assert fleet.wait(60) == (-ending if ending == signal.SIGKILL else 130)
            assert wait_until(lambda: not processes(tmp_path)), "nothing is left running"
        fleet = start(file)
        assert wait_until(measures), (tmp_path / "fleet.err").read_text()
        scheduler.kill()
        scheduler.wait()
        scheduler = start_scheduler(port)
        assert fleet.wait(240) == 0, (tmp_path / "fleet.err").read_text()
        told = json.loads((tmp_path / "fleet.out").read_text())
        assert f"Dask's dashboard: {told['dashboard']}" in (tmp_path / "fleet.err").read_text()
        (cell,) = told["cells"]
        assert cell["verdict"] == "SHIP"
        assert not processes(tmp_path)
        graph = next((tmp_path / "fleet-out" / "m" / "stages").glob("slim-*/result.json")).stat().st_mtime_ns
        assert start(file).wait(240) == 0
        again = next((tmp_path / "fleet-out" / "m" / "stages").glob("slim-*/result.json")).stat().st_mtime_ns
        assert again == graph, "what is finished stays"
    finally:
        scheduler.kill()
        scheduler.wait()
