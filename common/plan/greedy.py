"""Greedy routes: a target's route grows hop by hop, by the source with the best validation Dice at the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from common.config.study import Study
from common.plan.routes import most_hops, returns_to_hops
from common.plan.values import Route, Selected, Step


def steps(study: Study, target: str, selected: Selected) -> list[Step]:
    """Return the hops decided so far, and the next unless the route is complete; see `Search.steps`.

    From the second hop on, the route so far is compared too: the route is complete when no further hop is better, or
    no further hop is allowed. A complete route shorter than the limit was compared with all routes one hop longer.

    Args:
        study: the study.
        target: the last site of the route.
        selected: the sources selected so far, in the order of travel, and the target itself once the route is complete.
    """
    sources = tuple(site for site in selected if site != target)
    complete = selected[-1:] == (target,)
    found = []
    for hop in range(min(len(sources) + 1, most_hops(study))):
        before = sources[:hop]
        so_far: tuple[Route, ...] = ((*before, target),) if before else ()
        further = ((*before, site, target) for site in study.sites if site not in (*before, target))
        decided = ((*sources[: hop + 1], target),) if hop < len(sources) else so_far if complete else None
        found.append(Step(study.training.epochs, (*so_far, *further), decided))
    return found


def after(study: Study, target: str, selected: Selected, dices: Mapping[Route, float]) -> Selected:
    """Return the selection extended by the hop with the best validation Dice; see `Search.after`."""
    best = max(dices, key=dices.__getitem__)
    complete = best == (*selected, target) or len(best) - 1 == most_hops(study)
    return best if complete else best[:-1]


def ahead(study: Study, target: str, selected: Selected) -> Callable[[Route, int], bool]:
    """Return whether routes of later hops may begin in a way; see `Search.ahead`."""
    most = most_hops(study) if returns_to_hops(study) else most_hops(study) * (len(selected) + 1 < most_hops(study))

    def may_begin(way: Route, epochs: int) -> bool:
        sources = way[:-1] if way[-1] == target else way
        known = sources[: len(selected)] == selected[: len(sources)] and epochs == study.training.epochs
        if way[-1] == target:  # a route of a hop to come, trained already for another target
            return known and len(selected) + 2 <= len(sources) <= most_hops(study)
        return known and target not in way and len(way) <= most

    return may_begin


def fits(study: Study, target: str, selected: Selected) -> bool:
    """Return whether a selection is a route of the study without repetition, or the beginning of such a route."""
    sources = [site for site in selected if site != target]
    complete = selected[-1:] == (target,)
    return (
        set(selected) <= set(study.sites)
        and len(selected) == len(sources) + complete
        and len(set(sources)) == len(sources)
        and complete <= len(sources) < most_hops(study) + complete
    )


def heaviest(study: Study, site: str, target: str) -> Iterator[Selected]:
    """Yield one complete route for each place of a site on the route; see `Search.heaviest`.

    For the site's own work the other sites are interchangeable. The longest routes ask the most, since all shorter
    routes were tried before them.
    """
    hops = most_hops(study)
    others = tuple(name for name in study.sites if name not in (site, target))
    if len(others) >= hops:
        yield (*others[:hops], target)
    if target != site:
        for place in range(hops):
            yield (*others[:place], site, *others[place : hops - 1], target)
