"""A stage at a site: its order, its legs, a second try, and the resulting record or reason."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import RelayError
from common.model.network import declared, staying_names
from common.model.weights import UnfitWeights, Weights, check_fit
from common.plan.graph import Average, Best, Completed, Evaluate, FineTune, Refilled
from common.protocol.messages import EvaluateOrder, FineTuneOrder, FineTuneReply
from common.text import listed
from server.freed_memory import give_back
from server.ledger.ledger import Ledger, StageRecord
from server.ledger.records import of_scores, of_training
from server.scheduling.collapse import check_not_collapsed
from server.scheduling.largest_step import check_step
from server.scheduling.state import RunState
from server.scheduling.weight_owners import WeightOwners
from server.scheduling.work import Work
from server.transport.outcomes import Parked, RejectedWeights, TrainingFailed, UnfitStart
from server.transport.site_channel import SiteChannel, Traffic

log = logging.getLogger("relay.coordinator")


@dataclass(frozen=True)
class Dispatcher:
    """Sends stages to sites; the threads of several sites use the same dispatcher at the same time."""

    state: RunState
    channels: Mapping[str, SiteChannel]
    ledger: Ledger
    owners: WeightOwners
    work: Work
    traffic: Traffic

    def outcome(self, node: FineTune | Evaluate) -> StageRecord | Parked:
        """Return the record of a stage, made at its site if need be, or the reason why there is none; never raise."""
        channel = self.channels[node.site]
        try:
            # Two nodes may be the same work, such as the score of a round and the score of the best round.
            if (record := self.state.known(node)) is not None:
                return record
            began = time.monotonic()
            record = self._train(node) if isinstance(node, FineTune) else self._evaluate(node)
            self.ledger.put(record)
            if isinstance(node, FineTune):
                give_back()
                channel.acknowledge(record.key, record.weights)
            self.traffic.seconds[record.key] = time.monotonic() - began
            return record
        except UnfitStart as refused:
            return Parked(f"{refused}; they came from {self._sender(node)}")
        except Parked as parked:
            return parked
        except RelayError as error:  # such as damaged weights or a full disk
            return Parked(str(error))
        except OSError as error:
            return Parked(f"the coordinator's result folder {self.ledger.folder} cannot be written ({error.strerror})")
        except Exception as error:  # a thread must not end without an outcome
            return Parked(f"the coordinator failed ({type(error).__name__}: {error})")
        finally:
            channel.release_slot()

    def _train(self, node: FineTune) -> StageRecord:
        """Return the record of a training; a training whose result is rejected is repeated once, from its beginning."""
        try:
            return self._fine_tune(node)
        except RejectedWeights as rejected:
            if isinstance(rejected, TrainingFailed) and self.state.descriptions[node.site].device == "cpu":
                raise Parked(f"{rejected}; a repeat could only end the same") from None
            log.warning("Site %s: %s; the stage is repeated.", node.site, rejected)
            # Without this release, channels with a repeated stage could hold all transfer slots while each waits for
            # another slot.
            self.channels[node.site].release_slot()
            try:
                return self._fine_tune(node, restart_token=secrets.token_hex(8))
            except RejectedWeights as again:
                raise Parked(f"{again}, when repeated as well") from None

    def _fine_tune(self, node: FineTune, *, restart_token: str = "") -> StageRecord:
        """Order a training from its site and return its record, without a second try.

        Raises:
            Parked: the site cannot finish the training.
            RejectedWeights: the result must not go on to the next site.
        """
        parts = self.state.parts_before(node, self.state.records)
        order = FineTuneOrder(**self.state.order(node), parts=parts, restart_token=restart_token)
        self.work.report("running", node)

        def observe(epoch: int, dice: float | None) -> None:
            if node.trains:
                self.work.count(node, epoch / node.schedule.epochs, own=True)
            self.work.report("running", node, epoch, dice)

        file = order.shared or order.weights
        reply, weights = self.channels[node.site].fine_tune(
            order, lambda: self.ledger.file(file), observe, brings=node.stays != "everything"
        )
        self._check(node, reply, weights)
        if weights is not None and node.trains:
            check_step(weights, self.ledger.checked(file), self.state.study.largest_step)
        if weights is not None:
            self.owners.add(node, (reply.weights,))
            digest = self.ledger.put_weights(weights)
            if digest != reply.weights:
                self.owners.replace(node, named=reply.weights, came=digest)
                raise RejectedWeights("its weights are not those that it named; they changed on the way")
        return of_training(node, reply, parent=file)

    def _sender(self, node: FineTune | Evaluate) -> str:
        """Return who made the weights of a stage's order, in words."""
        given = node.parent if isinstance(node, FineTune) else node.weights
        while isinstance(given, Best | Completed | Refilled):
            if isinstance(given, Completed | Refilled):
                given = given.weights
            else:
                digest = self.state.records[given].weights if given in self.state.records else ""
                known = [one for one in given.candidates if one in self.state.records]
                given = next((one for one in known if self.state.records[one].weights == digest), given.candidates[0])
        if isinstance(given, FineTune):
            return f"site {given.site}"
        if isinstance(given, Average):
            return f"the average of {listed([part.site for part in given.parts])}"
        return "the coordinator"

    def _check(self, node: FineTune, reply: FineTuneReply, weights: Weights | None) -> None:
        """Check a reply and its weights.

        Raises:
            Parked: the reply does not match the ordered training.
            RejectedWeights: the weights do not fit the network, or the training collapsed.
        """
        if reply.epoch != node.schedule.epochs:
            raise Parked("it ended a stage after another number of epochs than it was asked for")
        described = self.state.descriptions[node.site].train_slices[node.fold]
        of_a_part = node.share is not None or node.without
        if reply.train_slices > described or (not of_a_part and reply.train_slices < described):
            raise Parked("it trained on another number of slices than it described")
        if bool(reply.own) != bool(node.stays):
            raise Parked("it kept other tensors for itself than the study says")
        if bool(reply.parts) != (node.trains and bool(declared(self.state.study.model).stays)):
            raise Parked("it kept other parts of the network for itself than the study says")
        try:
            if weights is not None:
                stays = staying_names(self.state.study.model, node.stays)
                check_fit(weights, self.state.study.model, without=stays)
        except UnfitWeights as error:
            raise RejectedWeights(f"its weights were refused: {error}") from None
        if node.trains:
            check_not_collapsed(reply, self.state.study.collapse)

    def _evaluate(self, node: Evaluate) -> StageRecord:
        """Return the record of a scoring.

        Raises:
            Parked: the site scored on more patients or slices than it has.
        """
        models = self.state.records[node.weights].models
        order = EvaluateOrder(**self.state.order(node), members=models if len(models) > 1 else ())
        self.work.report("running", node)
        reply = self.channels[node.site].evaluate(order, self.ledger.file)
        described = self.state.descriptions[node.site]
        if reply.patients > described.patients or reply.slices > described.slices:
            raise Parked("it scored on more patients or slices than it described")
        return of_scores(node, reply, models=models)
