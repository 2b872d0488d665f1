"""The target alone, for a single stage: the paper's baseline."""

from collections.abc import Iterator

from common.plan.methods.method import Given, Method, Section
from common.plan.routes import along
from common.plan.values import PlannedRow, row_of

KEY = "baseline"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    if given.study.methods.baseline:
        for fold in given.study.split.run:
            yield row_of(given.study, KEY, (target,), target, fold, along(given.study, (target,), fold))


METHOD = Method(
    key=KEY,
    title="Target alone",
    name=lambda _, target: f"{target} alone",
    section=Section.ALONE,
    rows=_rows,
    alone=True,
    baseline=True,
    in_paper=True,
    style="s-alone",
)
