"""What people read of a run: the report, the Markdown summary and the JUnit file."""

from __future__ import annotations

from edgeship.decide import junit
from edgeship.decide.finished_run import EARLIER, FinishedRun
from edgeship.decide.report import write_report, write_summary
from edgeship.pipeline.decide import RESULT
from edgeship.pipeline.past import earlier_runs
from edgeship.pipeline.stages import Run, Step
from edgeship.results import EarlierRuns, write


def write_reports(run: Run) -> FinishedRun:
    """Write ``report.html``, ``summary.md`` and ``junit.xml``; return the run as they read it."""
    result = run.result(RESULT)
    earlier = earlier_runs(run, result.decisions)
    if earlier:
        write(EarlierRuns(runs=earlier), run.folder / EARLIER)
    finished = FinishedRun(result, run.folder, sealed=True, earlier=earlier)
    write_report(finished, run.folder / "report.html")
    write_summary(finished, run.folder / "summary.md")
    junit.write(finished.result.decisions, run.folder / "junit.xml")
    return finished


REPORT = Step("report", write_reports)
