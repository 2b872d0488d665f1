"""Training budgets: the rounds or epochs of a method that match the gradient steps of the longest route."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.config.study import FederatedConfig, Study
from common.plan.graph import Average, FineTune, Node, Schedule, Start
from common.plan.routes import most_hops, routes_to
from common.plan.values import Census, Rounds


def batches_per_epoch(slices: int, batch: int) -> int:
    """Return the number of batches in an epoch: full batches and a smaller last batch.

    A single leftover slice joins the batch before.
    """
    full, rest = divmod(slices, batch)
    return max(1, full + (rest > 1))


def averages_of(study: Study, part: FederatedConfig, fold: int, census: Census, rounds: Rounds) -> Iterator[Average]:
    """Yield the averages of all rounds of a federated method, for each of its settings."""
    for local_epochs, mu in part.settings:
        yield from _rounds(study, part, fold, local_epochs, mu, rounds(study, part, local_epochs, census))


def _rounds(
    study: Study, part: FederatedConfig, fold: int, local_epochs: int, mu: float, rounds: int
) -> Iterator[Average]:
    """Yield the average of each round; the rounds are consecutive parts of the same cosine annealing."""
    total = rounds * local_epochs
    parent: Node = Start()
    for number in range(rounds):
        first = number * local_epochs
        schedule = Schedule(total, first, first + local_epochs, "last")
        parts = tuple(FineTune(site, fold, parent, schedule, mu) for site in sorted(study.sites))
        parent = average = Average(parts, part.strategy)
        yield average


def rounds_of(study: Study, part: FederatedConfig, local_epochs: int, census: Census) -> int:
    """Return the study's number of rounds, or the best match for the gradient steps of the longest route."""
    if part.rounds:
        return part.rounds
    folds = study.split.run
    longest = max(sum(_longest_in_steps(study, census, target, fold) for fold in folds) for target in study.sites)
    of_a_round = sum(_steps(study, census, site, fold) * local_epochs for site in study.sites for fold in folds)
    return max(1, round(longest / of_a_round))


def most_rounds(study: Study, part: FederatedConfig, local_epochs: int, _: Census) -> int:
    """Return an upper bound of `rounds_of` for every possible census.

    A route with at most n visits to each site has at most n times the gradient steps of all sites together.
    """
    if part.rounds:
        return part.rounds
    routes = [route for target in study.sites for route in routes_to(study, target)]
    visits = max((route.count(site) for route in routes for site in route), default=1)
    return max(1, round(visits * study.training.epochs / local_epochs))


def longest_in_epochs(study: Study, census: Census, target: str, fold: int) -> int:
    """Return the number of epochs at the target with the best match for the gradient steps of its longest route."""
    steps = _longest_in_steps(study, census, target, fold)
    return max(1, round(steps / _steps(study, census, target, fold)))


def _steps(study: Study, census: Census, site: str, fold: int) -> int:
    """Return the gradient steps of an epoch at a site."""
    return batches_per_epoch(census[site][fold], study.training.batch)


def _longest_in_steps(study: Study, census: Census, target: str, fold: int) -> int:
    """Return the gradient steps of the longest route to a target; without a route, of all sites together."""
    part = study.methods.sequential

    def steps(sites: Iterable[str]) -> int:
        return sum(_steps(study, census, site, fold) for site in sites) * study.training.epochs

    if part.routes == "all" or part.grows:
        others = sorted((site for site in study.sites if site != target), key=lambda site: -steps((site,)))
        return steps((target, *others[: most_hops(study)]))
    return max((steps(route) for route in routes_to(study, target)), default=steps(study.sites))
