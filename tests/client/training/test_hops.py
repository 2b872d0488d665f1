"""A second or later training at a site: its rates, the frozen encoder, the teacher and the pull."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.training.distillation import Teacher, distillation_loss
from client.training.fine_tune import Trained, fine_tune
from client.training.recipe import learning_rate
from common.config.study import TrainingConfig
from common.plan.graph import Hop, Schedule
from tests.client.training.test_fine_tune import CPU, slices_of, training_of
from tests.client.training.test_fine_tune import frozen as copied

pytestmark = pytest.mark.usefixtures("one_thread")


class Encoded(nn.Module):
    """An encoder with batch normalisation and dropout, and a decoder with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3))
        self.decoder = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.decoder(self.encoder(x))
        return out


def received() -> nn.Module:
    """A network that another site has trained: statistics and counts of another site's slices."""
    network = Encoded()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.fill_(0.5)
                module.running_var.fill_(2.0)
    return network


def trained(network: nn.Module, training: TrainingConfig, hop: Hop | None, **more: Any) -> list[Trained]:
    states = fine_tune(
        network,
        slices_of(10),
        slices_of(5, seed=9),
        training=training,
        schedule=Schedule(4, 0, 4, "last"),
        seed_names=(1, "A", 0),
        device=CPU,
        hop=hop,
        **more,
    )
    return [copied(state) for state in states]


@pytest.mark.parametrize("low", [0.0, 1e-5])
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_warm_up_is_linear_and_then_the_cosine_takes_what_is_left(warmup: int, low: float) -> None:
    training = training_of(learning_rate=1e-3, final_learning_rate=low)
    hop = Hop(learning_rate=2e-4, warmup_epochs=warmup)
    schedule = Schedule(8, 0, 8, "best")
    rates = [learning_rate(schedule, epoch, training, hop) for epoch in range(8)]
    by_hand = [2e-4 * k / (warmup + 1) for k in range(1, warmup + 1)]
    left = 8 - warmup
    by_hand += [(2e-4 + low) / 2 + (2e-4 - low) / 2 * math.cos(k / left * math.pi) for k in range(left)]
    assert rates == pytest.approx(by_hand, rel=1e-12)
    assert rates[warmup] == pytest.approx(2e-4) == max(rates)


def test_the_parts_of_a_routes_cosine_are_the_rates_of_one_cosine() -> None:
    training = training_of(learning_rate=3e-3, final_learning_rate=1e-4)
    rates = [
        learning_rate(Schedule(12, first, first + 4, "best"), epoch, training)
        for first in (0, 4, 8)
        for epoch in range(first, first + 4)
    ]
    by_hand = [1e-4 + 2.9e-3 * (1 + math.cos(math.pi * k / 12)) / 2 for k in range(12)]
    assert rates == pytest.approx(by_hand, rel=1e-12)


def test_the_rates_of_a_training_are_those() -> None:
    states = trained(received(), training_of(learning_rate=1e-3), Hop(learning_rate=4e-4, warmup_epochs=1))
    assert states[-1].learning_rates == pytest.approx((2e-4, 4e-4, 3e-4, 1e-4))


@pytest.mark.parametrize("statistics", ["precise", "running"])
def test_a_frozen_encoder_keeps_its_weights_and_the_decoder_learns(statistics: str) -> None:
    before = {name: tensor.clone() for name, tensor in received().state_dict().items()}
    states = trained(received(), training_of(batch_norm=statistics, weight_decay=0.01), Hop(freeze="encoder"))
    after = states[-1].kept
    encoder = [name for name in before if name.startswith("encoder.")]
    moved = {name for name in encoder if not torch.equal(before[name], after[name])}
    of_norm = {"encoder.1.running_mean", "encoder.1.running_var"}
    assert moved == (of_norm if statistics == "precise" else set())
    parameters = [name for name in before if name.startswith("decoder.") and name.endswith(("weight", "bias"))]
    # A bias before batch normalisation has no effect, and is moved by weight decay alone.
    assert all(not torch.equal(before[name], after[name]) for name in parameters)
    if statistics == "precise":
        with torch.no_grad():
            out = received().encoder[0](slices_of(10).images)  # type: ignore[index]
        assert torch.allclose(after["encoder.1.running_mean"], out.mean((0, 2, 3)), atol=1e-6)
        assert torch.allclose(after["encoder.1.running_var"], out.var((0, 2, 3), unbiased=False), atol=1e-5)
        for state in states[:-1]:
            assert torch.equal(state.current["encoder.1.running_mean"], after["encoder.1.running_mean"])


