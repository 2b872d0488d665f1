"""A source's model scored at the target, without training there."""

from collections.abc import Iterator, Sequence

from common.plan.methods.method import Given, Method, Section, sources
from common.plan.routes import along
from common.plan.values import PlannedRow, row_of

KEY = "unadapted"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    if study.methods.unadapted:
        for source in (site for site in study.sites if site != target):
            for fold in study.split.run:
                yield row_of(study, KEY, (source,), target, fold, along(study, (source,), fold))


def _name(route: Sequence[str], target: str) -> str:
    return f"{' → '.join(sources(route, target))}, unadapted"


METHOD = Method(
    key=KEY,
    title="Source, unadapted",
    name=_name,
    line=_name,
    section=Section.UNADAPTED,
    rows=_rows,
    own_line=True,
    adapted=False,
)
