"""Sites without images behind Flower's Grid: they answer at once what a test tells them to, in one process."""

from __future__ import annotations

import json
import threading
import time
import types
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun

import common.model.network
import common.model.weights
from common.config.study import Study
from common.digest import digest_of
from common.model.weights import Weights, serialised
from common.plan import Plan, plan
from common.plan.graph import Evaluate, FineTune
from common.plan.stage_key import completed_digest
from common.protocol.codec import from_record, to_record
from common.protocol.messages import (
    DELIVER,
    DESCRIBE,
    FINE_TUNE,
    Delivery,
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    Receipt,
    WireMessage,
)
from common.seeds import seed_of
from deploy.simulation.local_grid import RUN_ID, enter_run
from server.descriptions import describe_all
from server.initial_weights import start_of
from server.ledger.ledger import Ledger
from server.progress.events import Event
from server.scheduling import dispatch, work
from server.scheduling.scheduler import Scheduler
from server.scheduling.state import RunState, census_of
from server.transport import retry, site_channel
from server.transport.site_channel import SiteChannel, Traffic, files_of

SHAPES = {"count": ((), torch.int64), "layer": ((2, 3), torch.float32)}
NORM = frozenset({"count"})
"""What stays at a site where batch norm does."""
SLICES = {"A": (10, 11), "B": (20, 21), "C": (33, 34)}
START = {"count": torch.tensor(5), "layer": torch.zeros(2, 3)}
Answer = tuple[WireMessage, Weights | None] | Error


def study_of(**methods: Any) -> Study:
    """Three sites, two folds, two epochs, batches of four; no method but those given."""
    none = {"baseline": False, "longer_baseline": False, "pooled": False, "federated": (), "forgetting": False}
    sequential = {"sequential": {"routes": "none"}}
    return Study.model_validate(
        {
            "sites": ("A", "B", "C"),
            "split": {"folds": 2},
            "training": {"epochs": 2, "batch": 4, "slices": "chosen"},
            "collapse": 0.0,  # scores are drawn, and fall by chance
            "methods": {**none, **sequential, **methods},
        }
    )


def batches(slices: int) -> int:
    """Batches of four, counted: a single slice left over joins the batch before it."""
    return {10: 3, 11: 3, 20: 5, 21: 5, 33: 8, 34: 9}[slices]


def _score(node: Evaluate | FineTune, weights: str) -> float:
    kind = node.split if isinstance(node, Evaluate) else str(node.schedule)
    return seed_of(node.site, node.fold, kind, weights) / 2**63


