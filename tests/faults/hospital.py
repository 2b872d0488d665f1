"""The real client app and coordinator on a network of seven numbers, without images.

A training is arithmetic that depends on the weights it starts from, the site, the fold, the epoch and the momentum
carried over from the epoch before: a wrong order, stale weights or a leg that lost its place shows in the digest.
Scores are drawn from the weights, so that every choice hangs on them. What costs time and decides nothing here is
left out (images, drawings, pages, deliveries of finished models) or worked out once (plans, intervals, the parsing of
study files).
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import client.evaluation.scoring
import client.governance.approval
import client.stages.describe
import client.stages.evaluate
import client.stages.fine_tune
import client.stages.order
import common.model.network
import common.model.weights
import server.results.rows
import server.study_run
from client.evaluation.calibration import Reliability
from client.evaluation.evaluate import CaseScore
from client.preprocessing.pipeline import Prepared, Record
from client.site_config import SiteConfig
from client.training.fine_tune import Trained
from common.config.study import Study, load_study
from common.model.weights import Weights
from common.plan import plan
from common.plan.graph import Schedule
from common.protocol.refusals import Refusal, Refused
from common.seeds import seed_of
from common.statistics.intervals import case_interval
from server.deliveries import Deliveries
from server.scheduling import state

SHAPES = {"count": ((), torch.int64), "layer": ((2, 3), torch.float32)}
PATIENTS = {"A": 6, "B": 7, "C": 8}


def first_weights() -> Weights:
    return {"count": torch.tensor(5), "layer": torch.tensor(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3))}


def drawn(*names: str | int) -> float:
    """A number from 0 to 1 that depends on names alone."""
    return seed_of(*names) / 2**63


def content_of(weights: Weights) -> str:
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


class Network:
    """What stands in the place of a network."""

    def __init__(self) -> None:
        self.weights: Weights = {}

    def load_state_dict(self, weights: Weights) -> None:
        self.weights = {name: tensor.clone() for name, tensor in weights.items()}


def next_epoch(
    layer: np.ndarray, momentum: np.ndarray, names: tuple[str | int, ...], epoch: int, schedule: Schedule, mu: float
) -> tuple[np.ndarray, np.ndarray]:
    """What an epoch makes of a layer and of the optimizer's state."""
    pull = [drawn(*names, epoch, schedule.total_epochs, str(mu), k) - 0.5 for k in range(layer.size)]
    momentum = 0.9 * momentum + np.reshape(pull, layer.shape)
    return (layer.astype(np.float64) / 2 + momentum).astype(np.float32), momentum


class Hospitals:
    """What differs from one history to the next.

    Args:
        sleep: of the clock in which an epoch takes `epoch_seconds`.
        diverges: trainings, as `training_name` names them, that end in values which are not finite.
    """

    def __init__(self, sites: dict[str, SiteConfig], sleep: Callable[[float], None], epoch_seconds: float) -> None:
        self.sites, self.sleep, self.epoch_seconds = sites, sleep, epoch_seconds
        self.trained: list[str] = []
        self.diverges: set[str] = set()

    def fine_tune(
        self,
        network: Network,
        *_: object,
        schedule: Schedule,
        seed_names: tuple[str | int, ...],
        proximal_mu: float,
        resume: Trained | None,
        **__: object,
    ) -> Iterator[Trained]:
        name = f"{seed_names}, {schedule}, {content_of(network.weights)}"
        self.trained.append(name)
        state = resume or Trained()
        current = resume.current if resume else network.weights
        count, layer = int(current["count"]), current["layer"].numpy()
        momentum = resume.optimizer["momentum"].numpy() if resume else np.zeros(layer.shape)
        for epoch in range(schedule.first + state.epoch, schedule.last):
            self.sleep(self.epoch_seconds)
            if name in self.diverges:
                raise Refused(Refusal.DIVERGED)
            layer, momentum = next_epoch(layer, momentum, seed_names, epoch, schedule, proximal_mu)
            count += 1
            done = epoch + 1 - schedule.first
            weights = {"count": torch.tensor(count), "layer": torch.tensor(layer)}
            dice = drawn("epoch", *seed_names, content_of(weights))
            best = not state.dices or dice > max(state.dices)
            better = done == schedule.epochs if schedule.keep == "last" else best
            state = Trained(
                epoch=done,
                losses=(*state.losses, drawn("loss", content_of(weights))),
                learning_rates=(*state.learning_rates, 1e-3 / (1 + epoch)),
                dices=(*state.dices, dice),
                gradient_steps=state.gradient_steps + 3,
                kept_epoch=done if better else state.kept_epoch,
                kept=weights if better else state.kept,
                current=weights,
                optimizer={"momentum": torch.tensor(momentum)},
            )
            yield state

    def re_estimated(self, network: Network, *_: object) -> Trained:
        """What an estimate of batch norm's statistics makes of weights: another layer, and no count of steps."""
        self.sleep(self.epoch_seconds / 3)
        layer = network.weights["layer"]
        return Trained(kept={"count": network.weights["count"], "layer": layer * 0.75 + 0.125})

    def scores(
        self, network: Network, records: list[Record], *_: object, surfaces: bool = False, **__: object
    ) -> list[CaseScore]:
        content = content_of(network.weights)
        return [
            CaseScore(
                patient=record.patient,
                slices=record.selected,
                dice=drawn("dice", record.patient, content),
                iou=drawn("iou", record.patient, content),
                dice_volume=drawn("volume", record.patient, content),
                hd95_mm=3.5 if surfaces else None,
                assd_mm=1.25 if surfaces else None,
                volume_error_ml=drawn("error", record.patient, content) - 0.5,
                **{key: drawn(key, record.patient, content) for key in ("dice_apex", "dice_middle", "dice_base")},
                reliability=Reliability((2, 2), (0.0, 2 * drawn("sure", record.patient, content)), (0, 1)),
            )
            for record in records
        ]