def test_what_a_frozen_encoder_shows_the_decoder_is_the_sites_own() -> None:
    """A first step by hand: the encoder in evaluation mode, with the statistics of this site's slices."""
    training = training_of(augmentation="none", batch=10, epochs=1, loss="bce")
    (state,) = fine_tune(
        received(),
        slices_of(10),
        slices_of(5, seed=9),
        training=training,
        schedule=Schedule(1, 0, 1, "last"),
        seed_names=(1, "A", 0),
        device=CPU,
        hop=Hop(freeze="encoder"),
    )
    network = received()
    slices = slices_of(10)
    convolved = network.encoder[0](slices.images).detach()  # type: ignore[index]
    mean, var = convolved.mean((0, 2, 3), keepdim=True), convolved.var((0, 2, 3), unbiased=False, keepdim=True)
    shown = torch.relu((convolved - mean) / torch.sqrt(var + 1e-5))  # without dropout
    logits = network.decoder.train()(shown)  # type: ignore[operator]
    loss = torch.log1p(torch.exp(-logits * (2 * slices.masks - 1))).mean()
    assert state.losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_teachers_loss_is_the_formula(temperature: float) -> None:
    """Li and Hoiem's: cross-entropy of the two classes' probabilities, each to the power 1/T and normalised."""
    generator = np.random.default_rng(0)
    mine, taught = generator.normal(0, 3, (2, 3, 1, 4, 4))

    def softened(logits: Any) -> Any:
        gland = 1 / (1 + np.exp(-logits))
        powers = np.stack([gland, 1 - gland]) ** (1 / temperature)
        return powers / powers.sum(0)

    by_hand = -(softened(taught) * np.log(softened(mine))).sum(0).mean()
    found = distillation_loss(torch.tensor(mine), torch.tensor(taught), temperature)
    assert float(found) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.parametrize("statistics", ["precise", "running"])
def test_the_teacher_is_the_received_model_and_never_changes(statistics: str) -> None:
    network = received()
    images = slices_of(10).images
    teacher = Teacher(network, images, training_of(batch_norm=statistics), CPU)
    before = teacher.logits(images)
    plain = received().eval()
    if statistics == "running":
        assert torch.equal(before, plain(images))
    else:
        assert not torch.allclose(before, plain(images)), "its statistics are those of this site's slices"
        norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
        assert torch.allclose(before, plain(images), atol=1e-5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(teacher.logits(images), before)
    assert torch.equal(torch.rand(3), expected), "it draws no random number"
    assert not before.requires_grad


def test_a_heavy_teacher_holds_the_answers_back() -> None:
    images = slices_of(10).images
    training = training_of(learning_rate=3e-2)
    teacher = Teacher(received(), images, training, CPU)

    def away(hop: Hop | None) -> float:
        network = received()
        trained(network, training, hop)
        return float((network.eval()(images).sigmoid() - teacher.logits(images).sigmoid()).abs().mean().detach())

    assert away(Hop(distillation=30.0, temperature=2.0)) < away(None) / 2


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize(
    ("hop", "mu"),
    [
        (Hop(learning_rate=5e-4, warmup_epochs=2), 0.0),
        (Hop(freeze="encoder"), 0.0),
        (Hop(distillation=1.0, temperature=2.0), 0.0),
        (Hop(freeze="encoder", distillation=1.0, temperature=2.0), 0.5),
    ],
)
@pytest.mark.parametrize("statistics", ["precise", "running"])
def test_stopping_and_going_on_changes_no_bit(hop: Hop, mu: float, cut: int, statistics: str) -> None:
    training = training_of(batch_norm=statistics)
    whole = trained(received(), training, hop, proximal_mu=mu)
    again = trained(received(), training, hop, proximal_mu=mu, resume=whole[cut - 1])
    assert len(again) == 4 - cut
    assert again[-1].losses == whole[-1].losses and again[-1].dices == whole[-1].dices
    assert all(torch.equal(tensor, whole[-1].kept[name]) for name, tensor in again[-1].kept.items())
