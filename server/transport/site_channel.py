"""One site's end of the wire: an order out, an answer back, and what may go wrong between."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.config.study import Study
from common.model.weights import File, Weights, size_in_bytes
from common.protocol.codec import BadMessage, from_record, to_record
from common.protocol.messages import (
    DELIVER,
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    STAGE_VERSION,
    Delivery,
    Describe,
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    Receipt,
    WireMessage,
)
from common.protocol.refusals import Refusal, refusal_text
from common.text import duration
from server.progress.events import Event, Observer
from server.transport.discovery import is_online
from server.transport.outcomes import Absent, Parked, RefusedBySite, TrainingFailed
from server.transport.retry import retry_on_server_error

log = logging.getLogger("relay.coordinator")

TTL = 365 * 24 * 3600.0
"""Flower drops a message after twelve hours unless it is given another time; a stage may take days."""

TRIES = 3
"""A stage that failed is asked for again so often, with pauses of 1, 2, … seconds."""

FINAL = frozenset(
    (
        Refusal.NOT_IN_STUDY,
        Refusal.BAD_MESSAGE,
        Refusal.DATA_CHANGED,
        Refusal.DATA_UNUSABLE,
        Refusal.TOO_FEW_PATIENTS,
        Refusal.DISK_FULL,
        Refusal.BLOCKED,
        Refusal.ANSWERED,
        Refusal.NOT_CHOSEN,
        Refusal.BEYOND_APPROVAL,
    )
)
"""Refusals that asking again does not change."""

ON_THE_WAY = frozenset((3, 4, 5))
"""Flower's errors for a message or an answer that it no longer has, and for a node that went away: nothing is
known of the stage itself, and the site answers from disk whatever it has finished."""

LOSSES = 10
"""So often in a row may an order be lost on its way before its stage is given up; a site that dies of it each
time would else be asked for ever."""

LOOK_EVERY = 5.0
"""Seconds between two looks at whether the site is there: each is a request to the SuperLink."""

QUIET = 120.0
"""Seconds without an answer after which a question is put behind the order: see `SiteChannel._await`."""

TRANSFER_SLOTS = threading.Semaphore(2)
"""Messages with weights that all channels together hold at a time, on the way out or in until they are in the ledger:
so the coordinator holds few copies, however many sites there are."""

Reply = TypeVar("Reply", bound=WireMessage)
GetFile = Callable[[], File]
Hear = Callable[[int, int, float | None], None]
"""Takes how far an order is: what is done and of how many, epochs or patients, and the last epoch's Dice, 0 to 1."""


LEFT = frozenset((Refusal.UNKNOWN_STUDY, Refusal.LEFT))
"""Refusals of a site that takes no part in the study any more."""


@dataclass
class Traffic:
    """What really crossed the wire, by site: bytes of tensors, messages, tries.

    Every channel counts for its own site alone, since channels run side by side.
    """

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    received: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    messages: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: dict[str, float] = field(default_factory=dict)
    """By the key of a stage."""


