"""Laps: the model visits all sites in turn, several times (cyclical weight transfer: Chang et al., JAMIA 25, 2018)."""

from collections.abc import Iterator, Sequence

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
            yield row_of(
                study, KEY, route, target, fold, _model(study, route, fold, epochs_of_laps(given, target, fold))
            )


def laps_to(study: Study, target: str) -> tuple[str, ...]:
    """Return the sites of all laps, in the study's order, each lap ending with the target."""
    after = study.sites.index(target) + 1
    return (*study.sites[after:], *study.sites[:after]) * study.methods.cyclic.laps


def epochs_of_laps(given: Given, target: str, fold: int) -> list[int]:
    """Return the epochs of every visit of each lap; where they cannot be divided, the first laps have one more."""
    part = given.study.methods.cyclic
    if part.epochs:
        return [part.epochs] * part.laps
    epochs, more = divmod(given.budgets.lap_epochs(given.study, target, fold, given.census), part.laps)
    return [epochs + (lap < more) for lap in range(part.laps)] if epochs else [1] * part.laps


def _model(study: Study, route: tuple[str, ...], fold: int, epochs: Sequence[int]) -> Node:
    """Return the model of all laps; of several settings for second and later visits, the best at the target."""
    made = (_laps_with(study, route, fold, epochs, setting) for setting in settings_of(study))
    return best_of(tuple(dict.fromkeys(made)), route[-1])


def _laps_with(study: Study, route: tuple[str, ...], fold: int, epochs: Sequence[int], setting: Setting) -> Node:
    visits = [of_lap for of_lap in epochs for _ in study.sites]
    first, *later = zip(route, schedules(study, visits), strict=True)
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
