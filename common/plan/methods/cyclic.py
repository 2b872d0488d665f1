"""Laps: the model visits all sites in turn, several times (cyclical weight transfer: Chang et al., JAMIA 25, 2018)."""

from collections.abc import Iterator, Sequence

from common.config.study import Study
from common.plan.graph import Node, best_of
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import Setting, schedules, settings_of
from common.plan.values import PlannedRow, row_of
from common.text import count

KEY = "cyclic"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    if "travel" in given.study.methods.sequential.batch_norm:
        yield from rows_of_laps(given, KEY, target, settings_of(given.study))


def rows_of_laps(given: Given, key: str, target: str, settings: Sequence[Setting]) -> Iterator[PlannedRow]:
    """Yield the rows of a target's laps, a row for each fold.

    Args:
        given: the inputs.
        key: the key of the rows' method.
        target: the target.
        settings: the settings to try; none: no rows.
    """
    study = given.study
    if study.methods.cyclic.laps and settings:
        route = laps_to(study, target)
        for fold in study.split.run:
            made = (_laps_with(study, route, fold, epochs_of_laps(given, target, fold), one) for one in settings)
            yield row_of(study, key, route, target, fold, best_of(tuple(dict.fromkeys(made)), route[-1]))


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


def _laps_with(study: Study, route: tuple[str, ...], fold: int, epochs: Sequence[int], setting: Setting) -> Node:
    visits = [of_lap for of_lap in epochs for _ in study.sites]
    first, *later = zip(route, schedules(study, visits), strict=True)
    node = setting.begin(first[0], fold, first[1])
    for site, schedule in later:
        node = setting.train(site, fold, node, schedule)
    return node


def line_of_laps(route: Sequence[str], target: str) -> str:
    """Return the number of laps of a route to a target in words."""
    return count(route.count(target), "lap")


METHOD = Method(
    key=KEY,
    title="Laps",
    name=lambda route, target: f"{line_of_laps(route, target)} to {target}",
    line=line_of_laps,
    section=Section.LAPS,
    rows=_rows,
    travelling=True,
    skippable=True,
)
