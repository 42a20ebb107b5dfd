"""``ship``, ``check`` and ``open_run`` as functions: the same steps as the commands, with results that show themselves.

``import edgeship`` offers them as ``edgeship.ship``, ``edgeship.check`` and ``edgeship.open_run``.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeship import pipeline
from edgeship.cli.live import display
from edgeship.config import Config
from edgeship.config_file import load
from edgeship.decide import finished_run
from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import render
from edgeship.decide.report.candidate_table import candidate_table
from edgeship.decide.report.view import targets
from edgeship.errors import MissingExtra
from edgeship.results import Looked

if TYPE_CHECKING:
    import pandas

COLOURS = {"SHIP": "#1a7f37", "NO-SHIP": "#cf222e", "INCONCLUSIVE": "#9a6700"}
FRAME_HEIGHT = 640
"""Pixels of the report in a notebook."""


@dataclass(frozen=True)
class ShippedRun(FinishedRun):
    """A finished run: ``result`` is the whole of result.json, ``folder`` holds what it names."""

    @property
    def verdict(self) -> str:
        """SHIP, NO-SHIP or INCONCLUSIVE."""
        return self.result.verdict

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each trial: candidate, outcome, latency in ms, metrics and drops (as fractions).

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtra("trials as a table", "pandas", "notebook") from None
        rows = [
            {
                "target": trial.target_name,
                "candidate": trial.candidate,
                "precision": trial.precision,
                "outcome": trial.outcome,
                "chosen": trial.candidate == self.result.chosen,
                "p50_ms": trial.latency_ms.p50 if trial.latency_ms else None,
                "p99_ms": trial.latency_ms.p99 if trial.latency_ms else None,
                "clock": trial.latency_ms.clock if trial.latency_ms else None,
                "engine_mib": trial.engine_mib,
                **trial.metrics,
                **{f"drop_{name}": value for name, value in trial.drop.items()},
            }
            for trial in self.result.trials
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        """The verdict, the table of the candidates, and the report with its charts."""
        verdict = html.escape(self.verdict)
        parts = [
            f'<p><b style="color:{COLOURS[self.verdict]}">{verdict}</b> {html.escape(self.result.sentence)}</p>',
            *(f"<p>warning: {html.escape(warning)}</p>" for warning in (*self.result.warnings, *self.notes)),
        ]
        for view in targets(self):
            shown = candidate_table(view)
            head = "".join(f"<th>{html.escape(item.title)}</th>" for item in shown.headings)
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(figure.text)}</td>" for figure in row.figures) + "</tr>"
                for row in shown.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        page = html.escape(render(self), quote=True)
        parts.append(
            f'<details><summary>the report</summary><iframe srcdoc="{page}" '
            f'style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe></details>'
        )
        return "\n".join(parts)


@dataclass(frozen=True)
class CheckedConfig:
    """What :func:`check` found: the reference on a few labelled images, and what looks wrong."""

    looked: Looked
    warnings: tuple[str, ...]
    picture: Path | None
    """A frame as the network sees it, its labels drawn (PNG)."""

    def _repr_html_(self) -> str:
        """Warnings, the reference's metrics and answers, and the picture."""
        looked = self.looked
        parts = [f"<p>warning: {html.escape(warning)}</p>" for warning in self.warnings] or [
            "<p>nothing to warn of</p>"
        ]
        metrics = ", ".join(f"{html.escape(name)} {value:.4f}" for name, value in looked.metrics.items())
        if metrics:
            parts.append(f"<p>reference on {looked.judged} of {looked.images} images: {metrics}</p>")
        answers = "".join(
            f"<tr><td>{html.escape(image)}</td><td>{html.escape(answer)}</td></tr>"
            for image, answer in looked.answers.items()
        )
        if answers:
            parts.append(
                f"<table><thead><tr><th>image</th><th>reference</th></tr></thead><tbody>{answers}</tbody></table>"
            )
        if self.picture is not None:
            data = base64.b64encode(self.picture.read_bytes()).decode()
            parts.append(f'<img alt="a frame as the network sees it" src="data:image/png;base64,{data}">')
        return "\n".join(parts)


def ship(
    config: str | Path,
    *,
    out: str | Path | None = None,
    changes: Sequence[str] = (),
    fresh: bool = False,
    quiet: bool = False,
) -> ShippedRun:
    """The whole path, from the model to the verdict: ``edgeship ship`` as a function.

    Args:
        config: The config file, or its folder.
        out: The work folder; default: ``edgeship-out`` beside the config.
        changes: Settings that replace those of the file, such as ``"gate.max_drop.top1=0.01"``.
        fresh: Do every stage again.
        quiet: Show no progress on standard error.

    Returns:
        The finished run, whatever its verdict.

    Raises:
        EdgeshipError: What stopped the run, with the stage and the finished ones before it.
    """
    settings = load(Path(config), changes)
    with display(quiet=quiet) as shown:
        found = pipeline.ship(settings, _folder(settings, out), shown.progress, shown.stage, fresh)
    return ShippedRun(found.result, found.folder, notes=found.notes, earlier=found.earlier)


def check(
    config: str | Path, *, out: str | Path | None = None, changes: Sequence[str] = (), quiet: bool = False
) -> CheckedConfig:
    """Everything that is wrong with a config, and the reference on a few images: ``edgeship check`` as a function.

    Args and Raises: see :func:`ship`.
    """
    settings = load(Path(config), changes)
    with display(quiet=quiet) as shown:
        found = pipeline.check(settings, _folder(settings, out), shown.progress, shown.stage)
    return CheckedConfig(found.looked, found.warnings, found.picture)


def open_run(folder: str | Path) -> ShippedRun:
    """A finished run, given its work folder or its ``result.json``.

    Raises:
        ArtifactError: Absent, malformed, or of another schema version.
    """
    found = finished_run.open_run(Path(folder))
    return ShippedRun(found.result, found.folder, earlier=found.earlier)


def _folder(settings: Config, out: str | Path | None) -> Path:
    return Path(out) if out is not None else settings.root / "edgeship-out"
