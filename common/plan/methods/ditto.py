"""Personal models beside the rounds of an average: each site's own is pulled towards the average, and never leaves.

In every round a site trains its personal model v on its own loss plus λ/2 ‖v − w‖², where w are the weights with which
the round begins and v goes on from the round before, in the first round from the study's first weights. It trains for
the round's local epochs and with the round's learning rates; Adam's moments start fresh. The average itself knows
nothing of the personal models. Each target's validation patients select the round, the setting and λ.

Source: Ditto (Li et al., ICML 2021).
"""

from collections.abc import Iterator, Sequence

from common.config.methods import Budget
from common.plan.graph import Average, FineTune, best_of
from common.plan.methods.method import Given, Method, of_budget, of_rounds
from common.plan.values import PlannedRow, row_of
from common.strategies import Strategy


def personal(strategy: Strategy, budget: Budget = "steps") -> Method:
    """Return the method whose rows are the target's best personal model beside the strategy's rounds."""
    key, title = of_budget(budget, f"{strategy.key}-ditto", strategy.personal_title)

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        for part in given.parts(strategy.key, budget):
            for fold, averages in given.averages(part, budget=budget) if part.ditto_lambda else ():
                models = [model for pull in part.ditto_lambda for model in _personal_models(target, averages, pull)]
                yield row_of(given.study, key, given.study.sites, target, fold, best_of(tuple(models), target))

    return of_rounds(strategy, key, title, rows)


def _personal_models(target: str, averages: Sequence[Average], pull: float) -> Iterator[FineTune]:
    """Yield a target's personal model after every round of every setting."""
    before: FineTune | None = None
    for average in averages:
        part = average.parts[0]
        if part.schedule.first == 0:
            before = None  # the first round of another setting
        before = FineTune(target, part.fold, part.parent, part.schedule, pull, "everything", before)
        yield before
