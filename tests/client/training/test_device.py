"""The precision in which parts of a network are trained."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from client.training.device import Device, place


def a_network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1))


def by_hand(network: nn.Sequential, images: torch.Tensor, depthwise: torch.dtype) -> torch.Tensor:
    """Convolve without autocast, in bfloat16, and the depthwise convolution in its type."""
    for module, kind in zip(network, (torch.bfloat16, depthwise, torch.bfloat16), strict=True):
        assert isinstance(module, nn.Conv2d)
        weight, bias = module.weight.detach().to(kind), module.bias.detach().to(kind)
        images = nn.functional.conv2d(images.to(kind), weight, bias, padding=module.padding, groups=module.groups)
    return images


def test_depthwise_convolutions_are_trained_in_float32_and_predict_in_bfloat16_on_a_cpu() -> None:
    device, network, images = Device("cpu", "bfloat16"), a_network(), torch.randn(2, 3, 16, 16)
    place(network, device)
    place(network, device)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2)
    for placed, training in itertools.product((network, copied), (True, False)):
        placed.train(training)
        with device.autocast():
            found = placed(images)
            assert torch.is_autocast_enabled("cpu")
        assert torch.equal(found, by_hand(placed, images, torch.float32 if training else torch.bfloat16))
        assert not torch.equal(found, by_hand(placed, images, torch.bfloat16 if training else torch.float32))


def test_nothing_is_cast_without_autocast() -> None:
    network, images = a_network(), torch.randn(2, 3, 16, 16)
    expected = network(images)
    place(network, Device("cpu", "bfloat16"))
    assert torch.allclose(network.train()(images), expected, atol=1e-6)
    assert not torch.is_autocast_enabled("cpu")
