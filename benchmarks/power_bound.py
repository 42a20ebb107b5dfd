"""How often a lossless INT8 ships, and how often any test at all could ship it.

The gate's paired test is enumerated over every outcome of an evaluation, against the most powerful test of the same
error, which a linear program finds: over all outcomes (lost, gained), the share of SHIP at no drop is maximised under
an error of at most 5 % at every true drop equal to the limit. No valid test of one evaluation is more powerful. Beside
it stands the test that orders outcomes by their estimated p-value (E) in place of the score statistic (Lloyd,
Australian & New Zealand Journal of Statistics 50:329-345, 2008).

    python benchmarks/power_bound.py [--json benchmarks/results/power_bound.json]
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
from scipy.optimize import linprog
from scipy.stats import multinomial

from edgeship.decide.sequence import Spending
from edgeship.decide.statistics import paired_p_value, score_statistic

IMAGES, LIMIT, ERROR = 1000, 0.01, 0.05
MOST = 50
"""Outcomes with so many lost or gained answers hold less than 1e-9 of the probability."""
Table = np.ndarray[Any, np.dtype[np.float64]]


def chances(lost: float, gained: float) -> Table:
    """The probability of each outcome: [lost, gained]."""
    counts = np.stack([*np.meshgrid(np.arange(MOST), np.arange(MOST), indexing="ij"), np.zeros((MOST, MOST))], axis=-1)
    counts[..., 2] = IMAGES - counts[..., 0] - counts[..., 1]
    found: Table = multinomial.pmf(counts, IMAGES, [lost, gained, 1 - lost - gained])
    return found


def passing(error: float) -> Table:
    """1 where the gate's test passes the outcome at this error, else 0: [lost, gained]."""
    found = np.zeros((MOST, MOST))
    for lost in range(MOST):
        for gained in range(max(0, lost - int(IMAGES * LIMIT)), MOST):
            found[lost, gained] = paired_p_value(lost, gained, IMAGES, LIMIT) <= error
    return found


def estimated(at_limit: Table, shares: Table, error: float) -> Table:
    """1 where the test passes that orders outcomes by their p-value at the estimated share of gains: [lost, gained].

    Args:
        at_limit: The probability of each outcome at each share of gains, [shares, outcomes].
        shares: The shares of gains, rising.
        error: The largest probability of passing at the limit.
    """
    lost, gained = (part.ravel() for part in np.meshgrid(np.arange(MOST), np.arange(MOST), indexing="ij"))
    order = score_statistic(lost, gained, IMAGES, LIMIT)
    rank = np.argsort(order, kind="stable")
    below = np.cumsum(at_limit[:, rank], axis=1)
    last = np.searchsorted(order[rank], order + 1e-9, side="right") - 1
    linear = LIMIT * (2 * IMAGES - lost + gained) - lost - gained
    root = np.sqrt(np.maximum(linear**2 + 8 * IMAGES * gained * LIMIT * (1 - LIMIT), 0))
    likely = (root - linear) / (4 * IMAGES)
    p = np.array([np.interp(share, shares, below[:, place]) for share, place in zip(likely, last, strict=True)])
    best = np.zeros(len(p))
    for level in np.unique(p[p <= 2 * error]):
        passes = (p <= level).astype(np.float64)
        if (at_limit @ passes).max() > error:
            break
        best = passes
    return best


def main() -> None:
    """Print the table and record the run."""
    options = harness.parser(__doc__).parse_args()
    before = harness.facts()
    gains = np.concatenate([np.linspace(0, 0.004, 41), np.linspace(0.0045, 0.03, 52)])
    at_limit = np.array([chances(LIMIT + gained, gained).ravel() for gained in gains])
    kept = 1 - Spending().confidence("int8", 1 - ERROR)
    whole, paid, other = passing(ERROR), passing(kept), estimated(at_limit, gains, kept)
    rows = []
    print(
        f"{'lost and gained each':>20}  {'gate':>7}  {'ordered by E':>13}  {'without later looks':>20}"
        f"  {'no test ships more than':>24}"
    )
    for share in (0.001, 0.0025, 0.004, 0.005):
        right = chances(share, share).ravel()
        best = linprog(-right, A_ub=at_limit, b_ub=np.full(len(at_limit), ERROR), bounds=(0, 1), method="highs")
        row = {
            "share": share,
            "gate": float(paid.ravel() @ right),
            "estimated": float(other @ right),
            "without_looks": float(whole.ravel() @ right),
            "bound": -float(best.fun),
        }
        rows.append(row)
        print(
            f"{share:>20.2%}  {row['gate']:>7.1%}  {row['estimated']:>13.1%}  {row['without_looks']:>20.1%}"
            f"  {row['bound']:>24.1%}"
        )
    error = max(float(paid.ravel() @ outcome) for outcome in at_limit)
    targets = [harness.target("largest error at the limit", error, ERROR)]
    seen = max(count for count in range(MOST) if paid[count, count])
    print(f"ships whenever {seen} of {IMAGES} answers or fewer are seen lost and as many gained")
    harness.record(
        options.json, before, rows=rows, images=IMAGES, limit=LIMIT, error=error, seen_each=seen, targets=targets
    )


if __name__ == "__main__":
    main()
