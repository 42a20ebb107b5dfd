"""A choice of how a session runs is kept where onnxruntime's own is surely slower, and gives the very same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgeship.config import Benchmark, Target
from edgeship.engines.ort.settings import OWN, settings_of
from edgeship.files import sha256_file
from edgeship.results import Turns, trial_folder
from edgeship.trial.build import build
from edgeship.trial.tuning import choices, choose, tuned
from vehicle_support import ground, make_trial


def turns(own: float, low: float) -> Turns:
    """Two choices: onnxruntime's own, ``own`` times as slow as the other, and at least ``low`` times."""
    return Turns(
        names=("onnxruntime's own", "no spinning"),
        median_ms=(own, 1.0),
        fastest="no spinning" if own > 1 else "onnxruntime's own",
        ratio=(own, 1.0),
        ratio_low=(low, 1.0),
        ratio_high=(own, 1.0),
        rounds_ms=((own, 1.0),),
    )


@pytest.mark.parametrize(
    ("own", "low", "chosen"),
    [(1.2, 1.1, "no spinning"), (1.2, 0.99, "onnxruntime's own"), (0.9, 1.0, "onnxruntime's own")],
)
def test_the_default_stays_unless_it_is_surely_slower(own: float, low: float, chosen: str) -> None:
    found, said = choose(turns(own, low), [])
    assert found == chosen
    assert said.startswith(f"session: {chosen} (") and f"onnxruntime's own {own:.3g} ms, no spinning 1 ms" in said


def test_choices_whose_outputs_differ_are_named() -> None:
    assert "not timed, since the outputs differ: denormals as zero" in choose(turns(1.2, 1.1), ["denormals as zero"])[1]


def test_threads_are_a_choice_only_where_the_config_leaves_them() -> None:
    assert [item.threads for item in choices(0, 8).values()] == [0, 1, 4, 0, 0, 0]
    assert [item.threads for item in choices(0, 2).values()] == [0, 1, 0, 0, 0]
    assert {item.threads for item in choices(3, 8).values()} == {0}
    assert next(iter(choices(0, 8).values())) == OWN


def test_a_trial_that_is_to_be_tuned_says_what_it_chose_and_its_file_carries_it(tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "trial", ground(tmp_path / "ground"))
    spec = trial_folder.read_spec(folder)
    built = build(spec, folder)
    quick = Benchmark(warmup_s=0.01, min_s=0.05, max_s=0.3, precision=0.5)
    found = tuned(spec, folder, built, length=quick)
    said = found.notes[-1]
    chosen = said.removeprefix("session: ").partition(" (")[0]
    assert settings_of(str(folder / found.engine.path)) == choices(spec.target.threads, 2)[chosen]
    assert found.engine.sha256 == sha256_file(folder / found.engine.path)
    assert (found.engine == built.engine) == (chosen == "onnxruntime's own")


def test_only_onnxruntime_on_the_cpu_is_tuned() -> None:
    assert Target(tune=True).tune
    with pytest.raises(ValidationError, match="tune = true is for engine"):
        Target(tune=True, engine="openvino")
