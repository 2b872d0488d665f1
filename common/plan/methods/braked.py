"""Routes with a brake on forgetting: every hop is held near the received model, by its answers or by its weights.

A row stands for each route and fold. Where several weights of the brake are tried, the target's validation patients
select the best, for every route by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from common.config.study import Study
from common.plan.methods.method import Given, Method, Section, arrows, sources
from common.plan.routes import Setting, along, routes_to
from common.plan.searches import route_found
from common.plan.values import PlannedRow, row_of


def braked(*, key: str, title: str, short: str, settings: Callable[[Study], Sequence[Setting]]) -> Method:
    """Return the method of a brake.

    Args:
        key: the method's key.
        title: the brake's name.
        short: the brake's name in a row.
        settings: returns the settings to try for every hop; none for a study without the brake.
    """

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        study = given.study
        if tried := settings(study):
            for route in _routes(given, target):
                for fold in study.split.run:
                    yield row_of(study, key, route, target, fold, along(study, route, fold, tried))

    return Method(
        key=key,
        title=f"Routes, {title}",
        name=lambda route, target: f"{arrows(route, target)}, {short}",
        line=lambda route, target: f"{' → '.join(sources(route, target))} →, {short}",
        section=Section.ROUTES,
        rows=rows,
        travelling=True,
        routed=True,
        own_line=True,
        skippable=True,
        absence="sequential",
    )


def _routes(given: Given, target: str) -> Iterable[tuple[str, ...]]:
    """Return the routes to a target; where a search finds them, the route that is found."""
    found = route_found(given.study, target, given.choices)
    return (found,) if found else routes_to(given.study, target)
