"""Training budgets: the rounds or epochs of a method that match the gradient steps of the longest route."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from common.config.methods import Budget, FederatedConfig
from common.config.study import Study
from common.plan.graph import Average, FineTune, Node, Schedule, ServerStep, Start, Stays, parents_first
from common.plan.routes import most_hops, routes_to
from common.plan.values import Budgets, Census
from common.seeds import seed_of

Settings = tuple[tuple[str, float], ...]
"""The settings of a server's optimizer; see `ServerStep.settings`."""


def batches_per_epoch(slices: int, batch: int) -> int:
    """Return the number of batches in an epoch: full batches and a smaller last batch.

    A single leftover slice joins the batch before.
    """
    full, rest = divmod(slices, batch)
    return max(1, full + (rest > 1))


def averages_of(
    study: Study, part: FederatedConfig, fold: int, rounds: Callable[[int], int], *, local: bool = False
) -> Iterator[Average]:
    """Yield the averages of all rounds of a federated method, for each of its settings.

    Args:
        study: the study.
        part: the method's settings.
        fold: the fold on which every site trains.
        rounds: returns the number of rounds, from the epochs of a site's training in a round.
        local: whether batch norm's tensors stay at the sites.
    """
    stays: Stays = "batch-norm" if local else ""
    for local_epochs, mu in part.settings:
        number = rounds(local_epochs)
        for server, (every, laps) in itertools.product(part.server_settings, part.chains):

            def average(parts: Iterable[FineTune], server: Settings = server) -> Average:
                parts = tuple(sorted(parts, key=lambda part: part.site))
                return ServerStep(parts, part.strategy, server) if server else Average(parts, part.strategy)

            own: dict[str, FineTune] = {}

            def train(
                site: str, parent: Node, schedule: Schedule, mu: float = mu, own: dict[str, FineTune] = own
            ) -> FineTune:
                node = FineTune(site, fold, parent, schedule, mu, stays, own.get(site))
                if stays:
                    own[site] = node
                return node

            yield from _rounds(study, train, average, local_epochs, number, every=every, laps=min(laps, number - 1))


def _rounds(
    study: Study,
    train: Callable[[str, Node, Schedule], FineTune],
    average: Callable[[Iterable[FineTune]], Average],
    local_epochs: int,
    rounds: int,
    *,
    every: int,
    laps: int,
) -> Iterator[Average]:
    """Yield the average of each round; laps and rounds are consecutive parts of the same cosine annealing.

    Args:
        study: the study.
        train: returns the training at a site from some weights.
        average: returns the average of a round's trainings.
        local_epochs: epochs of each training.
        rounds: the number of laps and rounds together.
        every: the rounds from average to average; after the others, the models change places.
        laps: the number of laps at the beginning, in which one model goes from site to site.
    """
    parent: Node = Start()
    chained: list[FineTune] = []
    for number in range(rounds):
        first = number * local_epochs
        schedule = Schedule(rounds * local_epochs, first, first + local_epochs, "last")
        if number < laps:
            for site in study.sites:
                parent = train(site, parent, schedule)
            continue
        starts: Sequence[Node] = chained or [parent] * len(study.sites)
        order = _places(study, number) if chained else study.sites
        parts = [train(site, start, schedule) for site, start in zip(order, starts, strict=True)]
        last_of_chain = (number + 1) % every == 0 or number + 1 == rounds
        chained = [] if last_of_chain else parts
        if last_of_chain:
            parent = made = average(parts)
            yield made


def _places(study: Study, number: int) -> list[str]:
    """Return the sites in the order of a round's models, drawn from the study's seed; every order is as likely."""
    return sorted(study.sites, key=lambda site: seed_of(study.seed, "daisy chain", number, site))


def rounds_of(study: Study, part: FederatedConfig, local_epochs: int, census: Census, budget: Budget = "steps") -> int:
    """Return the study's number of rounds, or the best match for the longest route.

    Args:
        study: the study.
        part: the method's settings.
        local_epochs: epochs of each site's training in a round.
        census: the number of training slices at each site, by fold.
        budget: "steps": match the gradient steps of all sites together; "depth": match the gradient steps one after
            another, of the site with the most steps in a round.
    """
    if part.rounds:
        return part.rounds
    folds = study.split.run
    together = max if budget == "depth" else sum
    of_folds = [_longest_routes(study, census, fold) for fold in folds]
    longest = max(sum(of_fold[target] for of_fold in of_folds) for target in study.sites)
    of_a_round = sum(together(_steps(study, census, site, fold) for site in study.sites) for fold in folds)
    return max(1, round(longest / (of_a_round * local_epochs)))


