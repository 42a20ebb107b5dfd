"""One HTML file with its style, script and pictures inside, and a policy that forbids everything else."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources
from pathlib import Path

from edgeship.decide.finished_run import FinishedRun
from edgeship.decide.report import numbers, sections
from edgeship.decide.report.blocks import Page
from edgeship.decide.report.view import OUTCOME_WORDS, RULE_WORDS, VERDICT_OUTCOME
from edgeship.errors import MissingExtra
from edgeship.files import write_text
from edgeship.text import printable

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
except ImportError:  # the target's light install has none
    raise MissingExtra("writing a report", "jinja2", "host") from None

PACKAGE = "edgeship.decide.report"


def write_report(run: FinishedRun, path: Path) -> None:
    """Write the report's page.

    Args:
        run: A finished run. Equal runs give equal files.
        path: The ``.html`` file.

    Raises:
        StorageError: The place cannot be written.
        ArtifactError: A file that the run names is absent, changed or malformed.
    """
    write_text(path, render(run))


def render(run: FinishedRun) -> str:
    """The page of a run as text."""
    return render_page(sections.assemble(run))


def render_page(page: Page) -> str:
    """A page as text."""
    style, script = _part("report.css"), _part("report.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    template = _environment().get_template("page.html")
    return template.render(policy=policy, style=Markup(style), script=Markup(script), page=page)


def _part(name: str) -> str:
    """A style sheet or script, without blank lines: what is hashed must be what stands in the page."""
    text = (resources.files(PACKAGE) / name).read_text(encoding="utf-8")
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def _hash(text: str) -> str:
    """The content security policy's name for an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: object) -> object:
    """What the template writes: text without control characters, and markup as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@functools.lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(n=numbers, OUTCOME=OUTCOME_WORDS, RULE=RULE_WORDS, VERDICT=VERDICT_OUTCOME)
    return environment
