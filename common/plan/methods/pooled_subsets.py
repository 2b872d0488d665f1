"""Models of every union of sites in one place, tested at all sites (Rundo et al., Neurocomputing 365, 2019: USE-Net).

The unions are those of two sites or more, but not all: a single site's model stands in the rows of the target alone and
of "unadapted", and that of all sites in "All data". A target within the union is treated as in "All data": its own
validation patients select the fold. A target outside is a site that the model never saw, as in "All data of the other
sites, target unseen": the union's validation patients select the fold, and nothing is cleaned up. The union of all
other sites is that very row, so where the study has it (`leave_out`) it stands there alone. As "All data" is, these
models are possible in simulation alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from common.config.study import Study
from common.config.values import POOLED
from common.plan.graph import FineTune, Start
from common.plan.methods.method import Given, Method, Section
from common.plan.methods.unseen import unseen_row
from common.plan.routes import whole_cosine
from common.plan.values import PlannedRow, Route, row_of
from common.text import listed

KEY = f"{POOLED}-subset"


def unions_of(study: Study) -> Iterator[Route]:
    """Yield the unions of at least two sites, but not of all, the smaller ones first; none unless the study asks."""
    for size in range(2, len(study.sites)) if study.methods.pooled_subsets else ():
        yield from itertools.combinations(study.sites, size)


def _model(study: Study, union: Route, fold: int) -> FineTune:
    """Return the training on the data of a union."""
    without = tuple(site for site in study.sites if site not in union)
    schedule = whole_cosine(study.training.epochs, study.training.keep)
    return FineTune(POOLED, fold, Start(), schedule, without=without)


def _within(given: Given, target: str) -> Iterator[PlannedRow]:
    for union in unions_of(given.study):
        for fold in given.study.split.run if target in union else ():
            yield row_of(given.study, KEY, union, target, fold, _model(given.study, union, fold))


def _outside(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    largest = len(study.sites) - 1
    for union in unions_of(study) if study.methods.scored_on == "test" else ():
        if target in union or (given.leaves_out and len(union) == largest):
            continue
        for fold in study.split.run:
            yield unseen_row(UNSEEN.key, union, target, fold, (_model(study, union, fold),), union)


def _data_of(route: Route) -> str:
    return f"data of {listed(route)}" if route else "data of some sites"


SEEN = Method(
    key=KEY,
    title="Data of some sites",
    name=lambda route, _: f"All {_data_of(tuple(route))}",
    line=lambda route, _: f"All {_data_of(tuple(route))}",
    section=Section.ALL_DATA,
    rows=_within,
    deliverable=False,
)

UNSEEN = Method(
    key=f"{KEY}-unseen",
    title="Data of some sites, target unseen",
    name=lambda route, target: f"all {_data_of(tuple(route))}, {target} unseen",
    line=lambda route, _: f"All {_data_of(tuple(route))}, target unseen",
    section=Section.UNSEEN,
    rows=_outside,
    adapted=False,
    deliverable=False,
)
