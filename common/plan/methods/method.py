"""The declaration of a method: its key, its names for readers, its traits, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property, partial
from typing import Literal

from common.config.methods import Budget, FederatedConfig
from common.config.study import Study
from common.plan.graph import Average
from common.plan.rounds import averages_of
from common.plan.routes import along
from common.plan.searches import route_found
from common.plan.values import Budgets, Census, Choices, PlannedRow, row_of
from common.strategies import STRATEGIES, Strategy

Namer = Callable[[Sequence[str], str], str]
"""Returns a name for readers, from a row's route and target."""


LONGEST = "longest"
"""The key of the control for rows that end with "then the target"."""


class Section(IntEnum):
    """The kinds of method, from simple to elaborate: rows are planned and shown in this order."""

    ALONE = 0
    ROUTES = 1
    LAPS = 2
    UNADAPTED = 3
    AVERAGES = 4
    ENSEMBLES = 5
    ALL_DATA = 6
    UNSEEN = 7


@dataclass(frozen=True)
class Given:
    """The inputs of a method's rows."""

    study: Study
    census: Census
    choices: Choices
    budgets: Budgets
    """The lengths of the methods that are as long as the longest route."""
    made: dict[tuple[str, bool, Budget], tuple[tuple[int, tuple[Average, ...]], ...]] = field(default_factory=dict)
    """The results of `averages` so far: every target has the same."""

    def parts(self, strategy: str, budget: Budget | None = None) -> Iterator[FederatedConfig]:
        """Yield the study's settings for a strategy: at most one entry.

        Args:
            strategy: the strategy's key.
            budget: if given, only settings with rows of this budget are yielded.
        """
        for part in self.study.methods.federated:
            if part.strategy == strategy and (budget is None or budget in self.budgets_of(part)):
                yield part

    def budgets_of(self, part: FederatedConfig) -> tuple[Budget, ...]:
        """Return the budgets with rows of their own: of two that come to the same rounds, the first one."""
        if part.rounds or STRATEGIES[part.strategy].laps_first:
            return ("steps",)
        rounds = {budget: [self.rounds(part, epochs, budget) for epochs in part.local_epochs] for budget in part.budget}
        return tuple(
            budget
            for place, budget in enumerate(part.budget)
            if rounds[budget] not in [rounds[before] for before in part.budget[:place]]
        )

    def has_norm(self, part: FederatedConfig, word: Literal["re-estimate", "local"]) -> bool:
        """Return whether a strategy treats batch norm so; a network without batch norm has nothing to treat."""
        return word in part.batch_norm and self.study.model.has_batch_norm

    def rounds(self, part: FederatedConfig, local_epochs: int, budget: Budget) -> int:
        """Return the number of rounds of a federated method."""
        return self.budgets.rounds(self.study, part, local_epochs, budget, self.census)

    def averages(
        self, part: FederatedConfig, *, local: bool = False, budget: Budget = "steps"
    ) -> tuple[tuple[int, tuple[Average, ...]], ...]:
        """Return, for each fold, the fold and the averages of every round and setting: the candidates of every target.

        Args:
            part: the study's settings for a strategy.
            local: whether batch norm's tensors stay at the sites.
            budget: what the rounds have in common with the longest route.
        """
        if (part.strategy, local, budget) not in self.made:
            rounds = partial(self.rounds, part, budget=budget)
            self.made[part.strategy, local, budget] = tuple(
                (fold, tuple(averages_of(self.study, part, fold, rounds, local=local))) for fold in self.study.split.run
            )
        return self.made[part.strategy, local, budget]

    @property
    def leaves_out(self) -> bool:
        """Whether the study has rows of models that never saw the target; these are for test scores alone."""
        return self.study.methods.leave_out and self.study.methods.scored_on == "test"

    def elsewhere(self, target: str) -> Given:
        """Return the inputs of the same study without a target: the other sites, and folds that are never mixed."""
        return self._elsewhere[target]

    @cached_property
    def _elsewhere(self) -> Mapping[str, Given]:
        """For each target, the study of the other sites; strategies that need more sites are left out."""
        return {target: replace(self, study=_without(self.study, target), made={}) for target in self.study.sites}


def of_budget(budget: Budget, key: str, title: str) -> tuple[str, str]:
    """Return the key and the title of a federated method whose rounds are matched in a way."""
    return (f"{key}-depth", f"{title}, equal depth") if budget == "depth" else (key, title)


