"""How much the priors of the hierarchical model weigh: `python -m tests.bench.priors`."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from common.statistics.hierarchical import Odds, Priors, posterior

GAINS = {"A": 2.0, "B": 0.0, "C": 0.0}
"""Mean differences of the hospitals, in points: the one gains, the others do not."""
SD = 2.0
PRIORS = {
    "as supposed": Priors(),
    "hospitals more alike (0.5)": Priors(between=0.5),
    "hospitals less alike (8)": Priors(between=8.0),
    "mean within 2 points": Priors(overall=2.0),
    "mean within 50 points": Priors(overall=50.0),
    "patients differ by half a point": Priors(floor=0.5),
}


def patients(mean: float, number: int) -> list[float]:
    """Return differences with exactly this mean, and a standard deviation of `SD`."""
    drawn = np.random.default_rng(number).normal(size=number)
    return [float(value) for value in mean + SD * (drawn - drawn.mean()) / drawn.std(ddof=1)]


def main() -> None:
    """Print the table of docs/explanation/statistics.md."""
    shown = Table(title="Better by more than a point / practically the same, per cent")
    for name in ("hospitals", "patients of each", "priors", "A", "B", "together", "a further hospital"):
        shown.add_column(name)

    def cell(odds: Odds | None) -> str:
        return "–" if odds is None else f"{100 * odds.better:.0f} / {100 * odds.same:.0f}"

    for hospitals in ("AB", "ABC"):
        for number in (6, 30):
            for name, priors in PRIORS.items():
                strata = {
                    site: [{str(case): (value, 1) for case, value in enumerate(patients(GAINS[site], number))}]
                    for site in hospitals
                }
                found = posterior(strata, margin=1.0, priors=priors)
                assert found is not None
                cells = (found.where("A"), found.where("B"), found.together, found.further)
                shown.add_row(str(len(hospitals)), str(number), name, *map(cell, cells))
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
