"""Routes whose trainings differ from the plain ones: by a brake on forgetting, or by batch norm that stays behind.

A row stands for each route and fold. Where several settings are tried, the target's validation patients select the
best, for every route by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from common.config.study import Study
from common.plan.methods.method import Given, Method, Section, arrows, sources
from common.plan.routes import Setting, along, routes_to
from common.plan.searches import route_found
from common.plan.values import PlannedRow, row_of


def route_variant(*, key: str, title: str, short: str, settings: Callable[[Study], Sequence[Setting]]) -> Method:
    """Return the method of routes with settings of their own.

    Args:
        key: the method's key.
        title: the name of what differs.
        short: this name in a row.
        settings: returns the settings to try for every hop; none for a study without such rows.
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
