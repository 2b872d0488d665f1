"""How each method handled what methods may handle differently: batch norm, optimizer, averages, rates and selection.

All of it is read off the graph of a method's first row, so that no method is described as what it is not. Methods that
handled everything alike stand together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from common.config.study import Study
from common.config.values import POOLED
from common.plan import Plan, PlannedRow, method_of
from common.plan.graph import (
    Average,
    Best,
    BestElsewhere,
    Completed,
    Ensemble,
    FineTune,
    Node,
    ServerStep,
    Soup,
    Start,
    fold_of,
)
from common.plan.routes import settings_of
from common.strategies import STRATEGIES
from common.text import either
from server.results import schema

NONE = "none"
ELSEWHERE = "the mean over the other sites"


def handling(study: Study, plan: Plan) -> Iterator[schema.Handling]:
    """Yield how the methods of a study were handled, methods that were handled alike together, in the plan's order.

    Args:
        study: a plain study.
        plan: its plan.
    """
    rows: dict[str, PlannedRow] = {}
    folds: dict[str, set[int]] = defaultdict(set)
    for row in plan.rows:
        rows.setdefault(row.method, row)
        folds[row.method].add(row.fold)
    alike: dict[tuple[str, ...], list[str]] = {}
    for method, row in rows.items():
        path = list(_path(row.model))
        handled = (
            _batch_norm(study, row, path),
            _optimizer(study, path),
            _average(path),
            _rates(study, path),
            _selection(study, row, path, several_folds=len(folds[method]) > 1),
        )
        alike.setdefault(handled, []).append(method_of(method).title)
    for (batch_norm, optimizer, average, rates, selection), titles in alike.items():
        yield schema.Handling(
            methods=tuple(titles),
            batch_norm=batch_norm,
            optimizer=optimizer,
            average=average,
            rates=rates,
            selection=selection,
        )


def _path(node: Node) -> Iterator[Node]:
    """Yield a model and the nodes behind it on one way to the first weights; of a choice, the last candidate's.

    The last candidate is the last round, or a route that no other candidate is longer than.
    """
    while not isinstance(node, Start):
        yield node
        node = node.candidates[-1] if isinstance(node, Best) else node.parents[0]


def _batch_norm(study: Study, row: PlannedRow, path: Sequence[Node]) -> str:
    """Return whose statistics of batch normalisation a model has when the target's patients score it."""
    if not study.model.has_batch_norm:
        return "the network has none"
    made = next(node for node in path if not isinstance(node, Best | Ensemble))
    if isinstance(made, Completed) or (isinstance(made, FineTune) and made.stays == "batch-norm"):
        return "all its tensors the target's own, which never leave it"
    if isinstance(made, FineTune) and made.stays == "everything":
        return "the personal model's own"
    if isinstance(made, ServerStep):
        return "statistics the plain mean of the sites'; scale and shift as all weights"
    if isinstance(made, Average):
        return "averaged as all weights"
    assert isinstance(made, FineTune)
    if not made.trains:
        return "statistics estimated on the target's training slices"
    members = next((node.members for node in path if isinstance(node, Ensemble)), (made,))
    sites = {next(node.site for node in _path(member) if isinstance(node, FineTune)) for member in members}
    if made.site == POOLED:
        whose = "of the data in one place" if made.without else "of all data in one place"
    else:
        whose = "of the target" if sites == {row.target} else "of the site that trained last"
    how = "estimated on its training slices" if study.training.batch_norm == "precise" else "averaged over its steps"
    return f"{'each member has its own: ' if len(members) > 1 else ''}statistics {whose}, {how}"


def _optimizer(study: Study, path: Sequence[Node]) -> str:
    """Return what became of the state of the optimizers between trainings."""
    name = "SGD's momentum begins" if study.training.recipe == "nnunet" else "Adam's moments begin"
    server = any(isinstance(node, ServerStep) for node in path)
    return f"{name} at zero in every training{'; those of the server go on from round to round' if server else ''}"


def _average(path: Sequence[Node]) -> str:
    """Return by which weights models, or the probabilities of models, are averaged."""
    found = []
    if any(isinstance(node, Ensemble) for node in path):
        found.append("probabilities, every member alike")
    made = next((node for node in path if isinstance(node, Average)), None)
    if isinstance(made, Soup):
        found.append("every model alike")
    elif made is not None:
        found.append(STRATEGIES[made.strategy].weighting)
    return "; ".join(found) or NONE


