"""The look at received weights: statistics of other weights are no reason to refuse, weights that cannot train are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from client.training.batches import Slices
from client.training.device import Device
from client.training.received import LARGEST_LOSS, check_received
from common.config.study import TrainingConfig
from common.protocol.refusals import Refusal, Refused

CPU = Device("cpu", "float32")
pytestmark = pytest.mark.usefixtures("one_thread")


def network_with(scale: float = 1.0, variance: float = 1.0, eps: float = 1e-5) -> nn.Module:
    """A convolution, batch norm with a variance of its own, and a last convolution whose weights are scaled."""
    torch.manual_seed(0)
    norm, last = nn.BatchNorm2d(4, eps=eps), nn.Conv2d(4, 1, 1)
    assert norm.running_var is not None
    norm.running_var.fill_(variance)
    with torch.no_grad():
        last.weight.mul_(scale)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, last)


def slices() -> Slices:
    generator = torch.Generator().manual_seed(1)
    masks = (torch.rand(6, 1, 16, 16, generator=generator) > 0.5).float()
    return Slices(torch.randn(6, 1, 16, 16, generator=generator), masks)


def checked(network: nn.Module) -> float:
    return check_received(network, slices(), training=TrainingConfig(loss="dice+bce"), device=CPU)


def test_statistics_of_other_weights_are_no_reason_to_refuse() -> None:
    network = network_with(scale=100, variance=1e-12, eps=1e-12)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        bad = nn.functional.binary_cross_entropy_with_logits(network.eval()(slices().images), slices().masks)
    assert float(bad) > LARGEST_LOSS
    assert checked(network) < LARGEST_LOSS
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items()), "left as it came"


@pytest.mark.parametrize("scale", [1e7, float("nan")])
def test_weights_that_are_bad_with_any_statistics_are_refused(scale: float) -> None:
    with pytest.raises(Refused) as refusal:
        checked(network_with(scale=scale))
    assert refusal.value.refusal == Refusal.UNFIT_START


def test_sound_weights_are_looked_at_once() -> None:
    assert 0 < checked(network_with()) < 10
