"""The models of all folds together: an ensemble of the target's own, and one of the best route's.

Each fold's model was trained without the fold's validation patients, and each validation patient is scored by that
model alone. The route is chosen by the mean of its folds' validation scores.

Source: Isensee et al., nnU-Net, Nature Methods 2021, which segments with the models of its five folds together.
"""

from collections.abc import Iterator

from common.config.study import Study
from common.plan.graph import Ensemble, Node, best_of
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import along, routes_to
from common.plan.values import PlannedRow, row_of


def together(study: Study, route: tuple[str, ...]) -> Ensemble:
    """Return the ensemble of a route's folds."""
    return Ensemble(tuple(along(study, route, fold) for fold in study.split.run))


def _row(given: Given, key: str, route: tuple[str, ...], target: str, model: Node) -> PlannedRow:
    return row_of(given.study, key, route, target, given.study.split.run[0], model)


def _of_target(given: Given, target: str) -> Iterator[PlannedRow]:
    if len(given.study.split.run) > 1:
        yield _row(given, OF_TARGET.key, (target,), target, together(given.study, (target,)))


def _of_route(given: Given, target: str) -> Iterator[PlannedRow]:
    study, grown = given.study, given.choices.get(target, ())
    routes = [grown] if grown[-1:] == (target,) else routes_to(study, target)
    if len(study.split.run) > 1 and routes:
        model = best_of(tuple(together(study, route) for route in routes), target)
        yield _row(given, OF_ROUTE.key, routes[0] if len(routes) == 1 else (target,), target, model)


OF_TARGET = Method(
    key="target-folds",
    title="Target alone, its folds together",
    name=lambda _, target: f"{target} alone, its folds together",
    section=Section.ALONE,
    rows=_of_target,
    optional=True,
    alone=True,
)

OF_ROUTE = Method(
    key="route-folds",
    title="Best route, its folds together",
    name=lambda _, target: f"best route to {target}, its folds together",
    section=Section.ENSEMBLES,
    rows=_of_route,
    optional=True,
    of_grown=True,
    absence="sequential",
)
