"""A coordinator repeats a training with one restart token after another, and so draws as many models as it likes."""

from __future__ import annotations

from pathlib import Path

from common.model.weights import Weights
from common.plan.graph import FineTune
from common.protocol.refusals import Refusal
from tests.client.test_app import home, prepared, start, trainings
from tests.support.site_calls import first, order_of, refused, send, trained

__all__ = ["home", "prepared", "start", "trainings"]


def test_a_stage_begins_anew_once_however_many_tokens_come(
    home: Path, start: Weights, trainings: list[int], one_thread: None
) -> None:
    order = order_of(first(FineTune), start)
    trained(send(order, start))
    trained(send(order.model_copy(update={"restart_token": "0" * 16}), start))
    assert trainings == [1, 2, 1, 2]
    for token in ("1" * 16, "a" * 16, "f" * 16):
        for acknowledged in ((), (order.key,)):
            further = order.model_copy(update={"restart_token": token, "acknowledged": acknowledged})
            assert refused(send(further, start), Refusal.RESTARTED)
    assert trainings == [1, 2, 1, 2]