def _without(study: Study, target: str) -> Study:
    """Return a study of the other sites, with their routes, and with the strategies for which they are enough."""
    sites = tuple(site for site in study.sites if site != target)
    methods, routes = study.methods, study.methods.sequential.routes
    if not isinstance(routes, str):
        routes = tuple(route for route in routes if target not in route)
    federated = tuple(part for part in methods.federated if STRATEGIES[part.strategy].fewest_parts <= len(sites))
    return study.model_copy(
        update={
            "sites": sites,
            "split": study.split.model_copy(update={"source": "same-fold"}),
            "methods": methods.model_copy(
                update={
                    "sequential": methods.sequential.model_copy(update={"routes": routes}),
                    "federated": federated if methods.leave_out and methods.scored_on == "test" else (),
                }
            ),
        }
    )


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to a model for a target.

    Other code reads a method's traits from these fields, and never tests for a method's key.
    """

    key: str
    """The method's name in results, and in `methods.more` of a study."""
    title: str
    """The name of all the method's rows together: "Target alone", "FedAvg, then the target"."""
    name: Namer
    """The name of a single row: "A alone", "B → C → A", "FedAvg, then A". The route is empty where unknown."""
    line: Namer | None = None
    """The name of a table line, whatever the target: "B → C →". None: the title."""
    section: Section
    rows: Callable[[Given, str], Iterable[PlannedRow]]
    """Yields the rows of a target, for all folds; none for a study without the method. Rows are pure: the same study
    and census give the same rows, at the coordinator and at each site."""

    optional: bool = False
    """Whether the method has no settings in the study, and is requested in `methods.more`."""
    alone: bool = False
    """Whether only the target trains, which makes the model the hospital's own."""
    baseline: bool = False
    """Whether the method is the target alone for a single stage, the reference for all gains."""
    longer: bool = False
    """Whether the method is the target alone with the gradient steps of its longest route: the control for longer
    training."""
    control: str = ""
    """The key of the target alone with the method's gradient steps, where "longer" has fewer; empty: "longer"."""
    travelling: bool = False
    """Whether a model is handed from site to site, and may forget on the way."""
    routed: bool = False
    """Whether validation selects the best of the target's rows of all such methods as the target's headline."""
    grows: bool = False
    """Whether the route is found only while the study runs, and may differ between repeats; the key is then the word
    for it in the study's `methods.sequential.routes`."""
    of_selected_route: bool = False
    """Whether a row is of the route that validation selects for its target: its name is known only then. Where routes
    are found while the study runs, the row is there once the route is found."""
    of_share: bool = False
    """Whether rows are of routes with a share of the target's training patients; validation selects the best of each
    share."""
    own_line: bool = False
    """Whether each route to a target has its own line in the table."""
    adapted: bool = True
    """Whether the target took part in the training. Models without training at the target may score far lower: such
    models set no colour scale, and are no opponents of the headline."""
    everybody: bool = False
    """Whether the method needs every site of the study, not only the sites of its route."""
    deliverable: bool = True
    """Whether a hospital may be given the weights."""
    skippable: bool = False
    """Whether the method may go on without an absent site."""
    absence: str = ""
    """The table of [absence.methods] with the method's rule; empty: the table of the method's key."""
    strategy: str = ""
    """A key of `common.strategies`: rows stand in the order in which the study lists its strategies."""
    handled: tuple[str, str, str] | None = None
    """A line of the page's list of choices, for a method with choices of its own: what, which, and a remark."""
    in_paper: bool = False
    """Whether the paper's Table III has the method."""
    style: str = ""
    """The style sheet class that draws the method's line strongly in the report; empty: none."""

    def line_of(self, route: Sequence[str], target: str) -> str:
        """Return the head of the method's line in a table."""
        return self.line(route, target) if self.line else self.title


def of_rounds(
    strategy: Strategy,
    key: str,
    title: str,
    rows: Callable[[Given, str], Iterable[PlannedRow]],
    *,
    name: Namer | None = None,
    control: str = "",
    style: str = "",
) -> Method:
    """Return a method whose models come out of the rounds of a strategy, with what all such methods have in common.

    Args:
        strategy: the strategy.
        key: the method's key.
        title: the name of all rows together, and of a single row unless `name` is given.
        rows: see `Method.rows`.
        name: see `Method.name`.
        control: see `Method.control`.
        style: see `Method.style`.
    """
    return Method(
        key=key,
        title=title,
        name=name or (lambda _, __: title),
        section=Section.AVERAGES,
        rows=rows,
        everybody=True,
        skippable=strategy.skippable,
        absence=strategy.key,
        strategy=strategy.key,
        control=control,
        style=style,
    )


def rows_found(given: Given, key: str, target: str) -> Iterator[PlannedRow]:
    """Yield the rows of the route that the study's search has found for a target; none until then.

    Args:
        given: the inputs.
        key: the key of the rows' method; another search of the study has no such rows.
        target: the target.
    """
    study = given.study
    if study.methods.sequential.routes == key and (route := route_found(study, target, given.choices)):
        for fold in study.split.run:
            yield row_of(study, key, route, target, fold, along(study, route, fold))


def sources(route: Sequence[str], target: str) -> tuple[str, ...]:
    """Return the sites on a model's route before its target."""
    return tuple(route[:-1] if route and route[-1] == target else route)


def arrows(route: Sequence[str], target: str) -> str:
    """Return a route with arrows: "B → C → A"."""
    return " → ".join((*sources(route, target), target))
