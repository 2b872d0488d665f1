"""MS-Net (Liu, Dou, Yu and Heng, IEEE TMI 39, 2020, arXiv 2002.03366): one network for several sites' prostates.

Follows the authors' code (github.com/liuquande/MS-Net): three neighbouring slices as channels; an encoder of five
levels of 32 to 512 channels, each a convolution and a residual block of normalisation, ReLU and convolution, two blocks
at the bottom; a universal decoder; and for each site an auxiliary decoder of the same form, fed by the same encoder,
which is dropped once the training is done. The auxiliary decoder learns from the masks, and the universal one half from
the masks and half from the auxiliary decoder's answers (`common.networks.registry.Transfer`), at first not at all:
during 500 of 50 000 steps there, the same share of a training's steps here. Domain-specific batch normalisation is what
`batch_norm = "local"` of routes and averages does.

Otherwise here: one step of the optimizer on the sum of both losses, where the code makes two, one after the other; the
loss that the study names, where the code has the Dice loss of background and prostate alone; batches of the study's
size, where the code has one slice a site; the clean-up as the study says, where the code keeps the largest part. Biases
and first values of the weights were not verified: they are torch's own, without a bias before a normalisation.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from common.networks.registry import Form

WIDTHS = (32, 64, 128, 256, 512)


def _step(layer: nn.Module, width: int) -> nn.Sequential:
    """Return a layer after normalisation and ReLU, as everywhere in a network of this form but at its entrance."""
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), layer)


def _convolution(before: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(before, width, 3, padding=1, bias=False)


class _Residual(nn.Module):
    """Two steps, whose result is added to what comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steps = nn.Sequential(*(_step(_convolution(width, width), width) for _ in range(2)))

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = found + self.steps(found)
        return added


class _Encoder(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        pairs = itertools.pairwise((inputs, *WIDTHS))
        blocks = [nn.Sequential(_convolution(*pair), _Residual(pair[1])) for pair in pairs]
        blocks[-1].append(_Residual(WIDTHS[-1]))
        self.levels = nn.ModuleList(blocks)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every level, the largest first."""
        features: list[torch.Tensor] = []
        for level in self.levels:
            features.append(level(nn.functional.max_pool2d(features[-1], 2) if features else images))
        return features


class _Decoder(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(WIDTHS[::-1]))
        self.enlarge = nn.ModuleList(
            _step(nn.ConvTranspose2d(*pair, 3, stride=2, padding=1, output_padding=1, bias=False), pair[0])
            for pair in pairs
        )
        self.levels = nn.ModuleList(
            nn.Sequential(_convolution(2 * width, width), _Residual(width)) for _, width in pairs
        )
        self.head = _step(nn.Conv2d(WIDTHS[0], classes, 3, padding=1), WIDTHS[0])

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        found = features[-1]
        for enlarge, level, skipped in zip(self.enlarge, self.levels, features[-2::-1], strict=True):
            found = level(torch.cat([enlarge(found), skipped], dim=1))
        logits: torch.Tensor = self.head(found)
        return logits


class MSNet(nn.Module):
    """An encoder and a universal decoder for all sites, and the auxiliary decoder of one."""

    def __init__(self, form: Form) -> None:
        """Build the network."""
        super().__init__()
        self.encoder = _Encoder(form.inputs)
        self.decoder = _Decoder(form.classes)
        self.auxiliary = _Decoder(form.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return the universal logits, in training in a list with the auxiliary ones, where their decoder is here.

        Args:
            images: (batch, inputs, rows, columns), of sides that are multiples of 16.
        """
        features = self.encoder(images)
        logits: torch.Tensor = self.decoder(features)
        return [logits, self.auxiliary(features)] if self.training and hasattr(self, "auxiliary") else logits


def build(form: Form) -> nn.Module:
    """Return the network, its weights drawn from torch's global generator."""
    return MSNet(form)
