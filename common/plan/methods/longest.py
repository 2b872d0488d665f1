"""The target alone with the gradient steps of the longest of its rows that end with "then the target".

An average or a model of all data that is fine-tuned at the target has up to a stage more steps than the longest route,
with which "longer" is trained: these rows need a control of their own.
"""

from collections.abc import Iterator

from common.plan.graph import FineTune, Start
from common.plan.methods import pooled_then_target
from common.plan.methods.federated import then_target
from common.plan.methods.method import LONGEST, Given, Method, Section
from common.plan.rounds import epochs_for, most_steps
from common.plan.routes import whole_cosine
from common.plan.values import PlannedRow, row_of
from common.strategies import STRATEGIES


def _rows(given: Given, target: str) -> Iterator[PlannedRow]:
    study = given.study
    methods = (*map(then_target, STRATEGIES.values()), pooled_then_target.METHOD)
    steps: dict[int, int] = {}
    for row in (row for method in methods for row in method.rows(given, target)):
        steps[row.fold] = max(steps.get(row.fold, 0), most_steps(study, given.census, row.model))
    for fold, longest in steps.items():
        epochs = epochs_for(study, given.census, target, fold, longest)
        model = FineTune(target, fold, Start(), whole_cosine(epochs, study.training.keep))
        yield row_of(study, LONGEST, (target,), target, fold, model)


METHOD = Method(
    key=LONGEST,
    title="Target alone, longest",
    name=lambda _, target: f"{target} alone, longest",
    section=Section.ALONE,
    rows=_rows,
    optional=True,
    alone=True,
)
