"""The channel to a site: sends an order, receives the reply, and handles losses, absences and refusals."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from flwr.app import Message, RecordDict

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
from server.transport.outcomes import Absent, Parked, RefusedBySite, TrainingFailed, UnfitStart
from server.transport.retry import retry_on_server_error

log = logging.getLogger("relay.coordinator")

TTL = 365 * 24 * 3600.0
"""Seconds until Flower discards a message. Flower's default is twelve hours, while a stage may take days."""

TRIES = 3
"""The number of tries of a refused order, with pauses of 1, 2, … seconds."""

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
        Refusal.NOT_SELECTED,
        Refusal.BEYOND_APPROVAL,
        Refusal.OWN_TENSORS_GONE,
        Refusal.RESTARTED,
        Refusal.COMBINED,
        Refusal.SCORINGS_SPENT,
        Refusal.ANOTHER_KEY,
    )
)
"""Refusals for which another try is useless."""

ON_THE_WAY = frozenset((3, 4, 5))
"""Flower's errors for a lost message, a lost reply, and a node gone away. Such an error says nothing about the stage
itself, and the site has saved all finished work."""

LOSSES = 10
"""How often in a row an order may be lost before its stage is parked: a site whose process dies of the order would
otherwise get the same order for ever."""

LOOK_EVERY = 5.0
"""Seconds between two checks of whether the site is connected; each check is a request to the SuperLink."""

QUIET = 120.0
"""Seconds of waiting for a reply before a question is sent behind the order; see `SiteChannel._await`."""

TRANSFERS_AT_ONCE = 2
TRANSFER_SLOTS = threading.Semaphore(TRANSFERS_AT_ONCE)
"""The number of messages with weights in memory at a time, over all channels: outgoing messages until sent, incoming
messages until stored in the ledger. The slots keep the number of copies small for any number of sites."""

Reply = TypeVar("Reply", bound=WireMessage)
Finished = TypeVar("Finished", EvaluateReply, Receipt)
GetFile = Callable[[], File]
"""Returns the safetensors file of weights; called once a transfer slot is free."""
Hear = Callable[[int, int, float | None], None]
"""Takes the progress of an order: done and total (epochs or patients), and the Dice of the last epoch, 0 to 1."""


class Carrier(Protocol):
    """What carries messages to a site and back: Flower's grid, or a courier's mail."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, and return their ids."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Return the replies to some messages that have arrived."""
        ...

    def get_nodes(self) -> Iterable[Any]:
        """Return a description of each node."""
        ...


LEFT = frozenset((Refusal.UNKNOWN_STUDY, Refusal.LEFT))
"""Refusals of a site no longer in the study."""


@dataclass
class Traffic:
    """Counts of the traffic of each site: bytes of tensors, messages, tries.

    Each channel updates the counts of its own site only, since channels run in parallel.
    """

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Bytes of tensors sent to the site."""
    received: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Bytes of tensors received from the site."""
    messages: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Messages sent to the site."""
    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Orders and requests to the site, each try counted."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each stage, by the stage's key."""


