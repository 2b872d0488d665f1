"""Federated averaging: rounds in which every site trains from the same weights and the results are averaged.

Each strategy has three methods: the average, the average with batch norm's statistics estimated at the target, and the
average fine-tuned at the target. Each target's validation patients select the round and, where several settings are
tried, the setting.
"""

from collections.abc import Iterator, Sequence

from common.config.methods import Budget
from common.plan.graph import RE_ESTIMATED, best_of
from common.plan.methods.method import LONGEST, Given, Method, of_budget, of_rounds
from common.plan.routes import re_estimated_at, then_at
from common.plan.values import PlannedRow, row_of
from common.strategies import Strategy


def averaged(strategy: Strategy, budget: Budget = "steps") -> Method:
    """Return the method whose rows are the strategy's best average at the target."""
    key, title = of_budget(budget, strategy.key, strategy.title)

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        for part in given.parts(strategy.key, budget):
            for fold, averages in given.averages(part, budget=budget) if "average" in part.batch_norm else ():
                yield row_of(given.study, key, given.study.sites, target, fold, best_of(averages, target))

    return of_rounds(strategy, key, title, rows, style=strategy.style if budget == "steps" else "")


def re_estimated(strategy: Strategy, budget: Budget = "steps") -> Method:
    """Return the method whose rows are the strategy's best average with the target's batch-norm statistics.

    The round is selected among the averages with these statistics, by their own scores: it may be another round than
    that of the plain average.
    """
    key, title = of_budget(budget, f"{strategy.key}-re-estimated", f"{strategy.title}, {RE_ESTIMATED}")

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        for part in given.parts(strategy.key, budget):
            for fold, averages in given.averages(part, budget=budget) if given.has_norm(part, "re-estimate") else ():
                model = best_of(tuple(re_estimated_at(target, average) for average in averages), target)
                yield row_of(given.study, key, given.study.sites, target, fold, model)

    return of_rounds(strategy, key, title, rows)


def then_target(strategy: Strategy) -> Method:
    """Return the method whose rows are the strategy's best average, fine-tuned at the target."""
    key = f"{strategy.key}-then-target"

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        route = (*given.study.sites, target)
        for part in given.parts(strategy.key):
            for fold, averages in (
                given.averages(part, budget=given.budgets_of(part)[0])
                if part.then_target and part.averages_statistics
                else ()
            ):
                model = then_at(given.study, target, best_of(averages, target))
                yield row_of(given.study, key, route, target, fold, model)

    def name(_: Sequence[str], target: str) -> str:
        return f"{strategy.title}, then {target}"

    return of_rounds(strategy, key, f"{strategy.title}, then the target", rows, name=name, control=LONGEST)
