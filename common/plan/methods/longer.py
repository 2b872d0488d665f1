"""The target alone with the gradient steps of its longest route: the control for the extra training of a route."""

from collections.abc import Iterator

from common.plan.graph import FineTune, Start
from common.plan.methods.method import Given, Method, Section
from common.plan.rounds import longest_in_epochs
from common.plan.routes import whole_cosine
from common.plan.values import PlannedRow, row_of

KEY = "longer"


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    if study.methods.longer_baseline:
        for fold in study.split.run:
            epochs = longest_in_epochs(study, given.census, target, fold)
            model = FineTune(target, fold, Start(), whole_cosine(epochs, study.training.keep))
            yield row_of(study, KEY, (target,), target, fold, model)


METHOD = Method(
    key=KEY,
    title="Target alone, longer",
    name=lambda _, target: f"{target} alone, longer",
    section=Section.ALONE,
    rows=_rows,
    alone=True,
    longer=True,
    style="s-longer",
)
