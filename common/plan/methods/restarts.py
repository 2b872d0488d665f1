"""The target alone, as many stages in a row as its longest route has: the control for a hand-off without other data.

Every hand-off starts another cosine annealing, with fresh moments of Adam, and selects an epoch once more; "longer"
has the gradient steps of the longest route, but one annealing and one selection.
"""

from collections.abc import Iterator

from common.config.study import Study
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import along, most_hops, routes_to
from common.plan.values import PlannedRow, row_of

KEY = "restarts"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    route = (target,) * _stages(study, target)
    for fold in study.split.run if len(route) > 1 else ():
        yield row_of(study, KEY, route, target, fold, along(study, route, fold))


def _stages(study: Study, target: str) -> int:
    """Return the number of stages of the longest route to a target; 0 without a route."""
    if study.methods.sequential.grows:
        return most_hops(study) + 1
    return max(map(len, routes_to(study, target)), default=0)


METHOD = Method(
    key=KEY,
    title="Target alone, restarted",
    name=lambda _, target: f"{target} alone, restarted",
    section=Section.ALONE,
    rows=_rows,
    optional=True,
    alone=True,
)
