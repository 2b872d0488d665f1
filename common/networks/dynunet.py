"""The network of nnU-Net in two dimensions (Isensee et al., Nature Methods 18, 2021), with deep supervision.

It is MONAI's DynUNet, which follows nnU-Net's plain convolutional U-Net: two convolutions, instance normalisation and
leaky ReLU a level, strided convolutions down, transposed ones up, 32 channels in the first level and at most 512. In
training each level of the decoder but the lowest has a head, whose logits are compared with the mask at the level's own
size, as nnU-Net does; MONAI would enlarge them to the mask's size instead. Six levels were chosen here, whatever the
size of a slice: nnU-Net itself has as many as halve its patch down to four pixels.
"""

from __future__ import annotations

import torch
from monai.networks.nets.dynunet import DynUNet
from torch import nn

from common.networks.registry import Form

LEVELS = 6
HEADS = 3
"""Auxiliary heads: those of the levels at a half, a quarter and an eighth. nnU-Net gives the lowest the weight 0."""


class SupervisedUNet(DynUNet):
    """MONAI's DynUNet, which returns in training the logits of every head at the head's own size."""

    def __init__(self, form: Form) -> None:
        """Build the network with MONAI's initial weights."""
        strides = (1, *(2,) * (LEVELS - 1))
        super().__init__(
            spatial_dims=2,
            in_channels=form.inputs,
            out_channels=form.classes,
            kernel_size=(3,) * LEVELS,
            strides=strides,
            upsample_kernel_size=strides[1:],
            deep_supervision=True,
            deep_supr_num=HEADS,
        )
        # MONAI's way through the blocks holds each block again, under a second name: every tensor would travel twice.
        del self.skip_layers
        self.heads = []

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return the logits, in training in a list with those of the heads at a half, a quarter and an eighth."""
        skipped = [self.input_block(images)]
        for block in self.downsamples:
            skipped.append(block(skipped[-1]))
        found = self.bottleneck(skipped[-1])
        levels: list[torch.Tensor] = []
        for block in self.upsamples:
            found = block(found, skipped.pop())
            levels.insert(0, found)
        logits: torch.Tensor = self.output_block(found)
        if not self.training:
            return logits
        heads = zip(self.deep_supervision_heads, levels[1:], strict=False)  # the lowest level has no head
        return [logits, *(head(level) for head, level in heads)]


def build(form: Form) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator."""
    return SupervisedUNet(form)
