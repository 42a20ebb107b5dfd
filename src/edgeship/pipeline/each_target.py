"""A step of a workflow that goes through every target of the config."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from edgeship.errors import EdgeshipError
from edgeship.pipeline.stages import Run, Step
from edgeship.pipeline.target_trials import TargetTrials
from edgeship.targets import start_all, stop_all

TargetStep = Callable[[Run, TargetTrials], None]


def each_target(*steps: TargetStep) -> Step[None]:
    """The step that does ``steps`` for every target, in order for each of them.

    Targets on other machines go side by side; those on this machine follow one by one, so that nothing disturbs their
    clock.
    """

    def work(run: Run) -> None:
        run.targets = [TargetTrials(name, target) for name, target in run.config.all_targets().items()]
        _side_by_side(run, [item for item in run.targets if item.target.host is not None], steps)
        for item in run.targets:
            if item.target.host is None:
                _go(run, item, steps)

    return Step("targets", work)


def _go(run: Run, trials: TargetTrials, steps: tuple[TargetStep, ...]) -> None:
    try:
        for step in steps:
            step(run, trials)
    except EdgeshipError as error:
        error.targets = (trials.name,)
        raise


def _side_by_side(run: Run, remote: list[TargetTrials], steps: tuple[TargetStep, ...]) -> None:
    """Raises what the first target that cannot go on raised, or Ctrl-C; the others end then, there as here."""
    if not remote:
        return
    try:
        with ThreadPoolExecutor(len(remote)) as pool:
            try:
                ended, _ = wait([pool.submit(_go, run, item, steps) for item in remote], return_when=FIRST_EXCEPTION)
                for future in ended:
                    future.result()
            except BaseException:
                stop_all()
                raise
    finally:
        start_all()
