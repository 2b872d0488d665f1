"""A share of the target's own patients, alone and after a route: how many own patients a hop is worth.

The last training of a route has a share of the target's training patients; all sources have theirs. Validation and test
patients are those of every other row. A larger share holds the patients of a smaller one.
"""

from collections.abc import Iterator

from common.plan.graph import with_share
from common.plan.methods.method import Given, Method, Section, arrows
from common.plan.routes import along, routes_to
from common.plan.searches import route_found
from common.plan.values import PlannedRow, row_of


def _rows(given: Given, key: str, target: str, routes: list[tuple[str, ...]]) -> Iterator[PlannedRow]:
    study = given.study
    for route in routes:
        for share in study.methods.parts:
            for fold in study.split.run:
                model = with_share(along(study, route, fold), share)
                yield row_of(study, key, route, target, fold, model, share=share)


def _alone(given: Given, target: str) -> Iterator[PlannedRow]:
    if given.study.methods.baseline:
        yield from _rows(given, ALONE.key, target, [(target,)])


def _handed_on(given: Given, target: str) -> Iterator[PlannedRow]:
    found = route_found(given.study, target, given.choices)
    routes = [found] if found else routes_to(given.study, target)
    yield from _rows(given, HANDED_ON.key, target, routes)


ALONE = Method(
    key="baseline-share",
    title="Target alone, a share of its patients",
    name=lambda _, target: f"{target} alone, a share of its patients",
    section=Section.ALONE,
    rows=_alone,
    deliverable=False,
)

HANDED_ON = Method(
    key="sequential-share",
    title="Routes, a share of the target's patients",
    name=lambda route, target: f"{arrows(route, target)}, a share of {target}'s patients",
    section=Section.ROUTES,
    rows=_handed_on,
    of_share=True,
    own_line=True,
    deliverable=False,
    absence="sequential",
)