@functools.cache
def records_of(site: str) -> tuple[Record, ...]:
    return tuple(
        Record(
            patient=f"{site}{k}",
            site=site,
            path=Path(),
            slices=9,
            selected=4 + seed_of(site, k) % 4,
            below=1,
            digest=f"{seed_of(site, k, 'digest'):064x}",
            beyond=0.0,
            ceiling=0.99,
            image_digest=f"{seed_of(site, k, 'image'):064x}",
        )
        for k in range(PATIENTS[site])
    )


def prepared(site: SiteConfig, *_: object, **__: object) -> Prepared:
    records = records_of(site.name)
    return Prepared(records, total=len(records), done=len(records), left_out=0)


@functools.cache
def _study_of(content: bytes, path: Path) -> Study:
    return load_study(path)


def study_from(path: Path) -> Study:
    """`load_study`, each content once."""
    return _study_of(path.read_bytes(), path) if path.exists() else load_study(path)


PLANS: dict[Any, Any] = {}
DIGESTS: dict[int, tuple[Study, str]] = {}
INTERVALS: dict[Any, Any] = {}


def planned(study: Study, census: Any, choices: Any = None, *, at: str | None = None) -> Any:
    """`plan`, each once: it is a pure function."""
    key = (
        study.digest,
        at,
        *(str(sorted((name, tuple(v)) for name, v in (part or {}).items())) for part in (census, choices)),
    )
    if key not in PLANS:
        PLANS[key] = plan(study, census, choices, at=at)
    return PLANS[key]


def interval(dice: dict[str, float], slices: dict[str, int], **named: Any) -> Any:
    key = str((dice, slices, named))
    if key not in INTERVALS:
        INTERVALS[key] = case_interval(dice, slices, **named)
    return INTERVALS[key]


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """All of production code on the tiny network, for this module's tests alone; what a history brings in addition is
    put in by it."""
    stages = {
        client.stages.fine_tune: ("fine_tune", "re_estimated", "predictions", "validated"),
        client.stages.evaluate: ("evaluate", "predictions", "validated"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for module, names in stages.items():  # histories overlap, and the one that ends last may put back another's
            for name in names:
                patch.setattr(module, name, getattr(module, name))
        put_in_place(patch)
        yield


def put_in_place(patch: pytest.MonkeyPatch) -> None:
    for module in (common.model.weights, common.model.network):
        patch.setattr(module, "declared_shapes", lambda _: SHAPES)
    patch.setattr(common.model.network, "norm_names_of", lambda _: frozenset({"count"}))
    for module in (client.stages.order, server.study_run, state):
        patch.setattr(module, "plan", planned)
    for module in (client.governance.approval, server.study_run):
        patch.setattr(module, "load_study", study_from)
    for module in (client.stages.fine_tune, client.stages.evaluate):
        patch.setattr(module, "standards", lambda *_: {})
    digest = Study.digest.fget
    assert digest is not None

    def known_digest(study: Study) -> str:
        if id(study) not in DIGESTS:
            DIGESTS[id(study)] = study, digest(study)
        return DIGESTS[id(study)][1]

    patch.setattr(Study, "digest", property(known_digest))
    for module in (client.stages.describe, client.stages.order):
        patch.setattr(module, "prepare", prepared)
    patch.setattr(client.evaluation.scoring, "build_undrawn", lambda *_, **__: Network())
    patch.setattr(client.stages.evaluate, "place", lambda *_: None)
    patch.setattr(client.stages.evaluate, "add_to_page", lambda *_, **__: None)
    patch.setattr(client.stages.fine_tune, "standardised_slices", lambda *_, **__: None)
    patch.setattr(client.stages.fine_tune, "check_received", lambda *_, **__: 0.0)
    patch.setattr(server.study_run, "write_report", lambda _: None)
    patch.setattr(server.study_run, "deliver", lambda *_: Deliveries())
    patch.setattr(server.study_run, "recording", lambda folder, study, observe, **_: nullcontext(observe))
    patch.setattr(server.study_run, "start_weights", lambda *_: first_weights())
    patch.setattr(server.results.rows, "case_interval", interval)
    versions = functools.cache(server.results.rows.importlib.metadata.version)
    patch.setattr(server.results.rows.importlib.metadata, "version", versions)
    for name in ("relay.site", "relay.coordinator", "flwr"):
        patch.setattr(logging.getLogger(name), "disabled", True)
