"""The mean of the weights of all routes to a target: a uniform soup, which costs no training.

Where a study tries several settings for later trainings, a route has a model for each, and all of them count alike. The
routes begin from the same first weights and end at the same patients. Their mean has the batch-norm statistics of
none of them, so these are estimated again from the target's training slices.

Source: Wortsman et al., Model soups, ICML 2022, who average models fine-tuned from one start.
"""

import itertools
from collections.abc import Iterator

from common.plan.graph import FineTune, Soup
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import along, re_estimated_at, routes_to, settings_of
from common.plan.values import PlannedRow, row_of

KEY = "soup"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    routes = routes_to(study, target)
    visited = {site for route in routes for site in route}
    way = (*(site for site in study.sites if site in visited and site != target), target)
    for fold in study.split.run if len(routes) > 1 else ():
        ways = itertools.product(routes, settings_of(study))
        models = tuple(along(study, route, fold, (setting,)) for route, setting in ways)
        soup = Soup(tuple(model for model in models if isinstance(model, FineTune)), "fedavg")
        yield row_of(study, KEY, way, target, fold, re_estimated_at(target, soup))


METHOD = Method(
    key=KEY,
    title="Mean of all routes",
    name=lambda _, target: f"mean of all routes to {target}",
    section=Section.ROUTES,
    rows=_rows,
    optional=True,
    absence="sequential",
    handled=(
        "mean of all routes",
        "uniform",
        "every route counts alike, whatever its score; batch norm is estimated anew at the target, without a step",
    ),
)
