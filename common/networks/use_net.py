"""USE-Net (Rundo et al., Neurocomputing 365, 2019, arXiv 1904.08254): a U-Net with squeeze and excitation.

As the abstract says: a U-Net with a squeeze-and-excitation block (Hu et al., CVPR 2018) after every block of the
encoder (Enc USE-Net), or after every block of encoder and decoder (Enc-Dec USE-Net). Chosen here, since the paper's own
values were not verified: four poolings, 32 to 512 channels, batch normalisation after each convolution, transposed
convolutions up, and a reduction of 8 in the squeeze. The authors segment two zones, as `target = "zones"` does.
"""

from __future__ import annotations

import torch
from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer
from torch import nn

from common.networks.registry import Form

WIDTHS = (32, 64, 128, 256, 512)
REDUCTION = 8


def _block(before: int, width: int, *, excited: bool) -> nn.Sequential:
    """Return two convolutions with batch normalisation, and squeeze and excitation after them."""
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([ChannelSELayer(2, width, r=REDUCTION)] if excited else []))


class USENet(nn.Module):
    """A U-Net with squeeze and excitation after the blocks of the encoder, or of the decoder too."""

    def __init__(self, form: Form, *, decoder: bool) -> None:
        """Build the network.

        Args:
            form: the study's decisions.
            decoder: whether the decoder's blocks are followed by squeeze and excitation as well.
        """
        super().__init__()
        befores = (form.inputs, *WIDTHS[:-1])
        self.down = nn.ModuleList(_block(*pair, excited=True) for pair in zip(befores, WIDTHS, strict=True))
        pairs = list(zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(*pair, 2, stride=2) for pair in pairs)
        self.up = nn.ModuleList(_block(2 * width, width, excited=decoder) for _, width in pairs)
        self.head = nn.Conv2d(WIDTHS[0], form.classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images (batch, inputs, rows, columns), whose sides are multiples of 16."""
        found, skipped = images, []
        for level, block in enumerate(self.down):
            found = block(nn.functional.max_pool2d(found, 2) if level else found)
            skipped.append(found)
        skipped.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            found = block(torch.cat([skipped.pop(), enlarge(found)], dim=1))
        logits: torch.Tensor = self.head(found)
        return logits


def encoder_alone(form: Form) -> nn.Module:
    """Return Enc USE-Net."""
    return USENet(form, decoder=False)


def encoder_and_decoder(form: Form) -> nn.Module:
    """Return Enc-Dec USE-Net."""
    return USENet(form, decoder=True)
