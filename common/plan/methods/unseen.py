"""Models that never saw the site where they are scored: what a hospital gets that takes no part in the training.

For each target, the methods run among the other sites as if the target were none of the study: routes, averages, the
sites' own models together, and in a simulation all data of the other sites in one place. No patient of the target
trains such a model or chooses anything for it: round, settings, route and fold are chosen by the mean validation score
over the other sites, each on its own patients of the fold. A site's validation patients must have trained none of the
models that they choose among, so routes and ensembles keep to one fold, whatever `split.source` says.

The clean-up of segmentations, which a site's validation patients decide on elsewhere, is left out. The target's own
training images give the mean and the deviation by which its slices are standardised, as for every
model that is scored there. Averages have the other sites' averaged batch-norm statistics, since estimating them again
would take a site's slices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from common.config.values import POOLED
from common.plan.graph import BestElsewhere, Ensemble, Evaluate, FineTune, Node, Start
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import along, routes_to, settings_of, whole_cosine
from common.plan.values import PlannedRow
from common.strategies import Strategy


def averaged(strategy: Strategy) -> Method:
    """Return the method whose rows are the strategy's best average among the other sites."""
    title = f"{strategy.title}, target unseen"

    def rows(given: Given, target: str) -> Iterator[PlannedRow]:
        elsewhere = given.elsewhere(target)
        for part in elsewhere.parts(strategy.key):
            for fold, averages in elsewhere.averages(part):
                yield unseen_row(method.key, elsewhere.study.sites, target, fold, averages, elsewhere.study.sites)

    method = Method(
        key=f"{strategy.key}-unseen",
        title=title,
        name=lambda _, target: f"{strategy.title}, {target} unseen",
        line=lambda _, __: title,
        section=Section.UNSEEN,
        rows=rows,
        adapted=False,
        deliverable=False,
        strategy=strategy.key,
    )
    return method


def unseen_row(
    key: str, route: tuple[str, ...], target: str, fold: int, candidates: tuple[Node, ...], sites: tuple[str, ...]
) -> PlannedRow:
    """Return the row of the best of some models of other sites than the target.

    Args:
        key: the method's key.
        route: the row's route.
        target: the target.
        fold: the fold.
        candidates: the models.
        sites: the sites whose validation patients choose.
    """
    model = BestElsewhere(candidates, "", "validation", sites)
    return PlannedRow(
        method=key,
        route=route,
        target=target,
        fold=fold,
        model=model,
        validation=model,
        test=Evaluate(target, fold, "test", model),
    )


def _of_routes(given: Given, target: str) -> Iterator[PlannedRow]:
    elsewhere = given.elsewhere(target)
    study = elsewhere.study
    routes = [route for site in study.sites for route in ((site,), *routes_to(study, site))]
    ways = list(itertools.product(routes, settings_of(study)))
    for fold in study.split.run if given.leaves_out else ():
        models = (along(study, route, fold, (setting,)) for route, setting in ways)
        # The route is no part of the row, since it may differ between folds and repeats.
        yield unseen_row(OF_ROUTES.key, (), target, fold, tuple(dict.fromkeys(models)), study.sites)


def _of_ensemble(given: Given, target: str) -> Iterator[PlannedRow]:
    elsewhere = given.elsewhere(target)
    study = elsewhere.study
    for fold in study.split.run if given.leaves_out else ():
        own = Ensemble(tuple(along(study, (site,), fold) for site in study.sites))
        yield unseen_row(OF_ENSEMBLE.key, study.sites, target, fold, (own,), study.sites)


def _of_data(given: Given, target: str) -> Iterator[PlannedRow]:
    elsewhere = given.elsewhere(target)
    study = elsewhere.study
    schedule = whole_cosine(study.training.epochs, study.training.keep)
    for fold in study.split.run if given.leaves_out and study.methods.pooled else ():
        model = FineTune(POOLED, fold, Start(), schedule, without=(target,))
        yield unseen_row(OF_DATA.key, study.sites, target, fold, (model,), study.sites)


def _name_of_route(route: Sequence[str], target: str) -> str:
    """Return the name with the route, where it is known."""
    return f"{' → '.join(route) if route else 'best route'}, {target} unseen"


OF_ROUTES = Method(
    key="route-unseen",
    title="Best route, target unseen",
    name=_name_of_route,
    line=lambda _, __: "Best route, target unseen",
    section=Section.UNSEEN,
    rows=_of_routes,
    adapted=False,
    deliverable=False,
    of_selected_route=True,
)

OF_ENSEMBLE = Method(
    key="consensus-unseen",
    title="Other sites' own models, target unseen",
    name=lambda _, target: f"other sites' own models, {target} unseen",
    line=lambda _, __: "Other sites' own models, target unseen",
    section=Section.UNSEEN,
    rows=_of_ensemble,
    adapted=False,
    deliverable=False,
)

OF_DATA = Method(
    key=f"{POOLED}-unseen",
    title="All data of the other sites, target unseen",
    name=lambda _, target: f"all data of the other sites, {target} unseen",
    line=lambda _, __: "All data of the other sites, target unseen",
    section=Section.UNSEEN,
    rows=_of_data,
    adapted=False,
    deliverable=False,
)
