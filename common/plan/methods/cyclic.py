"""Laps: the model visits all sites in turn, several times (cyclical weight transfer: Chang et al., JAMIA 25, 2018)."""

from collections.abc import Iterator

from common.config.study import Study
from common.plan.graph import FineTune, Node, Start
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import whole_cosine
from common.plan.values import PlannedRow, row_of
from common.text import count

KEY = "cyclic"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    if study.methods.cyclic.laps:
        route = laps_to(study, target)
        for fold in study.split.run:
            yield row_of(study, KEY, route, target, fold, _model(study, route, fold))


def laps_to(study: Study, target: str) -> tuple[str, ...]:
    """Return the sites of all laps, in the study's order, each lap ending with the target."""
    after = study.sites.index(target) + 1
    return (*study.sites[after:], *study.sites[:after]) * study.methods.cyclic.laps


def _model(study: Study, route: tuple[str, ...], fold: int) -> Node:
    part = study.methods.cyclic
    epochs = part.epochs or max(1, study.training.epochs // part.laps)
    node: Node = Start()
    for site in route:
        node = FineTune(site, fold, node, whole_cosine(epochs, study.training.keep))
    return node


def _laps(laps: int) -> str:
    return count(laps, "lap")


METHOD = Method(
    key=KEY,
    title="Laps",
    name=lambda route, target: f"{_laps(route.count(target))} to {target}",
    line=lambda route, target: _laps(route.count(target)),
    section=Section.LAPS,
    rows=_rows,
    travelling=True,
    skippable=True,
)
