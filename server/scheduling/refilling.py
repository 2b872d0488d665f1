"""Weights whose batch-norm tensors stayed at a site, with those of the study's first weights in their place."""

from __future__ import annotations

from common.errors import Damaged
from common.model.network import staying_names
from common.model.weights import UnfitWeights, check_fit, load
from common.plan.graph import Refilled
from server.ledger.ledger import Ledger, StageRecord
from server.scheduling.state import RunState


def refill(node: Refilled, state: RunState, ledger: Ledger) -> StageRecord:
    """Put weights and the first weights' batch-norm tensors together, and add the record to the ledger.

    Raises:
        Damaged: a file is gone or damaged, or the weights together do not fit the study's network.
    """
    model, made = state.study.model, state.records[node.weights].file
    first = load(ledger.checked(state.start.weights))
    norm = {name: tensor for name, tensor in first.items() if name in staying_names(model, "batch-norm")}
    weights = load(ledger.checked(made)) | norm
    try:
        check_fit(weights, model)
    except UnfitWeights as error:
        raise Damaged(f"weights with the first weights' batch normalisation do not fit: {error}") from None
    record = StageRecord(
        key=state.refilled_key(node, state.records),
        kind="refilled",
        fold=state.records[node.weights].fold,
        parents=(made, state.start.weights),
        weights=ledger.put_weights(weights),
    )
    ledger.put(record)
    return record
