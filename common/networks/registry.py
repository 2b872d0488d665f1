"""The networks by name: their traits, and the place of the function that builds them.

Neither torch nor a library of networks is imported before a network is built: reading a study file must stay quick.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common import plugins

ATTENTION = "scse"
"""Concurrent spatial and channel squeeze and excitation (Roy, Navab and Wachinger, MICCAI 2018)."""


@dataclass(frozen=True)
class Form:
    """What a study decides about a network."""

    architecture: str
    """The network's name."""
    encoder: str = ""
    """The encoder's name; empty for a network without one."""
    inputs: int = 1
    """Channels of an image."""
    classes: int = 1
    """Channels of the logits."""
    attention: str = "none"
    """"none" or "scse", in every block of the decoder."""
    dimensions: int = 2
    """2 for slices, 3 for boxes."""


@dataclass(frozen=True)
class Transfer:
    """How a network's own output learns from its only auxiliary one, besides the masks (Liu et al., IEEE TMI 2020)."""

    share: float
    """The share of the own output's loss that is against the auxiliary output's answers instead of the masks."""
    warmup: float
    """The share of the steps of a whole annealing, at its beginning, in which the own output has no loss yet."""


@dataclass(frozen=True)
class Network:
    """A network that a study may name, and its traits.

    The network maps images (batch, inputs, rows, columns) to logits (batch, classes, rows, columns); in three
    dimensions the slices of a box come before the rows. In training, a network with auxiliary outputs returns a list of
    logits: the same first, then the auxiliary ones, of any smaller size; each counts in the loss with its weight.
    """

    key: str
    """The network's name in study files and results."""
    title: str
    """The network's name for readers, in its authors' spelling."""
    about: str
    """What the network is, with its source, in a sentence for the reference."""
    build: str | Callable[[Form], Any]
    """The function that makes the network: "module:name", imported when called, or the function."""
    encoders: tuple[str, ...] | None = ()
    """The permitted encoders, the first by default; empty: the network has none; None: every encoder of the library."""
    smallest_side: int = 32
    """The fewest rows and columns of an image; every network takes multiples of 32."""
    normalisation: str = "batch"
    """"batch" for batch normalisation somewhere, "none" for no batch normalisation, or "encoder" where only encoders
    named "…_bn" have it. An average of a network without batch normalisation has no statistics to estimate anew."""
    attention: bool = False
    """Whether the decoder takes squeeze and excitation (`decoder_attention`)."""
    output_weights: tuple[float, ...] = (1.0,)
    """The weights of the losses of the outputs in training: of the network's own, then of the auxiliary ones."""
    dimensions: tuple[int, ...] = (2,)
    """The dimensions in which the network can be built. In three, every network takes multiples of 16 slices."""
    transfer: Transfer | None = None
    """How the own output learns from the auxiliary one; then each output's loss has the weight 1."""
    neighbours: int = 0
    """The fewest slices to either side that the network takes, and those that it takes unless the study says more."""
    stays: tuple[str, ...] = ()
    """The names of the network's modules that belong to a site: training alone uses them, and returns the auxiliary
    outputs with them. Their tensors never leave the site, and are put back at its next visit; everywhere else the
    network is built without these modules."""

    def has_batch_norm(self, encoder: str) -> bool:
        """Return whether the network with an encoder has batch normalisation."""
        return self.normalisation == "batch" or (self.normalisation == "encoder" and encoder.endswith("_bn"))

    def made(self, form: Form) -> Any:
        """Return the network as a `torch.nn.Module`, its weights drawn from torch's global generator."""
        if not isinstance(self.build, str):
            return self.build(form)
        module, _, function = self.build.partition(":")
        return getattr(importlib.import_module(module), function)(form)


def _of_library(key: str, title: str, about: str, *, attention: bool = False, smallest_side: int = 32) -> Network:
    """Return a decoder of segmentation_models.pytorch."""
    build = "common.networks.smp:build"
    return Network(key, title, about, build, encoders=None, attention=attention, smallest_side=smallest_side)


