"""Statistics of batch normalisation for the current weights ("precise" batch normalisation).

Batch normalisation keeps running averages for evaluation, which move towards the weights' own statistics by a tenth in
each step. After a stage of a few dozen steps the averages still belong to much earlier weights, so an evaluation would
not show what the network has learnt. The statistics are therefore estimated again from the training slices before
an epoch is scored and before weights leave (Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv 2105.07576).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.training.device import Device

PIXELS_AT_ONCE = 32 * 256 * 256
"""The number of pixels normalised together. Where all training slices fit, every layer gets the statistics of the very
values of evaluation; otherwise the statistics come from several passes, each over slices of all patients."""


@torch.no_grad()
def estimate_statistics(network: nn.Module, images: torch.Tensor, device: Device) -> None:
    """Set every batch-norm layer's mean and variance to the statistics of its inputs for these slices.

    Everything else is as in evaluation: no augmentation, no dropout, the same precision. No random number is drawn, no
    weight and no count of batches changes, and the network is left in evaluation mode. Nothing changes in a network
    without batch normalisation, nor for a single slice, for which the deepest layers may have one value and no
    variance.

    Args:
        network: the network, on its device.
        images: (slices, channels, rows, columns), standardised, in the order of patients; or boxes of them.
        device: the device and precision of the network.
    """
    network.eval()
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers or len(images) < 2:
        return
    passes = max(1, min(math.ceil(images[:, 0].numel() / PIXELS_AT_ONCE), len(images) // 2))
    sums = [_Sums(layer) for layer in layers]
    for number in range(passes):
        shown = images[number::passes]  # some slices of every patient
        with device.autocast():
            network(device.taken(shown))
        for of_layer in sums:
            of_layer.add(len(shown) / len(images))
    for of_layer in sums:
        of_layer.settle()


class _Sums:
    """A layer's first and second moments over all passes.

    From construction to `settle`, the layer normalises by the statistics of its current input.
    """

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
        layer.momentum = 1.0  # the layer stores the mean and variance of the last pass alone

    def _see(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._values = inputs[0].numel() // inputs[0].shape[1]

    def add(self, share: float) -> None:
        """Add the statistics of the last pass.

        Args:
            share: the pass's share of all slices.
        """
        if not self._values:
            return  # the network has this layer but does not use the layer, like EfficientNet's last
        mean, variance = self._mean.cpu().double(), self._variance.cpu().double()
        # torch divides the stored variance by the number of values less one, but normalises by the plain variance.
        variance *= (self._values - 1) / self._values
        self._first += share * mean
        self._second += share * (variance + mean.square())

    def settle(self) -> None:
        """Restore the layer's mode, momentum and count of batches, and set its new statistics."""
        self._hook.remove()
        self._layer.eval()
        self._layer.momentum, count = self._before
        self._count.copy_(count)
        if self._values:
            self._mean.copy_(self._first)
            self._variance.copy_((self._second - self._first.square()).clamp(min=0.0))