class SiteChannel:
    """One site's end of the wire: sends an order, waits for the answer, tries again."""

    def __init__(self, grid: Grid, site: str, node_id: int | None, traffic: Traffic, *, patience: float = 60.0) -> None:
        """Args: node_id: None for a site that has not been seen yet; it is known by its registered name."""
        self.grid, self.site, self.node_id, self.traffic = grid, site, node_id, traffic
        self.patience: Callable[[], float] = lambda: patience
        """Seconds that the site may be away before `Absent` is raised."""
        self.observe: Observer = lambda _: None
        """Takes the events that the site went away and that it is back."""
        self._away_since: float | None = None
        self._unacknowledged: dict[str, str] = {}  # key → digest of weights that lie at the site
        self.held = ""
        self._holds_slot = False

        self._rest: Callable[[str, float], Iterable[tuple[int, int, float | None]]] = getattr(grid, "wait_for", _sleep)
        """Waits for the answer to an order, for so many seconds at most; gives what the grid knows of its progress."""

    def release_slot(self) -> None:
        """Release the transfer slot, since the weights that came last are kept or not wanted."""
        if self._holds_slot:
            self._holds_slot = False
            TRANSFER_SLOTS.release()

    def describe(self, study: Study, observe: Callable[[int, int], None]) -> Description:
        """Return what the site has for a study; asks again until all its patients are prepared.

        Args:
            observe: is called with patients prepared and patients in all.
        """

        def hear(done: int, of: int, _: float | None) -> None:
            if done < of:  # that all are ready is reported once, with the answer
                observe(done, of)

        while True:
            description, _ = self._ask(Describe(study=study.digest), None, DESCRIBE, Description, "describe", hear)
            observe(description.prepared, description.patients_found)
            if description.complete:
                if description.stage_version != STAGE_VERSION:
                    raise Parked("another version of this program is installed there; install the same on both ends")
                if description.site != self.site:
                    raise Parked(f"it is set up as {description.site}; correct the name in its site file")
                if len(description.train_slices) != study.split.folds:
                    raise Parked("it described another number of folds than the study has")
                return description

    def fine_tune(
        self, order: FineTuneOrder, weights: GetFile, observe: Callable[[int, float | None], None]
    ) -> tuple[FineTuneReply, Weights]:
        """Leg after leg until the stage is done. Who has kept the weights calls `release_slot`.

        Args:
            observe: is called with epochs trained and the last one's validation Dice, 0 to 1: at the end of every
                leg, and of every epoch where the grid knows it.

        Raises:
            TrainingFailed: the training diverged.
            Absent: the site is away for longer than `patience`, or has left the study.
            Parked: it cannot be finished for another reason.
        """
        order = order.model_copy(update={"acknowledged": self._acknowledged(order.weights)})
        send = None if order.weights == self.held else weights
        epoch = idle = 0
        while True:
            reply, arrived = self._ask(
                order, send, FINE_TUNE, FineTuneReply, order.key, lambda done, _, dice: observe(done, dice)
            )
            if reply.key != order.key:
                raise Parked("it answered another stage than it was asked for")
            if reply.state == "needs-weights":
                if send is not None:
                    raise Parked("it asks for weights that came along")
                send = weights
                continue
            send = None
            observe(reply.epoch, reply.dices[-1] if reply.dices else None)
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
            self.release_slot()

    def evaluate(self, order: EvaluateOrder, weights: GetFile) -> EvaluateReply:
        """Scores of weights at the site."""
        order = order.model_copy(update={"acknowledged": self._acknowledged(order.weights)})
        send = None if order.weights == self.held else weights
        while True:
            reply, _ = self._ask(order, send, EVALUATE, EvaluateReply, order.key)
            if reply.key != order.key:
                raise Parked("it answered another stage than it was asked for")
            if reply.state == "done":
                return reply
            if send is not None:
                raise Parked("it asks for weights that came along")
            send = weights

    def deliver(self, delivery: Delivery, weights: GetFile) -> None:
        """Give the site weights that it may keep; they travel only if it has them no longer."""
        send: GetFile | None = None
        while True:
            receipt, _ = self._ask(delivery, send, DELIVER, Receipt, delivery.models[delivery.row])
            if receipt.state == "done":
                return
            if send is not None:
                raise Parked("it asks for weights that came along")
            send = weights

    def acknowledge(self, key: str, weights: str) -> None:
        """Note that the result of a key is safe here; the next order says so to the site."""
        self._unacknowledged[key] = weights

    def _acknowledged(self, but: str) -> tuple[str, ...]:
        """Keys whose weights the site may drop; the weights that it is about to use stay."""
        keys = tuple(key for key, digest in self._unacknowledged.items() if digest != but)
        for key in keys:
            if self._unacknowledged.pop(key) == self.held:
                self.held = ""
        return keys

    def _ask(
        self,
        message: WireMessage,
        weights: GetFile | None,
        type_: str,
        kind: type[Reply],
        group: str,
        hear: Hear = lambda *_: None,
    ) -> tuple[Reply, Weights | None]:
        reason = ""
        for attempt in range(TRIES):
            time.sleep(attempt)
            self.traffic.attempts[self.site] += 1
            reply = self._send(message, weights, type_, group, hear)
            if not reply.has_error():
                try:
                    answer, arrived = from_record(reply.content, kind)
                except BadMessage as error:
                    self.release_slot()
                    raise Parked(f"its answer is not one of the declared messages ({error})") from None
                if arrived is None:
                    self.release_slot()
                else:
                    self.traffic.received[self.site] += size_in_bytes(arrived)
                return answer, arrived
            reason = refusal_text(reply.error)
            if reply.error.code in LEFT:
                raise Absent(reason)
            if reply.error.code == Refusal.DIVERGED:
                raise TrainingFailed(reason)
            if reply.error.code in FINAL:
                break
        raise RefusedBySite(reason)

    def _send(self, message: WireMessage, weights: GetFile | None, type_: str, group: str, hear: Hear) -> Message:
        """Return an order out, its answer back. What is lost on the way is sent again; the site answers a stage once."""
        for loss in range(LOSSES):
            # Flower takes a message for a node that is away, and returns it as an error at once.
            session = self._wait_for_site()
            order = self._push_with(weights, message, type_, group)
            reply = self._await(order, session, message.study, hear) if order else None
            if reply is not None and not _lost(reply):
                return reply
            log.warning("Site %s: an order or its answer was lost on the way; it is sent again.", self.site)
            time.sleep(min(60.0, 2.0**loss))
        raise Parked(f"an order was lost on the way {LOSSES} times in a row")

    def _push_with(self, weights: GetFile | None, message: WireMessage, type_: str, group: str) -> str:
        """Push an order; its weights are read when a transfer slot is free, released again once pushed."""
        if weights is None:
            return self._push(to_record(message), type_, group)
        with TRANSFER_SLOTS:
            loaded = weights()
            self.traffic.sent[self.site] += size_in_bytes(loaded)
            return self._push(to_record(message, loaded), type_, group)

    def _push(self, record: RecordDict, type_: str, group: str) -> str:
        """Return the id of the message that was pushed; empty if Flower did not take it."""
        assert self.node_id is not None, "it was never seen"
        self.traffic.messages[self.site] += 1
        out = Message(record, dst_node_id=self.node_id, message_type=type_, group_id=group[:16], ttl=TTL)
        return next(iter(retry_on_server_error(lambda: self.grid.push_messages([out]))), "")

    def _pull(self, order: str) -> Message | None:
        """Return the answer to an order, if it is there."""
        TRANSFER_SLOTS.acquire()
        keeps = False
        try:
            # One id at a time: the SuperLink holds up the answers that are there for one still on its way.
            reply = next(iter(retry_on_server_error(lambda: self.grid.pull_messages([order]))), None)
            with_weights = reply is not None and not reply.has_error() and bool(reply.content.array_records)
            keeps = with_weights and not self._holds_slot
            self._holds_slot |= keeps
        finally:
            if not keeps:
                TRANSFER_SLOTS.release()
        return reply

    def _await(self, order: str, session: str, study: str, hear: Hear) -> Message | None:
        """Return the answer to an order, however long it takes; None once it is known that none will come.

        Flower tells nobody of an order that a site held when it was restarted, or whose answer it could not send.
        A site handles its messages one after the other, in the order that they were pushed in: so a question
        behind the order that is answered while the order is not says that the order is lost. It is put there when
        the site has come back, and when nothing was heard for long; a site that works for hours answers neither,
        and is waited for. A question may be lost as well: another one follows, after twice as long each time.
        """
        began = time.monotonic()
        look, quiet, question = began + LOOK_EVERY, QUIET, ""
        ask = began + quiet
        while True:
            if (reply := self._pull(order)) is not None:
                self._listen(order, 0.0, hear)  # what came just before
                return reply
            now = time.monotonic()
            if question and (answer := self._pull(question)) is not None:
                if not _lost(answer):
                    return self._pull(order)
                question, ask = "", now
            if now >= look:
                look = now + LOOK_EVERY
                there = self._session()
                if there is not None and (there != session or now >= ask):
                    quiet = QUIET if there != session else 2 * quiet
                    session, ask = there, now + quiet
                    question = self._push(to_record(Describe(study=study)), DESCRIBE, "question")
            # Never more than a tenth of a second and a twentieth of the waiting is added by looking too late, and
            # nothing where the grid can say when an answer has come, as the embedded one can.
            self._listen(order, min(2.0, 0.1 + (now - began) / 20), hear)

    def _listen(self, order: str, seconds: float, hear: Hear) -> None:
        for news in self._rest(order, seconds):
            hear(*news)

    def _session(self) -> str | None:
        """Return what tells one presence of the site from the next; None while it is away."""
        for node in retry_on_server_error(self.grid.get_nodes):
            known = node.name == self.site if self.node_id is None else node.node_id == self.node_id
            if known and is_online(node):
                if self._away_since is not None:
                    self.observe(Event("back", self.site, ""))
                self.node_id, self._away_since = node.node_id, None
                return node.last_activated_at
        if self._away_since is None:
            self._away_since = time.monotonic()
            self.observe(Event("away", self.site, ""))
        return None

    def is_there(self) -> bool:
        return self._session() is not None

    def _wait_for_site(self) -> str:
        """Return the site's presence, once it is there. It is away from when that was first seen, whichever stage saw it."""
        pause = 0.0
        while (session := self._session()) is None:
            if not pause:
                log.warning("Site %s is away; waiting for it.", self.site)
            pause = min(30.0, 2 * pause or 1.0)
            look = time.monotonic() + pause
            while (now := time.monotonic()) < look:
                away = now - (self._away_since or now)
                if away >= self.patience():
                    raise Absent(away_for(self.patience()), away)
                time.sleep(min(2.0, look - now))
        if pause:
            log.warning("Site %s is there again.", self.site)
        return session


def _sleep(_: str, seconds: float) -> tuple[()]:
    if seconds:
        time.sleep(seconds)
    return ()


def _lost(reply: Message) -> bool:
    return reply.has_error() and reply.error.code in ON_THE_WAY


def away_for(seconds: float) -> str:
    """How long a site was waited for, in words."""
    if seconds < 60:
        return "it was away"
    return f"it was away for {duration(seconds)}"