NETWORKS: Mapping[str, Network] = {
    network.key: network
    for network in (
        _of_library("Unet", "UNet", "U-Net (Ronneberger et al., MICCAI 2015).", attention=True),
        _of_library("UnetPlusPlus", "UNet++", "UNet++ (Zhou et al., DLMIA 2018).", attention=True),
        _of_library("MAnet", "MANet", "MA-Net (Fan et al., IEEE Access 2020)."),
        _of_library("DeepLabV3", "DeepLabV3", "DeepLabV3 (Chen et al., arXiv 1706.05587)."),
        _of_library("DeepLabV3Plus", "DeepLabV3+", "DeepLabV3+ (Chen et al., ECCV 2018)."),
        _of_library("FPN", "FPN", "Feature pyramid network (Kirillov et al., Panoptic FPN, CVPR 2019)."),
        _of_library("Linknet", "LinkNet", "LinkNet (Chaurasia and Culurciello, VCIP 2017)."),
        _of_library(
            "PSPNet", "PSPNet", "Pyramid scene parsing (Zhao et al., CVPR 2017), on an encoder's first levels."
        ),
        _of_library("PAN", "PAN", "Pyramid attention network (Li et al., BMVC 2018).", smallest_side=128),
        _of_library("UPerNet", "UPerNet", "Unified perceptual parsing (Xiao et al., ECCV 2018)."),
        _of_library("Segformer", "SegFormer", "The decoder of SegFormer (Xie et al., NeurIPS 2021), with any encoder."),
        Network(
            "DynUNet",
            "nnU-Net's network",
            "The network of nnU-Net (Isensee et al., Nature Methods 2021) as MONAI has it: six levels, deep"
            " supervision.",
            "common.networks.dynunet:build",
            smallest_side=64,
            normalisation="none",
            output_weights=(8 / 15, 4 / 15, 2 / 15, 1 / 15),  # halved at each level, together 1, as in nnU-Net
        ),
        Network(
            "AttentionUnet",
            "Attention U-Net",
            "Attention U-Net (Oktay et al., MIDL 2018) as MONAI has it, 32 to 512 channels.",
            "common.networks.monai_networks:attention_unet",
        ),
        Network(
            "BasicUNet",
            "basic U-Net",
            "MONAI's basic U-Net (after Falk et al., Nature Methods 2019): small, with instance normalisation.",
            "common.networks.monai_networks:basic_unet",
            normalisation="none",
        ),
        Network(
            "VNet",
            "V-Net (MONAI)",
            "MONAI's V-Net (after Milletari et al., 3DV 2016): batch normalisation, dropout and ELU, which the authors'"
            " release has not; of slices, or as in the release of volumes.",
            "common.networks.monai_networks:vnet",
            dimensions=(2, 3),
        ),
        Network(
            "EncUSENet",
            "Enc USE-Net",
            "U-Net with squeeze and excitation after every encoder block (after Rundo et al., Neurocomputing 2019).",
            "common.networks.use_net:encoder_alone",
        ),
        Network(
            "EncDecUSENet",
            "Enc-Dec USE-Net",
            "U-Net with squeeze and excitation after every encoder and decoder block (after Rundo et al., 2019).",
            "common.networks.use_net:encoder_and_decoder",
        ),
        Network(
            "HolisticallyNested",
            "holistically nested network",
            "VGG-16 with five side outputs and their fusion (Xie and Tu, ICCV 2015; for the prostate Cheng et al.,"
            " 2017).",
            "common.networks.hnn:build",
            encoders=("vgg16", "vgg16_bn"),
            normalisation="encoder",
            output_weights=(1.0,) * 6,
        ),
        Network(
            "MSNet",
            "MS-Net",
            "MS-Net (Liu et al., IEEE TMI 2020): three neighbouring slices; a universal decoder learns from an"
            " auxiliary one at each site, which never leaves it.",
            "common.networks.ms_net:build",
            output_weights=(1.0, 1.0),
            transfer=Transfer(share=0.5, warmup=0.01),  # 500 of 50 000 steps in the authors' code
            neighbours=1,
            stays=("auxiliary",),
        ),
        Network(
            "FCN8s",
            "FCN-8s",
            "FCN-8s on VGG-16 (Long et al., CVPR 2015), the family of PSNet (Tian et al., J. Med. Imaging 2018).",
            "common.networks.fcn8s:build",
            encoders=("vgg16", "vgg16_bn"),
            normalisation="encoder",
        ),
        Network(
            "DenseUNet",
            "dense U-Net",
            "A dense U-Net in the manner of Z-Net (Zhang et al., ISBI 2019), whose own block could not be read.",
            "common.networks.dense_unet:build",
            smallest_side=64,
        ),
    )
}
"""The built-in networks by name, in their order in tables: the paper's four first."""


def known_architecture(name: str) -> str:
    """Return a network's name unchanged. A plug-in's code is not loaded.

    Raises:
        ValueError: there is no such network, built in or of an installed package.
    """
    if name in NETWORKS:
        return name
    known = [*NETWORKS, *plugins.names(plugins.NETWORK)]
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    nearest = f'the nearest name is "{near[0]}"' if near else f"the networks are {', '.join(known)}"
    raise ValueError(f'there is no network "{name}"; {nearest}')


def find(architecture: str, package: str) -> Network:
    """Return a network by name. A plug-in's code is loaded, after its package's hash was compared.

    Args:
        architecture: the network's name.
        package: the hash of the plug-in's package, as the study names it; empty for a built-in network.

    Raises:
        BadConfiguration: there is no such network, or the installed package is not the one that the study names.
    """
    if architecture in NETWORKS:
        return NETWORKS[architecture]
    found = plugins.load(plugins.NETWORK, architecture, package)
    if not isinstance(found, Network):
        raise plugins.not_of_its_kind(plugins.NETWORK, architecture)
    return found