class FakeGrid(Grid):
    """Three nodes, each with a thread of its own for a message. `change` may spoil a site's answer."""

    def __init__(self, study: Study, change: Callable[[str, WireMessage, Answer], Answer] | None = None) -> None:
        enter_run(0)
        self.study, self.change = study, change
        self.sites = dict(enumerate(study.sites, start=1))
        self.held: dict[str, dict[str, Weights]] = defaultdict(dict)
        self.kept: dict[str, dict[str, Weights]] = defaultdict(dict)
        """By site and digest, the tensors that never left."""
        self.asked: list[tuple[str, WireMessage, bool]] = []
        """Site, order, and whether weights came along."""
        self.gathered: Counter[tuple[str, str]] = Counter()
        """By site and stage or role, how many members of an ensemble have arrived."""
        self.received: dict[str, dict[str, str]] = defaultdict(dict)
        """By site and role, the digest of the weights that were delivered."""
        self.busy: Counter[str] = Counter()
        self.most_at_a_site = 0
        self.score: Callable[[Evaluate | FineTune, str], float] = _score
        """Of a stage, from the digest of its weights: two nodes may be the same work."""
        self._replies: dict[str, Message] = {}
        self._lock = threading.Lock()
        self._plans: dict[str, Plan] = {}

    @property
    def plan(self) -> Plan:
        return self.planned("{}")

    def planned(self, choices: str) -> Plan:
        """The plan as a site makes it, from the hops that an order names."""
        if choices not in self._plans:
            census = {site: SLICES[site] for site in self.study.sites}
            hops = {target: tuple(selected) for target, selected in json.loads(choices).items()}
            self._plans[choices] = plan(self.study, census, hops)
        return self._plans[choices]

    def orders(self, kind: type[WireMessage] = WireMessage) -> list[WireMessage]:
        return [order for _, order, _ in self.asked if isinstance(order, kind)]

    def answer(self, site: str, kind: str, record: RecordDict) -> Answer:
        if kind == DESCRIBE:
            return self.describe(site), None
        if kind == DELIVER:
            return self.take(site, *from_record(record, Delivery))
        order, weights = from_record(record, FineTuneOrder if kind == FINE_TUNE else EvaluateOrder)
        with self._lock:
            self.asked.append((site, order, weights is not None))
        for key in order.acknowledged:
            self.held[site].pop(key, None)
        self.check_own(site, order)
        if isinstance(order, EvaluateOrder):
            missing = self.missing(
                site, order.key, order.members or files_of(order.weights, order), order.member, weights
            )
            lacks = EvaluateReply(study=order.study, key=order.key, state="needs-weights", member=missing or 0)
        else:
            file = order.shared or order.weights
            weights = weights or self.at(site, file)
            missing = 0 if weights is None else None
            lacks = FineTuneReply(study=order.study, key=order.key, state="needs-weights")
            assert weights is None or digest_of(serialised(weights)) == file
        if missing is not None:
            return (lacks, None) if self.change is None else self.change(site, order, (lacks, None))
        node = self.planned(order.choices).by_id[order.node]
        answer = self.train(node, order, weights) if isinstance(node, FineTune) else self.evaluate(node, order)
        return answer if self.change is None else self.change(site, order, answer)

    def check_own(self, site: str, order: FineTuneOrder | EvaluateOrder | Delivery) -> None:
        """Whether the site has kept the tensors of its own that an order names."""
        if order.own:
            assert order.own in self.kept[site], "it never kept such tensors"
            whole = order.models[order.row] if isinstance(order, Delivery) else order.weights
            assert completed_digest(order.shared, order.own) == whole

    def at(self, site: str, digest: str) -> Weights | None:
        """Weights that a site has trained and not yet put away."""
        return next((w for w in self.held[site].values() if digest_of(serialised(w)) == digest), None)

    def missing(self, site: str, what: str, models: tuple[str, ...], came: int, weights: Weights | None) -> int | None:
        """The place of the next weights that a site needs; None where all have arrived."""
        for number in range(self.gathered[site, what], len(models)):
            found = weights if weights is not None and number == came else self.at(site, models[number])
            if found is None:
                return number
            assert digest_of(serialised(found)) == models[number]
            self.gathered[site, what] = number + 1
        return None

    def describe(self, site: str) -> Description:
        count = len(SLICES[site])
        return Description(
            study=self.study.digest,
            site=site,
            patients_found=9,
            prepared=9,
            patients=9,
            test_patients=2,
            test_slices=6,
            slices=50,
            train_slices=SLICES[site],
            train_patients=(4,) * count,
            validation_patients=(3,) * count,
            fingerprint=f"{seed_of(site):064x}",
            torch="2.13.0",
            device="cpu",
            precision="float32",
        )

    def train(self, node: FineTune, order: WireMessage, weights: Weights) -> Answer:
        assert isinstance(order, FineTuneOrder)
        weights = {**weights, **self.kept[node.site].get(order.own, {})}
        moved = {
            "count": weights["count"] + node.trains,
            # Halved, so that A after B is not B after A.
            "layer": weights["layer"] / 2
            + seed_of(node.site, node.fold, str(node.schedule), str(node.proximal_mu)) / 2**63,
        }
        leaving, own = self.divided(node, moved)
        self.held[node.site][order.key] = leaving
        left = digest_of(serialised(leaving)) if leaving else ""
        epochs = node.schedule.epochs
        reply = FineTuneReply(
            study=order.study,
            key=order.key,
            state="done",
            epoch=epochs,
            losses=(0.5,) * epochs,
            learning_rates=(1e-3,) * epochs,
            dices=(0.25,) * epochs,
            kept_epoch=epochs,
            gradient_steps=epochs * batches(SLICES[node.site][node.fold]),
            train_slices=SLICES[node.site][node.fold],
            train_patients=4,
            weights=left,
            own=own,
            validation_dice=self.score(node, order.weights),
            validation_dice_volume=self.score(node, order.weights) / 4,
            validation_patients=3,
        )
        return reply, leaving or None

    def divided(self, node: FineTune, made: Weights) -> tuple[Weights, str]:
        """What leaves after a training, and the digest of what stays."""
        stays = set(made) if node.stays == "everything" else NORM if node.stays else set()
        if not stays:
            return made, ""
        own = {name: tensor for name, tensor in made.items() if name in stays}
        digest = digest_of(serialised(own))
        self.kept[node.site][digest] = own
        return {name: tensor for name, tensor in made.items() if name not in stays}, digest

    def take(self, site: str, delivery: Delivery, weights: Weights | None) -> Answer:
        with self._lock:
            self.asked.append((site, delivery, weights is not None))
        self.check_own(site, delivery)
        digest = delivery.models[delivery.row]
        if digest not in self.received[site].values():
            models = delivery.members or files_of(digest, delivery)
            missing = self.missing(site, f"{delivery.role} {digest}", models, delivery.member, weights)
            if missing is not None:
                return Receipt(study=delivery.study, state="needs-weights", member=missing), None
        answer: Answer = (Receipt(study=delivery.study, state="done"), None)
        answer = answer if self.change is None else self.change(site, delivery, answer)
        if not isinstance(answer, Error):
            self.received[site][delivery.role] = digest
        return answer

    def evaluate(self, node: Any, order: WireMessage) -> Answer:
        assert isinstance(node, Evaluate) and isinstance(order, EvaluateOrder)
        score = self.score(node, order.weights)
        reply = EvaluateReply(
            study=order.study,
            key=order.key,
            state="done",
            dice=score,
            iou=score / 2,
            dice_volume=score / 4,
            false_slices=3,
            empty_slices=7,
            patients=5,
            slices=6,
            volume_error_ml=-score if node.split == "test" else 0.0,
            absolute_volume_error_ml=2 * score if node.split == "test" else 0.0,
            volume_patients=5 if node.split == "test" else 0,
            dice_apex=score / 8 if node.split == "test" else 0.0,
            dice_middle=score / 2 if node.split == "test" else 0.0,
            dice_base=score / 4 if node.split == "test" else 0.0,
            thirds_patients=4 if node.split == "test" else 0,
            calibration_error=score / 16 if node.split == "test" else 0.0,
            calibration_patients=5 if node.split == "test" else 0,
            case_numbers=(1, 2, 3, 5, 8),
            case_slices=(1, 1, 1, 1, 2),
            case_dices=(score,) * 5,
            case_ious=(score / 2,) * 5,
            case_volume_dices=(score / 4,) * 5,
        )
        return reply, None

    def set_run(self, run: FlowerRun) -> None:
        raise NotImplementedError

    @property
    def run(self) -> FlowerRun:
        return FlowerRun.create_empty(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.sites)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=site, status="online") for node, site in self.sites.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(uuid.uuid4().hex)
            message.metadata.__dict__["_message_id"] = ids[-1]
            threading.Thread(target=self._work, args=(message,), daemon=True).start()
        return ids

    def _work(self, message: Message) -> None:
        site = self.sites[message.metadata.dst_node_id]
        with self._lock:
            self.busy[site] += 1
            self.most_at_a_site = max(self.most_at_a_site, self.busy[site])
        try:
            answer = self.answer(site, message.metadata.message_type, message.content)
        except Exception as error:  # told to the test as a reason that nobody else gives
            answer = Error(4711, f"{type(error).__name__}: {error}")
        with self._lock:
            self.busy[site] -= 1
        if isinstance(answer, Error):
            reply = Message(answer, reply_to=message)
        else:
            reply = Message(to_record(*answer), reply_to=message)
        self._replies[message.metadata.message_id] = reply

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        waiting = list(self.push_messages(messages))
        while not all(key in self._replies for key in waiting):
            time.sleep(0.001)
        return self.pull_messages(waiting)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of two tensors, and no pauses."""
    make_quick(monkeypatch)


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (common.model.weights, common.model.network):
        monkeypatch.setattr(module, "declared_shapes", lambda _: SHAPES)
    monkeypatch.setattr(common.model.network, "norm_names_of", lambda _: NORM)
    sleep = time.sleep
    clock = types.SimpleNamespace(sleep=lambda seconds: sleep(min(seconds, 0.001)), monotonic=time.monotonic)
    for module in (retry, site_channel, dispatch, work):
        monkeypatch.setattr(module, "time", clock)


def go(
    grid: FakeGrid,
    folder: Path,
    events: list[Event] | None = None,
    *,
    keep_weights: bool = False,
    scarce: bool = False,
) -> RunState:
    """Run the grid's study into a folder; returns what the run came to."""
    ledger = Ledger(folder)
    try:
        traffic = Traffic()
        observe = (events if events is not None else []).append
        channels = {site: SiteChannel(grid, site, node, traffic) for node, site in grid.sites.items()}
        descriptions = describe_all(grid.study, channels, observe)
        state = RunState(
            grid.study,
            plan(grid.study, census_of(descriptions)),
            descriptions,
            start_of(grid.study, ledger, source="", weights=lambda: START),
            lookup=ledger.get,
            has_weights=ledger.has,
            scarce=scarce,
        )
        return Scheduler(
            state, channels=channels, ledger=ledger, observe=observe, traffic=traffic, keep_weights=keep_weights
        ).run()
    finally:
        ledger.close()
