"""One entry and one function make a rule that every reader of a verdict shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from edgeship.cli import app
from edgeship.config import Gate
from edgeship.decide import junit, rulebook
from edgeship.decide.case import Case, Family
from edgeship.decide.finished_run import open_run
from edgeship.decide.gate import judge
from edgeship.decide.report import terminal_summary, write_report, write_summary
from edgeship.results import Rule
from made_trials import finished_run, measured, records, restate


def heaviness(family: Family, case: Case) -> Iterator[Rule]:
    """A rule that the product does not have: no more than nine letters in a candidate's name."""
    weight = float(len(case.item.name))
    outcome = "pass" if weight <= 3 else "fail"
    yield family.rule(outcome, f"the engine weighs {weight:g} kg", limit=3.0, measured=weight, bound=weight)


NEW = Family("heaviness_kg", "Weight of the engine", "size", unit="kg", judge=heaviness)


def test_a_new_rule_is_one_entry_and_one_function(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(rulebook.FAMILIES, NEW.name, NEW)
    reference, item = measured("reference", precision="fp32"), measured("int8", arrays=records(1))
    decision = judge(Gate(latency_p50_ms=5.0), [item], reference)
    assert decision.verdict == "NO-SHIP"
    assert decision.judged[0].rules[-1].reason == "the engine weighs 4 kg"

    run = open_run(finished_run(tmp_path / "run", item))
    console = Console(record=True, width=200)
    for line in terminal_summary(run):
        console.print(line)
    assert "the engine weighs 4 kg" in console.export_text()
    write_report(run, tmp_path / "report.html")
    write_summary(run, tmp_path / "summary.md")
    for page in ("report.html", "summary.md"):
        text = (tmp_path / page).read_text().replace("\u00a0", " ")
        assert "Weight of the engine" in text
        assert "4.00 kg" in text
    assert b'name="heaviness_kg"' in junit.render([decision])


def test_compare_shows_a_new_rule_and_reads_its_direction(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(rulebook.FAMILIES, NEW.name, NEW)
    for name, kilograms in (("a", 4.0), ("b", 3.0)):
        result = open_run(finished_run(tmp_path / name, measured())).result
        rule = NEW.rule("pass", "light", limit=5.0, measured=kilograms)
        decisions = tuple(
            decision.model_copy(
                update={"judged": tuple(j.model_copy(update={"rules": (*j.rules, rule)}) for j in decision.judged)}
            )
            for decision in result.decisions
        )
        restate(tmp_path / name, result.model_copy(update={"decisions": decisions}).model_dump_json())
    shown = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    line = next(line for line in shown.output.splitlines() if "heaviness_kg" in line)
    assert line.split()[-1] == "better"
    assert "4 kg" in line


def test_the_gate_without_some_kinds_keeps_the_others():
    gate = Gate(latency_p50_ms=1.0, throughput_min=3.0, max_engine_mib=4.0, max_drop={"top1": 0.1}, rebuilds=3)
    assert rulebook.without(gate, "speed", "size", "precision") == Gate(max_drop={"top1": 0.1}, min_achieved=0.0)
    assert rulebook.without(gate, "accuracy").latency_p50_ms == 1.0


def test_every_setting_of_a_family_is_a_field_of_the_config():
    named = {family.setting or family.name for family in rulebook.FAMILIES.values() if family.judge} - {
        "run",
        "reference",
    }
    assert named <= set(Gate.model_fields)


def test_a_rule_of_another_version_is_still_read():
    family = rulebook.of("noise_db.left")
    assert (family.title.format("left"), family.higher_is_better) == ("Noise db left", False)
