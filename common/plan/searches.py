"""Searches: the routes of a target that are found while the study runs, step by step, by validation Dice.

Of all routes, a search trains some. What it has decided so far goes with every order as `Choices`, so that a site can
make the same plan; no decision is ever taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from common.config.study import Study
from common.errors import RelayError
from common.plan import greedy, halving
from common.plan.graph import Node
from common.plan.values import Candidate, Choices, Route, Selected, Step


@dataclass(frozen=True)
class Search:
    """A way to find a target's route while the study runs."""

    steps: Callable[[Study, str, Selected], list[Step]]
    """Returns, for a target and what is selected so far, the steps decided so far, and the next unless the route is
    found: then the last step is decided too, and has kept this route alone."""
    after: Callable[[Study, str, Selected, Mapping[Route, float]], Selected]
    """Returns the selection with the next step decided, from the validation Dice of each of its routes."""
    fits: Callable[[Study, str, Selected], bool]
    """Returns whether a study could come to a selection for a target."""
    heaviest: Callable[[Study, str, str], Iterator[Selected]]
    """Yields, for a site and a target, complete selections of which one asks the most of the site, whatever is counted
    of the site's work."""
    ahead: Callable[[Study, str, Selected], Callable[[Route, int], bool]]
    """Returns, for a target whose route is not found yet, a function of some sites and a number of epochs: whether a
    step to come, or what is done along the route that is found, may need weights trained at these sites in this order,
    with these epochs a stage."""
    hop_by_hop: bool
    """Whether a route grows by a hop each step: then only the first hops are known before the study runs, and each
    earlier stage of a tried route is also the end of a shorter route that was tried."""


SEARCHES = {
    "greedy": Search(greedy.steps, greedy.after, greedy.fits, greedy.heaviest, greedy.ahead, hop_by_hop=True),
    "halving": Search(halving.steps, halving.after, halving.fits, halving.heaviest, halving.ahead, hop_by_hop=False),
}
"""The searches by the word for them in a study's `methods.sequential.routes`."""


def search_of(study: Study) -> Search | None:
    """Return the study's search; None for a study whose routes are known beforehand."""
    routes = study.methods.sequential.routes
    return SEARCHES.get(routes) if isinstance(routes, str) and len(study.sites) > 1 else None


def steps_to(study: Study, target: str, choices: Choices) -> list[Step]:
    """Return the steps of a target's search, decided and next; none for a study whose routes are known beforehand."""
    search = search_of(study)
    return search.steps(study, target, choices.get(target, ())) if search else []


def route_found(study: Study, target: str, choices: Choices) -> Route:
    """Return the route that a search has found for a target; empty until then."""
    steps = steps_to(study, target, choices)
    return steps[-1].decided[0] if steps and steps[-1].decided is not None else ()


def check_choices(study: Study, choices: Choices) -> None:
    """Check that the study's search could have come to its choices.

    Raises:
        RelayError: the study could not.
    """
    search = search_of(study)
    for target, selected in choices.items():
        if search is None or target not in study.sites or not search.fits(study, target, selected):
            shown = ", ".join(selected) or "nothing"
            raise RelayError(f'"{shown}" is no choice of routes to {target} that this study could make.')


def grown(
    study: Study, growing: Mapping[str, tuple[Candidate, ...]], choices: Choices, dice: Callable[[Node], float | None]
) -> dict[str, tuple[str, ...]]:
    """Return the choices, extended by a step for each target with scores for all candidates of the step.

    What counts is a route's validation Dice at the target, in the mean over the folds run; among equals, the first
    route in order.

    Args:
        study: the study.
        growing: for each target the candidates of its next step; see `Plan.growing`.
        choices: what is selected so far, by target.
        dice: returns the validation Dice (0 to 1) of a node; None for a node not scored yet.
    """
    result = {target: tuple(selected) for target, selected in choices.items()}
    search = search_of(study)
    for target, candidates in growing.items() if search else ():
        means: dict[Route, float] = {}
        for candidate in candidates:
            scores = [dice(model) for model in candidate.models]
            known = [score for score in scores if score is not None]
            if len(known) == len(scores):
                means[candidate.route] = sum(known) / len(known)
        if len(means) == len(candidates):
            assert search is not None
            result[target] = search.after(study, target, result.get(target, ()), means)
    return result
