"""Statistics of batch normalisation that belong to the weights they stand beside.

Batch normalisation keeps running averages for evaluation, which follow the weights by a tenth a step. After a stage of
a few dozen steps they still belong to weights of long ago: the network has learnt, and its evaluation does not show it.
So they are estimated anew from the training slices before an epoch is scored and before weights leave ("precise"
batch normalisation: Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.training.device import Device

PIXELS_AT_ONCE = 32 * 256 * 256
"""Pixels of the slices that are normalised together. Where all training slices fit, every layer is given the statistics
of the very values that it sees in evaluation; else they come from several passes of slices drawn from all patients."""


@torch.no_grad()
def estimate_statistics(network: nn.Module, images: torch.Tensor, device: Device) -> None:
    """Give every batch-norm layer the mean and variance of what it sees when the network is shown these slices.

    All else is as in evaluation: no augmentation, no dropout, the same precision. Nothing random is drawn, no weight
    and no count of batches changes, and the network is left in evaluation mode. A network without batch normalisation,
    and a single slice, whose deepest layers may have one value and no variance, are left as they are.

    Args:
        network: on the machine's device.
        images: (slices, 1, rows, columns), standardised, in the order of patients.
    """
    network.eval()
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers or len(images) < 2:
        return
    passes = max(1, min(math.ceil(images[:, 0].numel() / PIXELS_AT_ONCE), len(images) // 2))
    sums = [_Sums(layer) for layer in layers]
    for number in range(passes):
        shown = images[number::passes]  # of every patient some
        with device.autocast():
            network(shown.to(device.kind, memory_format=torch.channels_last))
        for of_layer in sums:
            of_layer.add(len(shown) / len(images))
    for of_layer in sums:
        of_layer.settle()


class _Sums:
    """One layer's moments over all passes. While it lives the layer normalises by what it is shown."""

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None and layer.running_var is not None
        assert layer.num_batches_tracked is not None
        self._layer = layer
        self._mean, self._variance, self._count = layer.running_mean, layer.running_var, layer.num_batches_tracked
        self._before = layer.momentum, self._count.clone()
        self._first = torch.zeros(layer.num_features, dtype=torch.float64)
        self._second = torch.zeros_like(self._first)
        self._values = 0
        self._hook = layer.register_forward_pre_hook(self._see)
        layer.train()
        layer.momentum = 1.0  # the layer keeps the last pass's own mean and variance

    def _see(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._values = inputs[0].numel() // inputs[0].shape[1]

    def add(self, share: float) -> None:
        """Take in the last pass. Args: share: its slices, of all."""
        if not self._values:
            return  # a layer that the network has and does not use, as EfficientNet's last
        mean, variance = self._mean.cpu().double(), self._variance.cpu().double()
        # torch keeps the variance divided by one value less than it normalises by.
        variance *= (self._values - 1) / self._values
        self._first += share * mean
        self._second += share * (variance + mean.square())

    def settle(self) -> None:
        """Put the layer back as it was, with the new statistics."""
        self._hook.remove()
        self._layer.eval()
        self._layer.momentum, count = self._before
        self._count.copy_(count)
        if self._values:
            self._mean.copy_(self._first)
            self._variance.copy_((self._second - self._first.square()).clamp(min=0.0))
