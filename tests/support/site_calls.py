"""Hospital A's app, called as Flower calls it: what a coordinator would send to it, and what comes back."""

from __future__ import annotations

import json
from typing import Any

from flwr.app import Context, Message, RecordDict

from client.app import app
from common.config.study import Study
from common.digest import digest_of
from common.model.weights import Weights, serialised
from common.plan import Plan, plan
from common.plan.graph import Evaluate, FineTune
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.codec import from_record, to_record
from common.protocol.messages import (
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    Describe,
    Description,
    EvaluateOrder,
    FineTuneOrder,
    FineTuneReply,
    Order,
)
from common.protocol.refusals import REFUSALS, Refusal
from tests.support.hospitals import small_study

STUDY = small_study(methods={"baseline": True, "sequential": {"routes": (("B", "A"),)}})
CENSUS = {"A": (10, 10), "B": (12, 14), "C": (20, 22)}
"""Where A is not asked; its own is what it describes."""


def call(kind: str, content: RecordDict) -> Message:
    message = Message(content, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "1"
    return app(message, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))


def refused(reply: Message, code: Refusal) -> bool:
    assert reply.has_error(), "it was answered"
    assert reply.error.reason == REFUSALS[Refusal(reply.error.code)]
    return reply.error.code == int(code)


def described(study: Study = STUDY) -> Description:
    while True:  # as often as legs without length need
        reply = call(DESCRIBE, to_record(Describe(study=study.digest)))
        assert not reply.has_error(), reply.error
        description, _ = from_record(reply.content, Description)
        if description.complete:
            return description


def planned(study: Study = STUDY, census: Any = None) -> tuple[Plan, dict[str, tuple[int, ...]]]:
    census = census or {**CENSUS, "A": described(study).train_slices}
    return plan(study, census), census


def order_of(stage: FineTune | Evaluate, weights: Weights, study: Study = STUDY, **changes: Any) -> Order:
    description = described(study)
    environment = ExecutionEnvironment(
        description.fingerprint, description.torch, description.device, description.precision
    )
    digest = digest_of(serialised(weights))
    fields = {
        "study": study.digest,
        "node": stage.id,
        "key": stage_key(stage, study=study, weights=digest, environment=environment),
        "weights": digest,
        "census": json.dumps({**CENSUS, "A": description.train_slices}),
        "fingerprint": description.fingerprint,
        **changes,
    }
    return (FineTuneOrder if isinstance(stage, FineTune) else EvaluateOrder).model_validate(fields)


def first(kind: type[FineTune] | type[Evaluate], study: Study = STUDY, site: str = "A") -> FineTune | Evaluate:
    for node in planned(study)[0].nodes:
        if isinstance(node, kind) and node.site == site:
            return node
    raise AssertionError


def send(order: Order, weights: Weights | None) -> Message:
    return call(FINE_TUNE if isinstance(order, FineTuneOrder) else EVALUATE, to_record(order, weights))


def trained(reply: Message) -> tuple[FineTuneReply, Weights | None]:
    assert not reply.has_error(), reply.error
    return from_record(reply.content, FineTuneReply)
