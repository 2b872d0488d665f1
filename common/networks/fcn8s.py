"""FCN-8s on VGG-16 (Long, Shelhamer and Darrell, CVPR 2015), the family of PSNet.

PSNet (Tian, Liu, Zhang and Fei, J. Med. Imaging 5(2), 2018) is a fully convolutional network fine-tuned from natural
images; its exact layers were not verified, so this is called what it is. It follows FCN-8s: 1 × 1 convolutions to
scores after the third, fourth and fifth pooling of VGG-16, the deeper scores enlarged by two and added to the next, the
sum enlarged by eight. Chosen here: bilinear enlargement that does not learn, and no layers fc6 and fc7, whose 120
million weights read the scores of a thousand classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from common.networks.registry import Form
from common.networks.smp import segmentation_models


class FCN8s(nn.Module):
    """VGG-16 with scores at strides 8, 16 and 32."""

    def __init__(self, form: Form) -> None:
        """Build the network, with nothing downloaded."""
        super().__init__()
        encoders = segmentation_models().encoders
        self.encoder = encoders.get_encoder(form.encoder, in_channels=form.inputs, depth=5, weights=None)
        self.scores = nn.ModuleList(nn.Conv2d(width, form.classes, 1) for width in (256, 512, 512))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images (batch, inputs, rows, columns), whose sides are multiples of 32."""
        blocks = self.encoder(images)
        pooled = (F.max_pool2d(blocks[2], 2), F.max_pool2d(blocks[3], 2), blocks[5])
        shallow, middle, deep = (score(found) for score, found in zip(self.scores, pooled, strict=True))
        return _enlarged(shallow + _enlarged(middle + _enlarged(deep, 2), 2), 8)


def _enlarged(scores: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)


def build(form: Form) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator."""
    return FCN8s(form)
