"""Successive halving over routes: all begin with a short budget, and the better half goes on with twice the budget.

A rung is a number of epochs for every stage of a route. All routes to a target train for the first rung; the half with
the better validation Dice at the target goes on to the next rung, which has twice the epochs, until one route is left
or the rung has the study's epochs. The last rung always has the study's epochs, so that the route that is left is the
very chain of stages that a study of all routes has, weights included.

Every rung trains anew. A route is a chain of annealings: a short stage that has come to its final learning rate and
goes on is no longer stage, and the target's stage going on would leave the stages of all sources short. What it costs
is the rungs below the last: all routes at a fraction of the epochs.

Source: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016;
with epochs as the budget, and its first rung set from the last, as in Hyperband (Li et al., JMLR 18, 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import compress

from common.config.study import Study
from common.plan.routes import every_route, returns_to_hops
from common.plan.values import Route, Selected, Step


def epochs_of_rungs(epochs: int, routes: int) -> tuple[int, ...]:
    """Return the epochs of a stage on each rung, fewest first.

    There are as many rungs as it takes to halve the routes to one, unless the epochs cannot be halved so often: then
    the last rung has several routes.

    Args:
        epochs: the study's epochs of a stage.
        routes: the number of routes to the target.
    """
    halvings = max(routes - 1, 0).bit_length()
    return tuple(dict.fromkeys(-(-epochs // 2**left) for left in range(halvings, -1, -1)))


def steps(study: Study, target: str, selected: Selected) -> list[Step]:
    """Return the rungs decided so far, and the next unless a single route is left; see `Search.steps`.

    Args:
        study: the study.
        target: the last site of all routes.
        selected: for each decided rung, a digit for each route of the rung: 1 for a route that goes on, 0 for another.
    """
    routes = every_route(study, target)
    found = []
    for rung, epochs in enumerate(epochs_of_rungs(study.training.epochs, len(routes))):
        decided: tuple[Route, ...] | None = routes if len(routes) == 1 else None
        if rung < len(selected):
            decided = tuple(compress(routes, (digit == "1" for digit in selected[rung])))
        found.append(Step(epochs, routes, decided))
        if decided is None:
            break
        routes = decided
    return found


def after(study: Study, target: str, selected: Selected, dices: Mapping[Route, float]) -> Selected:
    """Return the selection with another rung: the better half goes on, the first in order among equals.

    After the last rung, the best route alone is left. See `Search.after`.
    """
    routes = steps(study, target, selected)[-1].routes
    best = sorted(routes, key=lambda route: -dices[route])[: _kept(study, target, len(selected), len(routes))]
    return (*selected, "".join(str(int(route in best)) for route in routes))


def ahead(study: Study, target: str, selected: Selected) -> Callable[[Route, int], bool]:
    """Return whether routes of later rungs may begin in a way; see `Search.ahead`."""
    step = steps(study, target, selected)[-1]
    rungs = epochs_of_rungs(study.training.epochs, len(every_route(study, target)))
    begun = {route[:length] for route in step.routes for length in range(1, len(route))}
    last = step.epochs == study.training.epochs
    later = {step.epochs} if last and returns_to_hops(study) else {epochs for epochs in rungs if epochs > step.epochs}
    # A route of the last rung, which is trained already for another target that goes on from it.
    ends = set() if last else set(step.routes)
    full = study.training.epochs
    return lambda way, epochs: epochs in later and (way in begun or (epochs == full and way in ends))


def fits(study: Study, target: str, selected: Selected) -> bool:
    """Return whether a selection could have come about in the study."""
    left = len(every_route(study, target))
    for rung, digits in enumerate(selected):
        kept = _kept(study, target, rung, left)
        if left < 2 or len(digits) != left or digits.count("1") != kept or digits.count("0") != left - kept:
            return False
        left = kept
    return True


def heaviest(study: Study, site: str, target: str) -> Iterator[Selected]:
    """Yield the complete selections that ask the most of a site; see `Search.heaviest`.

    These are the longest routes, and the routes on which the site trains from as many different weights as possible.
    """
    first: dict[Route, Route] = {}
    for route in sorted(every_route(study, target), key=len, reverse=True):
        if site in route:
            first.setdefault(route[: route.index(site) + 1], route)
    fresh = set(first.values())
    yield _by(study, target, len)
    yield _by(study, target, lambda route: (route in fresh, site in route, len(route)))


def _by(study: Study, target: str, rank: Callable[[Route], int | tuple[bool, bool, int]]) -> Selected:
    """Return the complete selection in which the routes of the highest rank go on."""
    selected: Selected = ()
    while (step := steps(study, target, selected)[-1]).decided is None:
        order = sorted(step.routes, key=rank)
        selected = after(study, target, selected, {route: place for place, route in enumerate(order)})
    return selected


def _kept(study: Study, target: str, rung: int, left: int) -> int:
    """Return how many of the routes left on a rung go on."""
    rungs = epochs_of_rungs(study.training.epochs, len(every_route(study, target)))
    return 1 if rung >= len(rungs) - 1 else -(-left // 2)
