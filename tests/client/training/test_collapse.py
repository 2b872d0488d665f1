"""A rule that stops a study never fires on a healthy training, and fires on a broken one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.training.batches import Slices
from client.training.collapse import against_received
from client.training.device import Device
from client.training.fine_tune import Trained, fine_tune
from common.config.study import TrainingConfig
from common.plan.graph import Schedule
from common.protocol.messages import FineTuneReply
from common.protocol.refusals import Refusal, Refused
from server.scheduling.collapse import SOUND, check_not_collapsed
from server.transport.outcomes import TrainingFailed

CPU = Device("cpu", "float32")
SHARE = 0.1
pytestmark = pytest.mark.usefixtures("one_thread")


class Toy(nn.Module):
    """Three layers with batch normalisation: a disc of another brightness is found within twenty steps."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 1, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def glands(seed: int, contrast: float, count: int) -> Slices:
    """Discs brighter or darker than what is round them."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    middle = 8 + random.uniform(-2, 2, (count, 2, 1, 1))
    masks = np.hypot(rows - middle[:, 0], columns - middle[:, 1]) < random.uniform(3, 5, (count, 1, 1))
    images = contrast * masks + random.normal(0, 0.4, masks.shape)
    images = (images - images.mean()) / images.std()
    return Slices(*(torch.from_numpy(array.astype(np.float32))[:, None] for array in (images, masks)))


def stage(
    network: nn.Module, train: Slices, validation: Slices, training: TrainingConfig, schedule: Schedule, seed: int
) -> Trained:
    *_, last = fine_tune(
        network,
        train,
        validation,
        training=training,
        schedule=schedule,
        seed_names=(seed, "toy"),
        device=CPU,
    )
    return last


def judged(
    received: nn.Module, kept: nn.Module, trained: Trained, train: Slices, validation: Slices, training: TrainingConfig
) -> FineTuneReply:
    """The site's answer, as far as the rule looks at it."""
    dice = trained.dices[trained.kept_epoch - 1]
    figures: dict[str, Any] = {}
    if dice < SHARE:
        figures = against_received(kept, copy.deepcopy(received), train, validation, training=training, device=CPU)
    return FineTuneReply(
        study="a" * 64,
        key="b" * 64,
        state="done",
        epoch=trained.epoch,
        losses=trained.losses,
        learning_rates=trained.learning_rates,
        dices=trained.dices,
        kept_epoch=trained.kept_epoch,
        **figures,
    )


def training_of(seed: int, **changes: Any) -> TrainingConfig:
    kinds = {"batch_norm": ("precise", "running")[seed % 2], "learning_rate": (1e-3, 5e-3, 2e-2)[seed % 3]}
    return TrainingConfig.model_validate({"batch": 4, "augmentation": "none", **kinds, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 200))])
def test_no_healthy_study_is_stopped(seed: int) -> None:
    """A route A → B → A and a round of one epoch on A's weights: the gland may be dark at B and bright at A, the steps
    few, the rate high, and the running averages behind the weights."""
    here, there = glands(seed, 1.5, 14), glands(seed + 1000, (1.5, 0.7, -1.5)[seed % 3], 14)
    here_validation, there_validation = glands(seed + 2000, 1.5, 6), glands(seed + 3000, (1.5, 0.7, -1.5)[seed % 3], 6)
    network, training = Toy(seed), training_of(seed)
    of_two, of_one = Schedule(2, 0, 2, "best"), Schedule(6, 3, 4, "last")
    stage(network, here, here_validation, training, of_two, seed)
    for train, validation, schedule in (
        (here, here_validation, of_one),
        (there, there_validation, of_two),
        (here, here_validation, of_two),
    ):
        received = copy.deepcopy(network)
        trained = stage(network, train, validation, training, schedule, seed + 1)
        network.load_state_dict(trained.kept)
        check_not_collapsed(judged(received, network, trained, train, validation, training), SHARE)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["masks of nothing", "masks turned inside out", "weights that were overwritten"])
@pytest.mark.parametrize("seed", range(20))
def test_a_broken_training_is_stopped(seed: int, fault: str) -> None:
    train, validation = glands(seed, 1.5, 14), glands(seed + 2000, 1.5, 6)
    training = training_of(seed, learning_rate=3e-2, batch_norm="precise")
    network, schedule = Toy(seed), Schedule(8, 0, 8, "last")
    stage(network, train, validation, training, schedule, seed)
    received = copy.deepcopy(network)
    shown = {
        "masks of nothing": Slices(train.images, torch.zeros_like(train.masks)),
        "masks turned inside out": Slices(train.images, 1 - train.masks),
    }.get(fault, train)
    trained = stage(network, shown, validation, training, schedule, seed + 1)
    if fault == "weights that were overwritten":
        network.layers[6].bias.data.fill_(-100.0)  # type: ignore[union-attr, operator]
        trained = replace(trained, dices=(*trained.dices[:-1], 0.0))
    reply = judged(received, network, trained, train, validation, training)
    assert reply.received_dice >= SOUND
    with pytest.raises(TrainingFailed, match="collapsed to"):
        check_not_collapsed(reply, SHARE)


def overflowing(seed: int) -> Toy:
    """A network of finite weights whose predictions are not finite."""
    network = Toy(seed)
    for parameter in network.layers[6].parameters():
        parameter.data.fill_(3e38)
    return network


BCE = training_of(0, loss="bce")


def test_kept_weights_whose_loss_is_not_finite_are_a_diverged_training() -> None:
    train, validation = glands(0, 1.5, 14), glands(1, 1.5, 6)
    with pytest.raises(Refused) as refusal:
        against_received(overflowing(0), Toy(0), train, validation, training=BCE, device=CPU)
    assert refusal.value.refusal == Refusal.DIVERGED


def test_received_weights_whose_loss_is_not_finite_are_nothing_to_compare_with() -> None:
    """The training made something of them: it has not diverged, and no rule may stop it."""
    train, validation = glands(0, 1.5, 14), glands(1, 1.5, 6)
    assert against_received(Toy(0), overflowing(0), train, validation, training=BCE, device=CPU) == {}
