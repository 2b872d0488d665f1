"""All data pooled at a single place: possible in simulation, never in a federation."""

from collections.abc import Iterator

from common.config.values import POOLED
from common.plan.methods.method import Given, Method, Section
from common.plan.routes import along
from common.plan.values import PlannedRow, row_of


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    if given.study.methods.pooled:
        for fold in given.study.split.run:
            yield row_of(given.study, POOLED, (POOLED,), target, fold, along(given.study, (POOLED,), fold))


METHOD = Method(
    key=POOLED,
    title="All data",
    name=lambda _, __: "All data",
    section=Section.ALL_DATA,
    rows=_rows,
    everybody=True,
    deliverable=False,
    in_paper=True,
    style="s-all",
)
