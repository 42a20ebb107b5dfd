"""Energy from recorded sysfs trees: what moves the counters is the call itself, so the values are exact."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgeship.engines import Timing
from edgeship.errors import UserInputError
from edgeship.trial.energy import Blocks, Meter, measure, meter_for
from processes import python
from small_project import write_tree as tree

RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "7\n",
    "sys/class/powercap/intel-rapl:1/name": "package-1\n",
    "sys/class/powercap/intel-rapl:1/energy_uj": "262143320000\n",
    "sys/class/powercap/intel-rapl:1/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:2/name": "psys\n",
    "sys/class/powercap/intel-rapl:2/energy_uj": "5\n",
}
JETSON = {
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in1_label": "VDD_IN\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in1_input": "19000\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/curr1_input": "500\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in2_input": "19000\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/curr2_input": "200\n",
}


def add(path: Path, microjoules: int, most: int = 262143328850) -> None:
    path.write_text(f"{(int(path.read_text()) + microjoules) % most}\n")


def test_rapl_counts_the_packages_and_goes_on_behind_the_maximum(tmp_path: Path) -> None:
    """Each call of two frames takes 30 mJ, by two packages of which one starts again at its maximum."""
    root = tree(tmp_path, RAPL)
    packages = [root / f"sys/class/powercap/intel-rapl:{number}/energy_uj" for number in (0, 1)]

    def call() -> Timing:
        add(packages[0], 10_000)
        add(packages[1], 20_000)
        return Timing(wall_ms=1.0)

    found = measure(call, 2, meter_for("cpu", root), Blocks(3, 0.002, 0.002))
    assert found.mj_per_frame == pytest.approx((15.0,) * 3)
    assert found.rest_w == (0.0,) * 3
    assert min(found.power_w) > 0
    assert found.frames % 2 == 0
    assert found.source == "RAPL package counters"


def test_what_is_taken_at_rest_is_subtracted() -> None:
    """A counter that rises by 5 W by itself: nothing is left for a call that adds nothing."""
    found = measure(
        lambda: Timing(wall_ms=time.sleep(0.001) or 1.0),
        1,
        Meter(lambda: 5 * time.perf_counter(), "made"),
        Blocks(3, 0.02, 0.02),
    )
    assert found.power_w == pytest.approx((5.0,) * 3, rel=0.05)
    assert found.mj_per_frame == pytest.approx((0.0,) * 3, abs=0.5)


def test_a_jetson_sums_the_power_of_its_input_rail(tmp_path: Path) -> None:
    meter = meter_for("cuda:0", tree(tmp_path, JETSON))
    start, before = time.perf_counter(), meter.joules()
    time.sleep(0.12)
    spent, seconds = meter.joules() - before, time.perf_counter() - start
    meter.close()
    assert spent / seconds == pytest.approx(9.5, rel=0.05), "19 V times 0.5 A, and not its parts again"
    assert meter.source == "INA3221 sensors"


def test_a_machine_without_a_meter_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="shows no energy counter") as caught:
        meter_for("cpu", tmp_path)
    assert "measure on the target itself" in str(caught.value)
    with pytest.raises(UserInputError, match="nothing here measures the energy of npu"):
        meter_for("npu", tmp_path)


def test_a_counter_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, RAPL)
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("nothing\n")
    with pytest.raises(UserInputError, match="cannot be read"):
        meter_for("cpu", root)


AS_NOBODY = """
import os
from pathlib import Path
from edgeship.errors import UserInputError
from edgeship.trial.energy import meter_for

if os.geteuid() == 0:
    os.setuid(65534)
try:
    meter_for("cpu", Path())
except UserInputError as error:
    print(error)
"""


def test_a_counter_that_this_user_may_not_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    root = tree(tmp_path, RAPL)
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)
    root.chmod(0o755)  # pytest's folders are their owner's alone
    said = python("-c", AS_NOBODY, cwd=root).stdout
    assert "this user may not read sys/class/powercap/intel-rapl:0/energy_uj" in said
    assert "do: sudo chmod a+r /sys/class/powercap/*/energy_uj" in said


def test_sensors_that_do_not_answer_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, JETSON)
    for path in root.rglob("curr*_input"):
        path.unlink()
    with pytest.raises(UserInputError, match="INA3221 sensors of this board do not answer"):
        meter_for("cuda:0", root)
