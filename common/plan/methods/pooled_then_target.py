"""A model of all pooled data, fine-tuned at the target."""

from collections.abc import Iterator

from common.config.values import POOLED
from common.plan.methods.method import LONGEST, Given, Method, Section
from common.plan.routes import along, then_at
from common.plan.values import PlannedRow, row_of

KEY = f"{POOLED}-then-target"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    if study.methods.pooled and study.methods.pooled_then_target:
        for fold in study.split.run:
            model = then_at(study, target, along(study, (POOLED,), fold))
            yield row_of(study, KEY, (POOLED, target), target, fold, model)


METHOD = Method(
    key=KEY,
    title="All data, then the target",
    name=lambda _, target: f"All data, then {target}",
    section=Section.ALL_DATA,
    rows=_rows,
    everybody=True,
    deliverable=False,
    control=LONGEST,
)