def _rates(study: Study, path: Sequence[Node]) -> str:
    """Return the learning rates of the trainings behind a model."""
    curve = "nnU-Net's polynomial decay" if study.training.recipe == "nnunet" else "a cosine"
    usual = f"{curve} from {study.training.learning_rate:g}"
    trainings = [node for node in path if isinstance(node, FineTune) and node.trains]
    if not trainings:
        return NONE
    found, of_rounds = [], [node for node in trainings if _is_of_rounds(node, path)]
    if of_rounds:
        found.append(f"{usual} over all rounds")
    others = [node for node in trainings if node not in of_rounds]
    first = [node for node in others if isinstance(node.parent, Start)]
    if others and any(node.schedule.epochs < node.schedule.total_epochs for node in others):
        found.append(f"{usual} over all trainings in a row")
    elif first and len(others) == len(first):
        found.append(f"{usual} in a single training")
    elif others:
        rates = [setting.hop.learning_rate if setting.hop else 0.0 for setting in settings_of(study)]
        shown = either(dict.fromkeys(f"{rate or study.training.learning_rate:g}" for rate in rates))
        again = "in every training" if not any(rates) else f"in the first training, from {shown} in later ones"
        found.append(f"{usual} {again}" if first else f"then {curve} from {shown} at the target")
    if (server := next((node for node in path if isinstance(node, ServerStep)), None)) is not None:
        tried = dict.fromkeys(f"{rate:g}" for rate in _server_rates(study, server))
        found.append(f"the server's {either(tried)}")
    return "; ".join(found)


def _server_rates(study: Study, step: ServerStep) -> Iterator[float]:
    for part in study.methods.federated:
        if part.strategy == step.strategy:
            yield from (dict(settings)["learning_rate"] for settings in part.server_settings)


def _is_of_rounds(node: FineTune, path: Sequence[Node]) -> bool:
    """Return whether a training is a part of a round, of the laps before rounds, or of a personal model beside them."""
    if node.stays == "everything":
        return True
    made = [place for place, one in enumerate(path) if isinstance(one, Average) and not isinstance(one, Soup)]
    return bool(made) and path.index(node) > made[0]


def _selection(study: Study, row: PlannedRow, path: Sequence[Node], *, several_folds: bool) -> str:
    """Return what validation patients select for a model, and whose."""
    found = []
    for node in reversed(path):
        if isinstance(node, FineTune) and node.trains and not _is_of_rounds(node, path):
            found.append("epoch: the site that trains" if node.schedule.keep == "best" else "the last epoch is kept")
        elif isinstance(node, Average) and not isinstance(node, Soup):
            found.append("a round keeps its last epoch")
        elif isinstance(node, BestElsewhere) and len(node.candidates) > 1:
            found.append(f"{_candidates(study, row, node)}: {ELSEWHERE}")
        elif isinstance(node, Best) and len(node.candidates) > 1:
            found.append(f"{_candidates(study, row, node)}: {'the target' if node.at == row.target else 'that site'}")
    method = method_of(row.method)
    if method.grows:
        found.append("every step of the search: the target")
    elif method.routed or (method.of_share and len(row.route) > 1):
        found.append("route: the target")
    if several_folds:
        unseen = any(isinstance(node, BestElsewhere) for node in path)
        found.append(f"fold: {ELSEWHERE if unseen else 'the target'}")
    return "; ".join(dict.fromkeys(found)) or NONE


def _candidates(study: Study, row: PlannedRow, node: Best) -> str:
    """Return what the candidates of a choice differ in."""
    kinds = {_kind(candidate) for candidate in node.candidates}
    if len({fold_of(candidate) for candidate in node.candidates}) > 1:
        return "a source's fold"
    if kinds == {"ensemble"}:
        return "route"
    if kinds & {"round", "personal"}:
        several = any(
            len(part.settings) * len(part.server_settings) * len(part.chains) > 1
            or ("personal" in kinds and len(part.ditto_lambda) > 1)
            for part in study.methods.federated
            if part.strategy == method_of(row.method).strategy
        )
        return "round and setting" if several else "round"
    if isinstance(node, BestElsewhere):
        return "route and setting" if len(settings_of(study)) > 1 else "route"
    return "setting"


def _kind(node: Node) -> str:
    if isinstance(node, Ensemble):
        return "ensemble"
    if isinstance(node, FineTune) and node.stays == "everything":
        return "personal"
    of_round = isinstance(node, Average | Completed) or (isinstance(node, FineTune) and not node.trains)
    return "round" if of_round else "training"
