"""Networks of MONAI that need nothing but their sizes set: V-Net, Attention U-Net and MONAI's basic U-Net."""

from __future__ import annotations

from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.vnet import VNet
from torch import nn

from common.networks.registry import Form


def vnet(form: Form) -> nn.Module:
    """Return MONAI's V-Net in two or three dimensions (Milletari, Navab and Ahmadi, 3DV 2016).

    The authors' release works on volumes of 128 × 128 × 64 voxels and has no batch normalisation and no dropout, PReLU,
    and one, one, two, three, three convolutions of 5³ a level on the way down. MONAI's has batch normalisation after
    every convolution, dropout of one half in the two deepest levels, ELU, and two convolutions where the release has
    three in the deepest level. Two dimensions were chosen here beside the release's three, and dropout of whole
    channels of a slice or box. The logits of the gland are one map, where the release has a softmax over two classes.
    """
    return VNet(
        spatial_dims=form.dimensions,
        in_channels=form.inputs,
        out_channels=form.classes,
        dropout_dim=form.dimensions,
    )


def attention_unet(form: Form) -> nn.Module:
    """Return MONAI's Attention U-Net (Oktay et al., MIDL 2018, arXiv 1804.03999).

    Five levels of 32 to 512 channels, chosen here: half of what the authors' U-Net has in two dimensions.
    """
    return AttentionUnet(
        spatial_dims=2,
        in_channels=form.inputs,
        out_channels=form.classes,
        channels=(32, 64, 128, 256, 512),
        strides=(2, 2, 2, 2),
    )


def basic_unet(form: Form) -> nn.Module:
    """Return MONAI's basic U-Net (after Falk et al., Nature Methods 16, 2019): small, with instance normalisation.

    The widths are MONAI's own, 32, 32, 64, 128, 256 and 32.
    """
    return BasicUNet(spatial_dims=2, in_channels=form.inputs, out_channels=form.classes)
