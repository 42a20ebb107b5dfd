"""What a gate's own rules leave open: said by ``check`` before a run, and beside every verdict."""

from __future__ import annotations

from edgeship.config import Gate

WIDE = 0.2
"""From this share of what can be lost, a limit is called wide."""
NO_ACCURACY = (
    "No accuracy rule is set, so nothing was asked of the answers: a wrong engine would pass too (gate.max_drop, "
    "critical, min, critical_min or min_agreement asks for something)"
)


def remarks(gate: Gate, *, shares: bool = True) -> tuple[str, ...]:
    """Sentences without a final stop about rules that prove little; empty where none does.

    Args:
        gate: The rules.
        shares: Whether the metrics are shares of 1; limits of other numbers are not judged.
    """
    asked = (gate.max_drop, gate.critical, gate.min, gate.max, gate.critical_min, gate.min_agreement)
    found = [] if any(asked) else [NO_ACCURACY]
    for table, limits in (("max_drop", gate.max_drop), ("critical", gate.critical)) if shares else ():
        found += [
            f"gate.{table}.{name} = {limit:g} is a wide limit: {name} may lose {100 * limit:g} points of 100"
            for name, limit in limits.items()
            if limit >= WIDE
        ]
    agreement = gate.min_agreement
    if agreement and agreement <= 1 - WIDE:
        found.append(
            f"gate.min_agreement = {agreement:g} is a wide limit: {100 * (1 - agreement):g} of 100 answers may differ"
        )
    return tuple(found)
