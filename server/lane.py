"""One site's end of the wire: an order out, an answer back, and what may go wrong between."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

from common.messages import (
    DELIVER,
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    STAGE_VERSION,
    BadMessage,
    Delivery,
    Describe,
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    Receipt,
    Refusal,
    WireMessage,
    from_record,
    refusal_text,
    to_record,
)
from common.study import Study
from common.weights import Weights, size_in_bytes

TTL = 365 * 24 * 3600.0
"""Flower drops a message after twelve hours unless told otherwise; a stage may take days."""

TRIES = 3
"""A stage that failed is asked for again so often, with pauses of 1, 2, … seconds."""

FINAL = frozenset(
    (
        Refusal.UNKNOWN_STUDY,
        Refusal.NOT_IN_STUDY,
        Refusal.BAD_MESSAGE,
        Refusal.DATA_CHANGED,
        Refusal.DATA_UNUSABLE,
        Refusal.TOO_FEW_PATIENTS,
        Refusal.DISK_FULL,
        Refusal.BLOCKED,
        Refusal.DIVERGED,
        Refusal.ANSWERED,
        Refusal.NOT_CHOSEN,
    )
)
"""Refusals that asking again does not change."""

Reply = TypeVar("Reply", bound=WireMessage)


class Parked(Exception):
    """A stage that cannot be finished now, with the reason in plain words."""


@dataclass
class Traffic:
    """What really crossed the wire, by site: bytes of tensors, messages, tries.

    Every lane counts for its own site alone, since lanes run side by side.
    """

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    received: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    messages: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, float] = field(default_factory=dict)
    """By the key of a stage."""


class Lane:
    """One site's end of the wire: sends an order, waits for the answer, tries again."""

    def __init__(self, grid: Grid, site: str, node_id: int, traffic: Traffic) -> None:
        self.grid, self.site, self.node_id, self.traffic = grid, site, node_id, traffic
        self._unacknowledged: dict[str, str] = {}  # key → digest of weights that lie at the site
        self.held = ""

    def describe(self, study: Study, observe: Callable[[Description], None]) -> Description:
        """What the site has for a study; asks again until all its patients are prepared."""
        while True:
            description, _ = self._ask(Describe(study=study.digest), None, DESCRIBE, Description, "describe")
            observe(description)
            if description.complete:
                if description.stage_version != STAGE_VERSION:
                    raise Parked("another version of this program is installed there; install the same on both ends")
                if description.site != self.site:
                    raise Parked(f"it is set up as {description.site}; correct the name in its site file")
                if len(description.train_slices) != study.split.folds:
                    raise Parked("it described another number of folds than the study has")
                return description

    def fine_tune(
        self, order: FineTuneOrder, weights: Callable[[], Weights], observe: Callable[[FineTuneReply], None]
    ) -> tuple[FineTuneReply, Weights]:
        """Leg after leg until the stage is done."""
        order = order.model_copy(update={"acknowledged": self._acknowledged(order.weights)})
        send = None if order.weights == self.held else weights()
        epoch = idle = 0
        while True:
            reply, arrived = self._ask(order, send, FINE_TUNE, FineTuneReply, order.key)
            if reply.key != order.key:
                raise Parked("it answered another stage than it was asked for")
            if reply.state == "needs-weights":
                if send is not None:
                    raise Parked("it asks for weights that came along")
                send = weights()
                continue
            send = None
            observe(reply)
            # A checkpoint that was lost may cost a leg; a site that never gets on would cost for ever.
            idle = idle + 1 if reply.epoch <= epoch else 0
            epoch = reply.epoch
            if reply.state == "running" and idle == TRIES:
                raise Parked("it answers leg after leg and gets no further")
            if reply.state == "done":
                if arrived is None:
                    raise Parked("it said that a stage was done, and sent no weights")
                self.held = reply.weights
                return reply, arrived

    def evaluate(self, order: EvaluateOrder, weights: Callable[[], Weights]) -> EvaluateReply:
        """Scores of weights at the site."""
        order = order.model_copy(update={"acknowledged": self._acknowledged(order.weights)})
        send = None if order.weights == self.held else weights()
        while True:
            reply, _ = self._ask(order, send, EVALUATE, EvaluateReply, order.key)
            if reply.key != order.key:
                raise Parked("it answered another stage than it was asked for")
            if reply.state == "done":
                return reply
            if send is not None:
                raise Parked("it asks for weights that came along")
            send = weights()

    def deliver(self, delivery: Delivery, weights: Callable[[], Weights]) -> None:
        """Give the site weights that it may keep; they travel only if it has them no longer."""
        send = None
        while True:
            receipt, _ = self._ask(delivery, send, DELIVER, Receipt, delivery.models[delivery.row])
            if receipt.state == "done":
                return
            if send is not None:
                raise Parked("it asks for weights that came along")
            send = weights()

    def acknowledge(self, key: str, weights: str) -> None:
        """The result of a key is safe here; the site is told with the next order."""
        self._unacknowledged[key] = weights

    def _acknowledged(self, but: str) -> tuple[str, ...]:
        """Keys whose weights the site may drop; the weights that it is about to use stay."""
        keys = tuple(key for key, digest in self._unacknowledged.items() if digest != but)
        for key in keys:
            if self._unacknowledged.pop(key) == self.held:
                self.held = ""
        return keys

    def _ask(
        self, message: WireMessage, weights: Weights | None, type_: str, kind: type[Reply], group: str
    ) -> tuple[Reply, Weights | None]:
        reason = ""
        for attempt in range(TRIES):
            time.sleep(attempt)
            self.traffic.attempts[self.site] += 1
            reply = self._send(message, weights, type_, group)
            if not reply.has_error():
                try:
                    answer, arrived = from_record(reply.content, kind)
                except BadMessage as error:
                    raise Parked(f"its answer is not one of the declared messages ({error})") from None
                if arrived is not None:
                    self.traffic.received[self.site] += size_in_bytes(arrived)
                return answer, arrived
            reason = refusal_text(reply.error)
            if reply.error.code in FINAL:
                break
        raise Parked(reason)

    def _send(self, message: WireMessage, weights: Weights | None, type_: str, group: str) -> Message:
        self.traffic.messages[self.site] += 1
        self.traffic.sent[self.site] += size_in_bytes(weights) if weights else 0
        record = to_record(message, weights)
        ids = list(
            self.grid.push_messages(
                [Message(record, dst_node_id=self.node_id, message_type=type_, group_id=group[:16], ttl=TTL)]
            )
        )
        del record
        began = time.monotonic()
        while True:
            for reply in self.grid.pull_messages(ids):
                return reply
            # Never more than a twentieth of the waiting is added by looking too late.
            time.sleep(min(2.0, 0.005 + (time.monotonic() - began) / 20))
