"""Averages whose batch-norm tensors stay at the sites, and are put back there at every visit.

Scale, shift, statistics and count of batches of every batch-norm layer never leave a site. The average holds all other
tensors; each target scores it with its own tensors of the same round, and its validation patients select the round.

Sources: FedBN (Li et al., ICLR 2021); MS-Net's domain-specific batch normalisation (Liu et al., IEEE TMI 2020).
"""

from collections.abc import Iterator

from common.config.methods import Budget
from common.plan.graph import Average, Completed, best_of
from common.plan.methods.method import Given, Method, of_budget, of_rounds
from common.plan.values import PlannedRow, row_of
from common.strategies import Strategy


def local(strategy: Strategy, budget: Budget = "steps") -> Method:
    """Return the method whose rows are the strategy's best average with the target's own batch-norm tensors."""
    key, title = of_budget(budget, f"{strategy.key}-local", strategy.local_title)

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        for part in given.parts(strategy.key, budget):
            for fold, averages in (
                given.averages(part, local=True, budget=budget) if given.has_norm(part, "local") else ()
            ):
                model = best_of(tuple(completed_at(target, average) for average in averages), target)
                yield row_of(given.study, key, given.study.sites, target, fold, model)

    return of_rounds(strategy, key, title, rows)


def completed_at(target: str, average: Average) -> Completed:
    """Return an average with a target's own batch-norm tensors, of the target's part of the same round."""
    return Completed(average, next(part for part in average.parts if part.site == target))
