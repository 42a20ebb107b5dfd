"""CONTRIBUTING's "Where a new thing goes" holds: what is listed in one place is whole in the others."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeship import config, engines, metrics

ROOT = Path(__file__).parents[2]
HOW_TO = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "how-to").glob("*.md")))


def functions_of(protocol: type) -> dict[str, Callable[..., Any]]:
    return {name: found for name, found in vars(protocol).items() if inspect.isfunction(found) and name[0] != "_"}


def differences(module: Any, protocol: type) -> list[str]:
    """The functions and constants of a protocol that a module lacks or takes other parameters for."""
    found = [f"no {name}" for name in vars(protocol).get("__annotations__", {}) if not hasattr(module, name)]
    for name, wanted in functions_of(protocol).items():
        own = getattr(module, name, None)
        if own is None:
            found.append(f"no {name}")
            continue
        parameters = list(inspect.signature(wanted).parameters)[1:]
        if list(inspect.signature(own).parameters) != parameters:
            found.append(f"{name}{inspect.signature(own)} instead of ({', '.join(parameters)})")
    return found


def test_an_engine_is_one_line_of_the_dict_one_name_of_the_config_and_a_page() -> None:
    assert tuple(engines.ENGINES) == config.BUILT_IN_ENGINES
    for name in engines.ENGINES:
        assert f"`{name}`" in HOW_TO or f'"{name}"' in HOW_TO or f"--engine {name}" in HOW_TO, name


@pytest.mark.parametrize("name", list(engines.ENGINES))
def test_an_engine_module_has_the_functions_of_the_protocol(name: config.EngineName) -> None:
    assert differences(engines.get(name), engines.Engine) == []
    assert {*vars(engines.Engine)["__annotations__"], *functions_of(engines.Engine)} == set(engines.PARTS)


@pytest.mark.parametrize("name", list(metrics.TASKS))
def test_a_task_module_has_the_functions_of_the_protocol(name: str) -> None:
    assert differences(importlib.import_module(metrics.TASKS[name]), metrics.Task) == []


def test_a_module_that_lacks_a_function_is_found(tmp_path: Path) -> None:
    source = Path(importlib.import_module(metrics.TASKS["classification"]).__file__ or "").read_text(encoding="utf-8")
    changed = source.replace("def resample(", "def sample_again(", 1)
    assert changed != source
    (tmp_path / "incomplete.py").write_text(changed, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("incomplete", tmp_path / "incomplete.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert differences(module, metrics.Task) == ["no resample"]
