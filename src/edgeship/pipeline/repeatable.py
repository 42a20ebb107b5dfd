"""Whether all that a run depends on is known to it as files of this machine, so that an unchanged one can be told."""

from __future__ import annotations

from pathlib import Path

from edgeship.pipeline.stages import Run
from edgeship.pipeline.streams import FOLDER

PROCESSOR = frozenset({("onnxruntime", "cpu"), ("openvino", "cpu")})
"""Engines and devices whose drivers are installed packages."""


def repeatable(run: Run) -> bool:
    """Whether the same run, begun now, would reuse every stage while no file changes and nothing is installed.

    Not where a target is another machine or a GPU, whose driver may change; where frames come out of videos; where the
    release to compare with is looked up in the history; where trackers are told; where something failed that is tried
    again, or was noted beside the verdict.

    Args:
        run: It has ended.
    """
    config = run.config
    targets = config.all_targets().values()
    here = all(item.host is None and (item.engine, item.device) in PROCESSOR for item in targets)
    streams = run.folder / FOLDER  # frames of recordings that this config uses: others are removed
    from_streams = streams.is_dir() and any(streams.iterdir())
    release = config.gate.baseline
    trials = [trial for item in run.targets for _, trial, _ in item.trials]
    failed = any(trial.failure is not None and trial.failure.kind != "PrecisionError" for trial in trials)
    looked_up = release is not None and not isinstance(release, Path)
    return here and not (from_streams or looked_up or config.track.places() or failed or run.notes)
