"""Greedy routes, which grow hop by hop, always by the source with the best validation Dice at the target."""

from collections.abc import Iterator

from common.plan.methods.method import Given, Method, Section, arrows
from common.plan.routes import along
from common.plan.values import PlannedRow, row_of

KEY = "greedy"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    route = tuple(given.choices.get(target, ()))
    if route[-1:] == (target,):
        for fold in given.study.split.run:
            yield row_of(given.study, KEY, route, target, fold, along(given.study, route, fold))


METHOD = Method(
    key=KEY,
    title="Growing routes",
    name=lambda route, target: arrows(route, target) if route else f"growing route to {target}",
    line=lambda _, __: "Growing route",
    section=Section.ROUTES,
    rows=_rows,
    travelling=True,
    routed=True,
    grows=True,
    # With an absent source, the candidates of the next hop would be incomplete.
    skippable=False,
    absence="sequential",
)
