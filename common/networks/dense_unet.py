"""A dense U-Net in the manner of Z-Net (Zhang, Wu, Chen, Chen and Tang, ISBI 2019, arXiv 1901.06115).

Known of Z-Net: five pairs of blocks of different sizes and numbers of maps, arranged like a U-Net, with concatenation
and dense connections that keep features of several levels. The inside of its block could not be read, so this is not
called Z-Net. Chosen here, after DenseNet (Huang et al., CVPR 2017): a block is three layers of batch normalisation,
ReLU and a 3 × 3 convolution, each on all maps before it side by side, and a 1 × 1 convolution to the block's width;
widths of 16 to 256 in five encoder blocks, 256 below them, and five decoder blocks; maximum pooling, transposed
convolutions up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from common.networks.registry import Form

WIDTHS = (16, 32, 64, 128, 256)
LAYERS = 3


class DenseBlock(nn.Module):
    """Three densely connected convolutions, and a 1 × 1 convolution to the block's width."""

    def __init__(self, before: int, width: int) -> None:
        """Build a block from `before` maps to `width`."""
        super().__init__()
        growth = width // 2
        inputs = [before + layer * growth for layer in range(LAYERS)]
        self.layers = nn.ModuleList(
            _normed(nn.Conv2d(channels, growth, 3, padding=1, bias=False)) for channels in inputs
        )
        self.out = _normed(nn.Conv2d(before + LAYERS * growth, width, 1, bias=False))

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        """Return (batch, width, rows, columns)."""
        for layer in self.layers:
            found = torch.cat([found, layer(found)], dim=1)
        narrowed: torch.Tensor = self.out(found)
        return narrowed


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(convolution.in_channels), nn.ReLU(), convolution)


class DenseUNet(nn.Module):
    """Five pairs of dense blocks, arranged like a U-Net."""

    def __init__(self, form: Form) -> None:
        """Build the network."""
        super().__init__()
        self.stem = nn.Conv2d(form.inputs, WIDTHS[0], 3, padding=1, bias=False)
        befores = (WIDTHS[0], *WIDTHS[:-1])
        self.down = nn.ModuleList(DenseBlock(*pair) for pair in zip(befores, WIDTHS, strict=True))
        self.bottom = DenseBlock(WIDTHS[-1], WIDTHS[-1])
        pairs = list(zip((WIDTHS[-1], *WIDTHS[:0:-1]), WIDTHS[::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(*pair, 2, stride=2) for pair in pairs)
        self.up = nn.ModuleList(DenseBlock(2 * width, width) for _, width in pairs)
        self.head = nn.Conv2d(WIDTHS[0], form.classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images (batch, inputs, rows, columns), whose sides are multiples of 32."""
        found, skipped = self.stem(images), []
        for block in self.down:
            found = block(found)
            skipped.append(found)
            found = F.max_pool2d(found, 2)
        found = self.bottom(found)
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            found = block(torch.cat([skipped.pop(), enlarge(found)], dim=1))
        logits: torch.Tensor = self.head(found)
        return logits


def build(form: Form) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator."""
    return DenseUNet(form)
