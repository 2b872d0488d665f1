"""The own models of all sites together, as an ensemble: nothing is trained together.

The target's own model is of the row's fold; of every other site comes the fold that the site's validation chose, or the
same fold, as the study's `split.source` says for the source of a route.
"""

from collections.abc import Iterator

from common.plan.graph import Ensemble, best_of
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import along
from common.plan.values import PlannedRow, row_of

KEY = "consensus"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    others = [site for site in study.sites if site != target]
    for fold in study.split.run if others else ():
        folds = study.split.run if study.split.source == "best-fold" else (fold,)
        models = [best_of(tuple(along(study, (site,), one) for one in folds), site) for site in others]
        model = Ensemble((along(study, (target,), fold), *models))
        yield row_of(study, KEY, (*others, target), target, fold, model)


METHOD = Method(
    key=KEY,
    title="All sites' own models",
    name=lambda _, __: "All sites' own models",
    section=Section.ENSEMBLES,
    rows=_rows,
    optional=True,
    everybody=True,
)
