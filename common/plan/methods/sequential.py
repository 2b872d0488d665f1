"""Sequential transfer: a model is handed from site to site, and ends at the target."""

from collections.abc import Iterator

from common.plan.methods.method import Given, Method, Section, arrows, sources
from common.plan.routes import along, routes_to
from common.plan.values import PlannedRow, row_of

KEY = "sequential"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    for route in routes_to(given.study, target) if "travel" in given.study.methods.sequential.batch_norm else ():
        for fold in given.study.split.run:
            yield row_of(given.study, KEY, route, target, fold, along(given.study, route, fold))


METHOD = Method(
    key=KEY,
    title="Routes",
    name=arrows,
    line=lambda route, target: " → ".join(sources(route, target)) + " →",
    section=Section.ROUTES,
    rows=_rows,
    travelling=True,
    routed=True,
    own_line=True,
    skippable=True,
    in_paper=True,
)
