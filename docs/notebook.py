"""Write and run docs/tutorials/notebook.ipynb on a copy of the Fashion-MNIST example. Run by ``make notebook``."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
FASHION = HERE.parent / "examples" / "fashion"
CELLS = (
    "# edgeship in a notebook\n\nThe same steps as the commands, as functions. This one ran on a copy of "
    "`examples/fashion`; `make notebook` runs it again.",
    ">import edgeship\n\nchecked = edgeship.check('edgeship.toml', quiet=True)\nchecked",
    "A frame as the network sees it, what the reference answers, and what looks wrong. Nothing does, so:",
    ">run = edgeship.ship('edgeship.toml', quiet=True)\nrun.verdict, run.result.sentence",
    "A run shows itself: the verdict, the candidates, and the report with its charts.",
    ">run",
    "Its trials as a table:",
    ">run.to_pandas().T",
    "Every number comes with its type. The reasons of a rule, for instance:",
    ">decision = run.result.decisions[0]\n"
    "[(judged.candidate, rule.name, rule.outcome, rule.reason) for judged in decision.judged for rule in judged.rules]",
    "A stricter rule needs no measurement: only the gate runs again.",
    ">strict = edgeship.ship('edgeship.toml', changes=['gate.latency_p50_ms=0.001'], quiet=True)\n"
    "strict.verdict, [stage.name for stage in strict.result.stages if not stage.cached]",
    "An earlier run is opened from its folder:",
    ">edgeship.open_run('edgeship-out').result.finished",
)
"""Markdown, or code behind ``>``."""


def main() -> None:
    """Run every cell and write the notebook with what it printed."""
    cells = [new_code_cell(text[1:]) if text.startswith(">") else new_markdown_cell(text) for text in CELLS]
    notebook = new_notebook(cells=cells)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "fashion"
        shutil.copytree(FASHION, place, ignore=shutil.ignore_patterns("edgeship-out"))
        os.environ["PYTHONPATH"] = str(HERE.parent / "src")
        NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(place)}}).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, HERE / "tutorials" / "notebook.ipynb")


if __name__ == "__main__":
    main()
