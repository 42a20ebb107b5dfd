"""Every assumption about an engine, proven on the device at hand: tiny networks, one named check for each.

edgeship selftest --engine tensorrt -o selftest.json
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from pydantic import ValidationError

from edgeship import __version__, engines
from edgeship.config import EngineName, Target, takes_tensorrt_graphs
from edgeship.config_file import problems_of
from edgeship.engines import cuda
from edgeship.errors import ConfigError, EdgeshipError
from edgeship.progress import Progress, silent
from edgeship.results import CheckResult, SelfTest
from edgeship.selftest.bench import Bench, Failed, NotHere
from edgeship.selftest.checks import CHECKS


def selftest(engine: EngineName, device: str = "", progress: Progress = silent) -> SelfTest:
    """Run every check of an engine on a device; a check that fails says which feature not to trust.

    Args:
        engine: Its name.
        device: Default: ``cpu`` where the engine has it, else ``cuda:0``.
        progress: Told which check runs.

    Raises:
        ConfigError: The engine has no such kind of device.
        DeviceError: The device that is asked for is not here.
    """
    module = engines.get(engine)
    probe = module.probe()
    place = device or ("cuda:0" if takes_tensorrt_graphs(engine) else "cpu")
    try:
        Target(engine=engine, device=place)
    except ValidationError as error:
        raise ConfigError(problems_of(error, "device"), where="the options") from None
    if takes_tensorrt_graphs(engine) and not place.startswith("cuda"):
        raise ConfigError([f'device: {engine} runs on a GPU, found {place!r}; use "cuda:0"'], where="the options")
    if device and probe.available:
        module.identity(device)
    found: list[CheckResult] = []
    with tempfile.TemporaryDirectory(prefix="edgeship-selftest-") as folder:
        bench = Bench(engine, module, place, Path(folder), runs=place == "cpu" or bool(cuda.cuda().gpus))
        for count, check in enumerate(CHECKS):
            progress(count, len(CHECKS), check.name)
            start = time.perf_counter()
            try:
                if found and found[0].outcome == "failed":
                    raise NotHere("the engine does not load here")
                outcome, said = "passed", check.run(bench)
            except NotHere as reason:
                outcome, said = "not here", str(reason)
            except (Failed, EdgeshipError) as error:
                outcome, said = "failed", str(error)
            found.append(
                CheckResult(
                    name=check.name,
                    outcome=outcome,
                    said=" ".join(said.replace(folder, "…").split())[:400],
                    seconds=round(time.perf_counter() - start, 3),
                    distrust=check.distrust if outcome == "failed" else "",
                )
            )
    return SelfTest(
        engine=engine, version=probe.version, device=bench.device_name(), edgeship=__version__, checks=tuple(found)
    )
