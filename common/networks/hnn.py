"""A holistically nested network (Xie and Tu, ICCV 2015; for the prostate Cheng et al., 2017).

It follows the authors' released definition (s9xie/hed, train_val.prototxt): the thirteen convolutions of VGG-16, a 1 ×
1 convolution to one map after the last convolution of each of the five blocks, each map enlarged bilinearly to the
image's size, and a 1 × 1 convolution over the five, which begins at 0.2 each. Six losses of weight 1 are trained, of
the fused map and the five; the fused map is the output. Chosen here: the study's own loss, optimizer and learning rates
in place of class-balanced cross-entropy and a rate for each layer, and sides that need no cropping. What Cheng et al.
(J. Med. Imaging 4(4), 2017) add, images enhanced by a filter as further input, is not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from common.networks.registry import Form
from common.networks.smp import segmentation_models

BLOCKS = 5


class HolisticallyNested(nn.Module):
    """VGG-16 with five side outputs and their fusion."""

    def __init__(self, form: Form) -> None:
        """Build the network, with nothing downloaded."""
        super().__init__()
        encoders = segmentation_models().encoders
        self.encoder = encoders.get_encoder(form.encoder, in_channels=form.inputs, depth=BLOCKS, weights=None)
        widths = self.encoder.out_channels[:BLOCKS]
        self.sides = nn.ModuleList(nn.Conv2d(width, form.classes, 1) for width in widths)
        self.fusion = nn.Conv2d(BLOCKS * form.classes, form.classes, 1, groups=form.classes)
        nn.init.constant_(self.fusion.weight, 1 / BLOCKS)
        nn.init.zeros_(self.fusion.bias)  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return the fused logits, in training in a list with those of the five sides, all of the image's size."""
        features = self.encoder(images)[:BLOCKS]
        maps = [
            F.interpolate(side(feature), size=images.shape[2:], mode="bilinear", align_corners=False)
            for side, feature in zip(self.sides, features, strict=True)
        ]
        fused: torch.Tensor = self.fusion(torch.stack(maps, dim=2).flatten(1, 2))  # the five of a class side by side
        return [fused, *maps] if self.training else fused


def build(form: Form) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator."""
    return HolisticallyNested(form)