def _most_rounds(study: Study, part: FederatedConfig, local_epochs: int, budget: Budget) -> int:
    """Return an upper bound of `rounds_of` for every possible census.

    A route with at most n visits to each site has at most n times the gradient steps of all sites together, and a route
    of n stages at most n times those of the largest site.
    """
    if part.rounds:
        return part.rounds
    longest = _most_stages(study) if budget == "depth" else _most_visits(study)
    return max(1, round(longest * study.training.epochs / local_epochs))


def _most_visits(study: Study) -> int:
    """Return how often a route visits a site at most."""
    routes = [route for target in study.sites for route in routes_to(study, target)]
    return max((route.count(site) for route in routes for site in route), default=1)


def _most_stages(study: Study) -> int:
    """Return the number of stages of the longest route; without a route, of one visit to every site."""
    if study.methods.sequential.grows:
        return most_hops(study) + 1
    return max((len(route) for target in study.sites for route in routes_to(study, target)), default=len(study.sites))


def lap_epochs_of(study: Study, target: str, fold: int, census: Census) -> int:
    """Return the epochs at each site, over all laps, with the best match for the steps of the target's longest route.

    Every site has the same number of epochs, so that the match is to half an epoch of all sites.
    """
    of_an_epoch = sum(_steps(study, census, site, fold) for site in study.sites)
    return max(1, round(longest_in_steps(study, census, target, fold) / of_an_epoch))


def _most_lap_epochs(study: Study) -> int:
    """Return an upper bound of `lap_epochs_of` for every possible census.

    One epoch is added where the census decides: a stage that the bound shares with a route may be none of the route's.
    """
    epochs = _most_visits(study) * study.training.epochs
    return epochs if longest_has_all(study) else epochs + 1


def longest_has_all(study: Study) -> bool:
    """Return whether every target's longest route visits all sites once, whatever the census, or there is no route."""
    part = study.methods.sequential
    return part.routes == "none" or (part.routes == "all" and part.max_hops >= len(study.sites) - 1)


COUNTED = Budgets(
    lambda study, part, local_epochs, budget, census: rounds_of(study, part, local_epochs, census, budget),
    lap_epochs_of,
)
"""The lengths for a census."""
MOST = Budgets(
    lambda study, part, local_epochs, budget, _: _most_rounds(study, part, local_epochs, budget),
    lambda study, *_: _most_lap_epochs(study),
)
"""The largest lengths for any census."""


def longest_in_epochs(study: Study, census: Census, target: str, fold: int) -> int:
    """Return the number of epochs at the target with the best match for the gradient steps of its longest route."""
    return epochs_for(study, census, target, fold, longest_in_steps(study, census, target, fold))


def epochs_for(study: Study, census: Census, site: str, fold: int, steps: int) -> int:
    """Return the number of epochs at a site with the best match for a number of gradient steps."""
    return max(1, round(steps / _steps(study, census, site, fold)))


def most_steps(study: Study, census: Census, model: Node) -> int:
    """Return the gradient steps behind a model, whichever candidates its choices select: the most of them."""
    steps: dict[Node, int] = {}

    def own(node: FineTune) -> int:
        return node.schedule.epochs * _steps(study, census, node.site, node.fold)

    for node in parents_first([model]):
        if isinstance(node, Average):
            trainings: dict[FineTune, None] = {}
            starts: dict[Node, None] = {}
            for part in node.parts:  # models that change places have several trainings since the last average
                before: Node = part
                while isinstance(before, FineTune):
                    trainings[before] = None
                    before = before.parent
                starts[before] = None
            steps[node] = sum(map(own, trainings)) + max(steps[start] for start in starts)
        else:
            most = max((steps[parent] for parent in node.parents), default=0)
            steps[node] = most + (own(node) if isinstance(node, FineTune) else 0)
    return steps[model]


def _steps(study: Study, census: Census, site: str, fold: int) -> int:
    """Return the gradient steps of an epoch at a site."""
    return batches_per_epoch(census[site][fold], study.training.batch)


def longest_in_steps(study: Study, census: Census, target: str, fold: int) -> int:
    """Return the gradient steps of the longest route to a target; without a route, of all sites together."""
    return _longest_routes(study, census, fold)[target]


def _longest_routes(study: Study, census: Census, fold: int) -> dict[str, int]:
    """Return `longest_in_steps` of every target."""
    part = study.methods.sequential
    steps = {site: _steps(study, census, site, fold) * study.training.epochs for site in study.sites}
    if part.routes == "all" or part.grows:
        hops = most_hops(study)
        largest = sorted(study.sites, key=lambda site: -steps[site])[: hops + 1]
        together = sum(steps[site] for site in largest)
        # A target that is not one of the largest takes the place of the last of them.
        return {site: together + (0 if site in largest else steps[site] - steps[largest[-1]]) for site in study.sites}
    everyone = sum(steps.values())
    return {
        target: max((sum(steps[site] for site in route) for route in routes_to(study, target)), default=everyone)
        for target in study.sites
    }
