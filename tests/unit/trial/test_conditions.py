"""Clocks and power from a recorded tree of a Jetson's and a processor's sysfs files."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from edgeship import engines
from edgeship.engines import OpenOptions
from edgeship.engines.ort import cuda as ort_cuda
from edgeship.engines.trt import flavour
from edgeship.engines.trt.runner import TrtRunner
from edgeship.errors import EdgeshipError
from edgeship.trial.conditions import device_of, for_device
from small_project import write_tree as tree

JETSON = {
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
    "sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51000\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "48593\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in1_label": "VDD_IN\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in1_input": "19000\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/curr1_input": "500\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/in2_input": "19000\n",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4/curr2_input": "200\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
}


def test_a_jetson_tells_clock_temperature_power_and_mode(tmp_path: Path) -> None:
    watch = for_device("cuda:0", tree(tmp_path, JETSON))
    with watch:
        watch.sample()
    found = watch.conditions()
    assert found.source == "jetson sysfs"
    assert found.clock_mhz == (1300.5,) * 3
    assert found.memory_clock_mhz == (3199.0,) * 3
    assert found.temperature_c == (48.59,) * 3
    assert found.power_w == (9.5,) * 3, "the input rail alone, not its parts again"
    assert found.power_mode == "2 MODE_30W"
    assert found.changed == ""


def test_a_clock_that_fell_is_said(tmp_path: Path) -> None:
    watch = for_device("cuda:0", tree(tmp_path, JETSON))
    with watch:
        (tmp_path / "sys/class/devfreq/17000000.gpu/cur_freq").write_text("612000000")
    assert watch.conditions().changed == "the clock moved between 612 and 1300 MHz"


def test_a_power_mode_that_changed_is_said(tmp_path: Path) -> None:
    watch = for_device("cuda:0", tree(tmp_path, JETSON))
    with watch:
        (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0000\n")
    found = watch.conditions()
    assert found.power_mode == "2 MODE_30W"
    assert found.changed == "the power mode went from 2 MODE_30W to 0 MAXN"


def test_a_governor_that_changed_on_any_core_is_said(tmp_path: Path) -> None:
    cores = [f"sys/devices/system/cpu/cpu{i}/cpufreq" for i in range(2)]
    files = {f"{core}/scaling_cur_freq": "2000000" for core in cores}
    files |= {f"{core}/scaling_governor": "performance\n" for core in cores}
    watch = for_device("cpu", tree(tmp_path, files))
    with watch:
        (tmp_path / cores[1] / "scaling_governor").write_text("powersave\n")
    assert watch.conditions().changed == "the power mode went from performance to performance+powersave"


@pytest.mark.parametrize("gone", ["etc/nvpmodel.conf", "sys/kernel/debug/bpmp/debug/clk/emc/rate"])
def test_what_is_not_readable_is_absent(tmp_path: Path, gone: str) -> None:
    tree(tmp_path, JETSON)
    (tmp_path / gone).unlink()
    watch = for_device("cuda:0", tmp_path)
    with watch:
        pass
    found = watch.conditions()
    assert found.clock_mhz == (1300.5,) * 2
    assert found.power_mode == ("2" if gone.startswith("etc") else "2 MODE_30W")
    assert found.memory_clock_mhz == ((3199.0,) * 2 if gone.startswith("etc") else ())


def test_a_processor_tells_its_highest_clock_and_is_not_judged_by_it(tmp_path: Path) -> None:
    files = {f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_cur_freq": f"{2_000_000 + i}" for i in range(2)}
    files["sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"] = "performance\n"
    watch = for_device("cpu", tree(tmp_path, files))
    with watch:
        for i in range(2):
            (tmp_path / f"sys/devices/system/cpu/cpu{i}/cpufreq/scaling_cur_freq").write_text("800000")
    found = watch.conditions()
    assert found.clock_mhz == (2000.0, 800.0)
    assert found.power_mode == "performance"
    assert found.changed == ""


def test_a_machine_that_tells_nothing_gives_nothing(tmp_path: Path) -> None:
    watch = for_device("cpu", tmp_path)
    with watch:
        watch.sample()
    assert watch.conditions().source == ""
    assert watch.conditions().clock_mhz == ()


def test_every_runner_says_which_device_it_works_on(tmp_path: Path) -> None:
    """Clocks and peak memory are read there: a runner that does not say it is measured as a processor."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "net.onnx")
    with engines.get("onnxruntime").open(tmp_path / "net.onnx", OpenOptions(threads=1)) as runner:
        assert device_of(runner) == "cpu"
    cuda = ort_cuda.CudaRunner(None, ((), ()), ort_cuda._Device("cuda:1", 1, None), cuda_graph=False)
    assert device_of(cuda) == "cuda:1"
    tensorrt = TrtRunner.__new__(TrtRunner)
    with pytest.raises(EdgeshipError, match="does not exist"):
        tensorrt.__init__(flavour.load("tensorrt-rtx"), tmp_path / "absent.engine", OpenOptions(device="cuda:1"))
    assert device_of(tensorrt) == "cuda:1"