class SiteChannel:
    """The channel to a site: sends an order, waits for the reply, and tries again after a failure."""

    def __init__(
        self, grid: Carrier, site: str, node_id: int | None, traffic: Traffic, *, patience: float = 60.0
    ) -> None:
        """Set up a channel.

        Args:
            grid: carries the messages.
            site: the site's name.
            node_id: Flower's node of the site; None for a site not seen yet, which is found later by its registered
                name.
            traffic: the counts to update.
            patience: seconds of the site's absence before `Absent` is raised.
        """
        self.grid, self.site, self.node_id, self.traffic = grid, site, node_id, traffic
        self.patience: Callable[[], float] = lambda: patience
        """Returns the seconds of the site's absence before `Absent` is raised."""
        self.observe: Observer = lambda _: None
        """Is called with an event when the site goes away and when the site is back."""
        self._away_since: float | None = None
        self._unacknowledged: dict[str, str] = {}  # key → digest of weights that lie at the site
        self.held = ""
        """Digest of the site's last trained weights while the site holds them; empty if the site holds none."""
        self._holds_slot = False

        self._rest: Callable[[str, float], Iterable[tuple[int, int, float | None]]] = getattr(grid, "wait_for", _sleep)
        """Waits at most so many seconds for the reply to an order, and returns the order's progress as far as the grid
        knows."""

    def release_slot(self) -> None:
        """Release the transfer slot once the last received weights are stored or rejected."""
        if self._holds_slot:
            self._holds_slot = False
            TRANSFER_SLOTS.release()

    def describe(self, study: Study, observe: Callable[[int, int], None]) -> Description:
        """Return the site's description for a study; asks again until all patients of the site are prepared.

        Args:
            study: a plain study (a single network and pair of seeds).
            observe: is called with the number of prepared patients and of all patients.

        Raises:
            Absent: the site is away for longer than `patience`, or has left the study.
            Parked: the site cannot describe its data, or its description does not fit the study.
        """

        def hear(done: int, of: int, _: float | None) -> None:
            if done < of:  # the end is reported once, with the reply
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
        self,
        order: FineTuneOrder,
        weights: GetFile,
        observe: Callable[[int, float | None], None],
        *,
        brings: bool = True,
    ) -> tuple[FineTuneReply, Weights | None]:
        """Order leg after leg until the training is done; the caller calls `release_slot` once the weights are stored.

        Args:
            order: the training.
            weights: returns the file of the weights to start from.
            observe: is called with the number of trained epochs and the validation Dice (0 to 1) of the last epoch: at
                the end of every leg, and of every epoch where the grid reports epochs.
            brings: whether the trained weights come with the last reply; otherwise all of them stay at the site.

        Returns:
            The last reply and the trained weights, or None if all stay at the site.

        Raises:
            TrainingFailed: the training diverged.
            Absent: the site is away for longer than `patience`, or has left the study.
            Parked: the training cannot be finished for another reason.
        """
        file = order.shared or order.weights
        order = order.model_copy(update={"acknowledged": self._acknowledged((file,))})
        send = None if file == self.held else weights
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
            # A lost checkpoint may cost a leg. A site without any progress is given up after `TRIES` legs, not asked
            # for ever.
            idle = idle + 1 if reply.epoch <= epoch else 0
            epoch = reply.epoch
            if reply.state == "running" and idle == TRIES:
                raise Parked("it answers leg after leg and gets no further")
            if reply.state == "done":
                if arrived is None and brings:
                    raise Parked("it said that a stage was done, and sent no weights")
                if arrived is not None and not brings:
                    raise Parked("it sent weights that were to stay there")
                self.held = reply.weights or self.held
                return reply, arrived
            self.release_slot()

    def evaluate(self, order: EvaluateOrder, weights: Callable[[str], File]) -> EvaluateReply:
        """Order a scoring, and return the site's reply; an ensemble's members travel one after the other.

        Args:
            order: the scoring.
            weights: returns the file of the weights with a digest.

        Raises:
            Absent: the site is away for longer than `patience`, or has left the study.
            Parked: the scoring cannot be finished for another reason.
        """
        models = order.members or files_of(order.weights, order)
        order = order.model_copy(update={"acknowledged": self._acknowledged(models)})
        sends = bool(models) and models[0] != self.held
        return self._ask_with_each(order, models, weights, EVALUATE, EvaluateReply, order.key, sends=sends)

    def deliver(self, delivery: Delivery, weights: Callable[[str], File]) -> None:
        """Deliver weights for the site to keep; the weights travel only if the site lacks them.

        Args:
            delivery: the message.
            weights: returns the file of the weights with a digest.

        Raises:
            Absent: the site is away for longer than `patience`, or has left the study.
            Parked: the delivery failed for another reason.
        """
        digest = delivery.models[delivery.row]
        models = delivery.members or files_of(digest, delivery)
        self._ask_with_each(delivery, models, weights, DELIVER, Receipt, digest, sends=False)

    def acknowledge(self, key: str, weights: str) -> None:
        """Note a result as stored at the coordinator; the next order tells the site.

        Args:
            key: the key of the stage.
            weights: the digest of the weights, which the site may then delete.
        """
        self._unacknowledged[key] = weights

    def _acknowledged(self, but: tuple[str, ...]) -> tuple[str, ...]:
        """Return the keys of results whose weights the site may delete, apart from the weights of the next order."""
        keys = tuple(key for key, digest in self._unacknowledged.items() if digest not in but)
        for key in keys:
            if self._unacknowledged.pop(key) == self.held:
                self.held = ""
        return keys

    def _ask_with_each(
        self,
        message: EvaluateOrder | Delivery,
        models: Sequence[str],
        weights: Callable[[str], File],
        type_: str,
        kind: type[Finished],
        group: str,
        *,
        sends: bool,
    ) -> Finished:
        """Send a message until the site has all weights it needs, and return the last reply.

        Args:
            message: the message, which is sent again for each weights file that the site requests.
            models: the digests of the weights files: several of an ensemble.
            weights: returns the file of the weights with a digest.
            type_: see `_ask`.
            kind: see `_ask`.
            group: see `_ask`.
            sends: whether the first message brings the first file; otherwise the site is asked whether it has it.

        Raises:
            Parked: the site requests a file that came before, or see `_ask`.
        """
        member = restarts = 0
        while True:
            file = partial(weights, models[member]) if sends else None
            reply, _ = self._ask(message.model_copy(update={"member": member}), file, type_, kind, group)
            if isinstance(reply, EvaluateReply) and reply.key != group:
                raise Parked("it answered another stage than it was asked for")
            if reply.state == "done":
                return reply
            # A site that lost what it had begins with the first member again.
            restarts += reply.member < member
            if reply.member >= len(models) or (sends and reply.member == member) or restarts == TRIES:
                raise Parked("it asks for weights that came along")
            member, sends = reply.member, True

    def _ask(
        self,
        message: WireMessage,
        weights: GetFile | None,
        type_: str,
        kind: type[Reply],
        group: str,
        hear: Hear = lambda *_: None,
    ) -> tuple[Reply, Weights | None]:
        """Send a message until the site replies, and return the reply with its weights.

        Args:
            message: the message.
            weights: returns the file of the weights to send along; None to send no weights.
            type_: Flower's type of the message.
            kind: the declared answer.
            group: Flower's group of the message, such as a stage's key.
            hear: is called with the progress of the order.

        Raises:
            TrainingFailed: the training diverged.
            Absent: the site is away for longer than `patience`, or has left the study.
            RefusedBySite: the site refuses the order, also in every repetition of the order; `UnfitStart` if it refuses
                the weights.
            Parked: the reply is not the declared message, or the message is lost again and again.
        """
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
            if reply.error.code == Refusal.UNFIT_START:
                raise UnfitStart(reason)
            if reply.error.code in FINAL:
                break
        raise RefusedBySite(reason)

    def _send(self, message: WireMessage, weights: GetFile | None, type_: str, group: str, hear: Hear) -> Message:
        """Send an order and return its reply; a lost order is sent again, since a site runs a stage only once."""
        for loss in range(LOSSES):
            # Flower accepts a message for an absent node, but returns an error as the reply at once.
            session = self._wait_for_site()
            order = self._push_with(weights, message, type_, group)
            reply = self._await(order, session, message.study, hear) if order else None
            if reply is not None and not _lost(reply):
                return reply
            log.warning("Site %s: an order or its answer was lost on the way; it is sent again.", self.site)
            time.sleep(min(60.0, 2.0**loss))
        raise Parked(f"an order was lost on the way {LOSSES} times in a row")

    def _push_with(self, weights: GetFile | None, message: WireMessage, type_: str, group: str) -> str:
        """Push an order; its weights are read once a transfer slot is free, and the slot is released after the push."""
        if weights is None:
            return self._push(to_record(message), type_, group)
        with TRANSFER_SLOTS:
            loaded = weights()
            self.traffic.sent[self.site] += size_in_bytes(loaded)
            return self._push(to_record(message, loaded), type_, group)

    def _push(self, record: RecordDict, type_: str, group: str) -> str:
        """Push a message, and return its id; the id is empty if Flower did not accept the message."""
        assert self.node_id is not None, "it was never seen"
        self.traffic.messages[self.site] += 1
        out = Message(record, dst_node_id=self.node_id, message_type=type_, group_id=group[:16], ttl=TTL)
        return next(iter(retry_on_server_error(lambda: self.grid.push_messages([out]))), "")

    def _pull(self, order: str) -> Message | None:
        """Return the reply to an order, or None if no reply has arrived yet.

        A reply with weights keeps a transfer slot until `release_slot`.
        """
        TRANSFER_SLOTS.acquire()
        keeps = False
        try:
            # One id at a time: for several ids the SuperLink holds finished replies back until all have arrived.
            reply = next(iter(retry_on_server_error(lambda: self.grid.pull_messages([order]))), None)
            with_weights = reply is not None and not reply.has_error() and bool(reply.content.array_records)
            keeps = with_weights and not self._holds_slot
            self._holds_slot |= keeps
        finally:
            if not keeps:
                TRANSFER_SLOTS.release()
        return reply

    def _await(self, order: str, session: str, study: str, hear: Hear) -> Message | None:
        """Return the reply to an order after any length of time, or None once the order is certainly lost.

        Flower reports neither an order lost in a site's restart nor a reply that a site could not send. A site handles
        messages in the sequence of their pushes. The coordinator therefore pushes a question behind the order: if the
        site answers the question but not the order, the order is lost. The question is pushed after the site has come
        back, and after a long silence. A site at work for hours answers neither the order nor the question, and the
        coordinator goes on waiting. Questions may be lost as well, so further questions follow, each after twice the
        pause. The embedded grid, which loses nothing, is asked nothing: a question waits in the site's queue, and, like
        any description, prepares patients, whose progress nobody would hear.

        Args:
            order: the id of the order's message.
            session: the site's presence when the order was pushed; see `_session`.
            study: the digest of the study, for the question.
            hear: is called with the progress of the order.
        """
        began = time.monotonic()
        look, quiet, question = began + LOOK_EVERY, QUIET, ""
        ask = began + quiet
        while True:
            if (reply := self._pull(order)) is not None:
                self._listen(order, 0.0, hear)  # progress reported just before the reply
                return reply
            now = time.monotonic()
            if question and (answer := self._pull(question)) is not None:
                if not _lost(answer):
                    return self._pull(order)
                question, ask = "", now
            if now >= look:
                look = now + LOOK_EVERY
                there = self._session()
                if self._rest is _sleep and there is not None and (there != session or now >= ask):
                    quiet = QUIET if there != session else 2 * quiet
                    session, ask = there, now + quiet
                    question = self._push(to_record(Describe(study=study)), DESCRIBE, "question")
            # Polling adds at most a tenth of a second and a twentieth of the waiting time, and nothing where the grid
            # itself reports a reply, as the embedded grid does.
            self._listen(order, min(2.0, 0.1 + (now - began) / 20), hear)

    def _listen(self, order: str, seconds: float, hear: Hear) -> None:
        """Wait for a reply for some seconds, and pass on the progress reported by the grid."""
        for news in self._rest(order, seconds):
            hear(*news)

    def _session(self) -> str | None:
        """Return a text unique to the site's present connection; None while the site is away."""
        for node in retry_on_server_error(self.grid.get_nodes):
            # By name, where nodes have names: a site that was enrolled again with new keys is another node.
            known = node.name == self.site if node.name or self.node_id is None else node.node_id == self.node_id
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
        """Return whether the site is connected."""
        return self._session() is not None

    def _wait_for_site(self) -> str:
        """Wait until the site is connected, and return its presence; see `_session`.

        The absence counts from the moment at which any stage first found the site away.

        Raises:
            Absent: the site is away for longer than `patience`.
        """
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


def files_of(weights: str, message: EvaluateOrder | Delivery) -> tuple[str, ...]:
    """Return the digest of the weights file that travels with a message; nothing if all tensors are the site's own.

    Args:
        weights: the digest of the weights.
        message: names the file and the site's own tensors, if the site completes the weights.
    """
    if message.own:
        return (message.shared,) if message.shared else ()
    return (weights,)


def _sleep(_: str, seconds: float) -> tuple[()]:
    """Wait on a grid without reports of progress."""
    if seconds:
        time.sleep(seconds)
    return ()


def _lost(reply: Message) -> bool:
    """Return whether a reply is Flower's error for a lost order or a lost reply."""
    return reply.has_error() and reply.error.code in ON_THE_WAY


def away_for(seconds: float) -> str:
    """Return the length of a site's absence in words."""
    if seconds < 60:
        return "it was away"
    return f"it was away for {duration(seconds)}"
