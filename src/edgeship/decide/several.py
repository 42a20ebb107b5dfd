"""Several tasks in one verdict: each is judged by the gate as if it were alone, and all of its rules must pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgeship.config import Gate
from edgeship.decide import rulebook
from edgeship.decide.loaded_trial import Measured
from edgeship.metrics.several import part, tasks_in
from edgeship.results import Evaluated, Judged, Rule

LIMITS = ("max_drop", "min", "max", "critical", "critical_min")
"""Fields of the gate that name metrics or classes."""


def tasks_of(reference: Measured) -> tuple[str, ...]:
    """The names of the tasks that were evaluated; one without a name where it was a single one."""
    evaluation = reference.trial.evaluation
    found = tuple(tasks_in(evaluation.task)) if evaluation is not None and reference.records else ()
    return found or ("",)


def part_of(measured: Measured, task: str) -> Measured:
    """A trial with the evaluation and the records of one task; itself where there is but one."""
    evaluation = measured.trial.evaluation
    if not task or evaluation is None or not measured.records:
        return measured
    trial = measured.trial.model_copy(update={"evaluation": evaluated(evaluation, task)})
    return replace(measured, trial=trial, records=part(measured.records, task))


def evaluated(evaluation: Evaluated, task: str) -> Evaluated:
    """The figures of one task, by its own names."""
    own = {
        "task": tasks_in(evaluation.task)[task],
        "metrics": _own(evaluation.metrics, task),
        "examples": _own(evaluation.examples, task),
        "per_class": {key: _own(values, task) for key, values in _own(evaluation.per_class, task).items()},
    }
    return evaluation.model_copy(update=own)


def _own(values: Mapping[str, Any], task: str) -> dict[str, Any]:
    return {key.removeprefix(f"{task}."): value for key, value in values.items() if key.startswith(f"{task}.")}


def gate_of(gate: Gate, task: str) -> Gate:
    """The gate with the limits of one task, by its own names; itself where there is but one."""
    return gate.model_copy(update={name: _own(getattr(gate, name), task) for name in LIMITS}) if task else gate


def unnamed(gate: Gate, tasks: Iterable[str]) -> list[str]:
    """Limits that name no task, one sentence each."""
    known = tuple(tasks)
    return [
        f"gate.{table}.{name}: there are several tasks, and it names none of them; write "
        + " or ".join(f"{task}.{name.rpartition('.')[2]}" for task in known)
        for table in LIMITS
        for name in getattr(gate, table)
        if "." not in name or name.partition(".")[0] not in known
    ]


def joined(gate: Gate, parts: Mapping[str, Judged]) -> Judged:
    """One candidate's outcome over all tasks: rules about accuracy by task, all others once."""
    if "" in parts:
        return parts[""]
    first = next(iter(parts))
    rules: list[Rule] = []
    for task, judged in parts.items():
        for rule in judged.rules:
            family = rulebook.of(rule.name)
            if family.kind == "accuracy" or family.name == rulebook.REFERENCE:
                head, _, subject = rule.name.partition(".")
                name = ".".join(filter(None, (head, task, subject)))
                rules.append(rule.model_copy(update={"name": name, "reason": f"{task}: {rule.reason}"}))
            elif task == first and (family.name != rulebook.EMPTY or not rulebook.sets_a_rule(gate)):
                rules.append(rule)
    order = {name: place for place, name in enumerate(rulebook.FAMILIES)}
    rules.sort(key=lambda rule: order.get(rulebook.of(rule.name).name, len(order)))
    known = [item.agreement for item in parts.values() if item.agreement is not None]
    merged: dict[str, Any] = {
        "rules": tuple(rules),
        "outcome": rulebook.outcome_of(rules),
        "agreement": min(known) if len(known) == len(parts) else None,
        "score_shift": None,
    }
    for name in ("drop", "drop_interval"):
        merged[name] = {
            f"{task}.{key}": value for task, item in parts.items() for key, value in getattr(item, name).items()
        }
    for name in ("class_drop", "class_drop_interval"):
        merged[name] = {
            f"{task}.{metric}": {f"{task}.{key}": value for key, value in values.items()}
            for task, item in parts.items()
            for metric, values in getattr(item, name).items()
        }
    return parts[first].model_copy(update=merged)
