"""The models of all folds together: an ensemble of the target's own, and one of the best route's.

Each fold's model was trained without the fold's validation patients, and each validation patient is scored by that
model alone. The route is chosen by the mean of its folds' validation scores.

Source: Isensee et al., nnU-Net, Nature Methods 2021, which segments with the models of its five folds together.
"""

from collections.abc import Iterator, Sequence

from common.config.study import Study
from common.plan.graph import Ensemble, Node, best_of
from common.plan.methods.method import Given, Method, Section, arrows
from common.plan.routes import along, routes_to
from common.plan.searches import route_found
from common.plan.values import PlannedRow, row_of


def together(study: Study, route: tuple[str, ...]) -> Ensemble:
    """Return the ensemble of a route's folds."""
    return Ensemble(tuple(along(study, route, fold) for fold in study.split.run))


def _row(given: Given, key: str, target: str, model: Node) -> PlannedRow:
    return row_of(given.study, key, (target,), target, given.study.split.run[0], model)


def _has_rows(study: Study) -> bool:
    """Return whether a study has ensembles of folds; on validation patients they would be no more than means."""
    return len(study.split.run) > 1 and study.methods.scored_on == "test"


def _of_target(given: Given, target: str) -> Iterator[PlannedRow]:
    if _has_rows(given.study):
        yield _row(given, OF_TARGET.key, target, together(given.study, (target,)))


def _of_route(given: Given, target: str) -> Iterator[PlannedRow]:
    study, found = given.study, route_found(given.study, target, given.choices)
    routes = [found] if found else routes_to(study, target)
    if _has_rows(study) and routes:
        # The route is no part of the row, since it may differ between repeats.
        yield _row(given, OF_ROUTE.key, target, best_of(tuple(together(study, route) for route in routes), target))


def _name_of_route(route: Sequence[str], target: str) -> str:
    """Return the name with the route, where it is known."""
    return f"{arrows(route, target) if len(route) > 1 else f'best route to {target}'}, all folds"


OF_TARGET = Method(
    key="target-folds",
    title="Target alone, all folds",
    name=lambda _, target: f"{target} alone, all folds",
    section=Section.ALONE,
    rows=_of_target,
    optional=True,
    alone=True,
)

OF_ROUTE = Method(
    key="route-folds",
    title="Best route, all folds",
    name=_name_of_route,
    section=Section.ENSEMBLES,
    rows=_of_route,
    optional=True,
    of_selected_route=True,
    absence="sequential",
)
