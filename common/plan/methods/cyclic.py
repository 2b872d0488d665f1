"""Laps: the model visits all sites in turn, several times (cyclical weight transfer: Chang et al., JAMIA 25, 2018)."""

from collections.abc import Iterator

from common.config.study import Study
from common.plan.graph import FineTune, Node, Start, best_of
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import Setting, schedules, settings_of
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
    """Return the model of all laps; of several settings for second and later visits, the best at the target."""
    made = (_laps_with(study, route, fold, setting) for setting in settings_of(study))
    return best_of(tuple(dict.fromkeys(made)), route[-1])


def _laps_with(study: Study, route: tuple[str, ...], fold: int, setting: Setting) -> Node:
    part = study.methods.cyclic
    epochs = part.epochs or max(1, study.training.epochs // part.laps)
    first, *later = zip(route, schedules(study, len(route), epochs), strict=True)
    node = FineTune(first[0], fold, Start(), first[1])
    for site, schedule in later:
        node = setting.train(site, fold, node, schedule)
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
