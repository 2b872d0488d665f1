"""Federated averaging: rounds in which every site trains from the same weights and the results are averaged.

Each strategy has two methods: the average, and the average fine-tuned at the target. Each target's validation patients
select the round and, where several settings are tried, the setting.
"""

from collections.abc import Iterator

from common.config.study import FederatedConfig
from common.plan.graph import Node, best_of
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import then_at
from common.plan.values import PlannedRow, row_of
from common.strategies import Strategy


def averaged(strategy: Strategy) -> Method:
    """Return the method whose rows are the strategy's best average at the target."""

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        for part in _parts(given, strategy):
            for fold, average in _best(given, part, target):
                yield row_of(given.study, strategy.key, given.study.sites, target, fold, average)

    return Method(
        key=strategy.key,
        title=strategy.title,
        name=lambda _, __: strategy.title,
        section=Section.AVERAGES,
        rows=rows,
        everybody=True,
        skippable=strategy.skippable,
        strategy=strategy.key,
        style=strategy.style,
    )


def then_target(strategy: Strategy) -> Method:
    """Return the method whose rows are the strategy's best average, fine-tuned at the target."""
    key = f"{strategy.key}-then-target"

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        route = (*given.study.sites, target)
        for part in _parts(given, strategy):
            for fold, average in _best(given, part, target) if part.then_target else ():
                yield row_of(given.study, key, route, target, fold, then_at(given.study, target, average))

    return Method(
        key=key,
        title=f"{strategy.title}, then the target",
        name=lambda _, target: f"{strategy.title}, then {target}",
        section=Section.AVERAGES,
        rows=rows,
        everybody=True,
        skippable=strategy.skippable,
        absence=strategy.key,
        strategy=strategy.key,
    )


def _parts(given: Given, strategy: Strategy) -> Iterator[FederatedConfig]:
    """Return the study's settings for a strategy: at most one entry."""
    return (part for part in given.study.methods.federated if part.strategy == strategy.key)


def _best(given: Given, part: FederatedConfig, target: str) -> Iterator[tuple[int, Node]]:
    """Yield, for each fold, the fold and the best average at the target."""
    for fold, averages in zip(given.study.split.run, given.averages[part.strategy], strict=True):
        yield fold, best_of(averages, target)
