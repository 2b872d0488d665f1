"""The networks of a study file: [model] and [models]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from common.config.values import Config, Line
from common.networks.encoders import known_encoder
from common.networks.registry import NETWORKS, known_architecture
from common.target import TARGETS, Target

Architecture = Annotated[str, AfterValidator(known_architecture)]
Encoder = Annotated[str, AfterValidator(known_encoder)]

BOX = {"depth": 64, "slice_spacing_mm": 1.5}
"""The depth of a box where a study in three dimensions sets none: that of V-Net's release."""
FINEST = 0.1
"""The least distance of a box's slices in millimetres: a volume of finer slices would fill the memory of a site."""


class ModelConfig(Config):
    """The network. Only the coordinator reads `encoder_weights`: sites need no internet."""

    architecture: Architecture = "UnetPlusPlus"
    """The network: a decoder of segmentation_models.pytorch by its name there, a network without encoder, or the
    network of an installed package ([networks](networks.md))."""
    encoder: Encoder = "efficientnet-b3"
    """The encoder, by its name in segmentation_models.pytorch; "tu-" before a name is an encoder of timm. A network
    with an encoder of its own, or with none, needs no such key."""
    encoder_weights: Line = "imagenet"
    """"imagenet", "none" (drawn from the study's seed), or a file beside the study file: of encoder weights, or for a
    network without encoder of all its weights. The file's tensors must fit one by one. A network without encoder starts
    from "none" unless a file is named."""
    target: Literal["gland", "zones"] = Field(default="gland", exclude_if=lambda value: value == "gland")
    """What the network segments. "gland": the whole prostate. "zones": the peripheral zone and the central gland, which
    make up the gland; sites name the values of their masks with `labels` in the site file, and patients of whom the
    whole gland alone is drawn take part as well ([zones](../explanation/zones.md)). Selection is by the gland's Dice in
    either case, since every patient has it."""
    decoder_attention: Literal["none", "scse"] = Field(default="none", exclude_if=lambda value: value == "none")
    """"scse": concurrent spatial and channel squeeze and excitation in the decoder's blocks (Roy et al., MICCAI 2018),
    for the architectures with such blocks."""
    neighbours: int = Field(default=0, ge=0, le=3, exclude_if=lambda value: not value)
    """Slices to either side that the network sees with each slice, as further channels (2.5-D): 1 gives three channels.
    At the ends of a volume the last slice stands twice. Only the middle slice is segmented. A pretrained first layer is
    adapted to the channels. A network made for neighbouring slices, such as MSNet, has 1 unless more are given."""
    dimensions: Literal[2, 3] = Field(default=2, exclude_if=lambda value: value == 2)
    """2: the network segments slices. 3: the network segments boxes of `depth` slices, `slice_spacing_mm` apart, to
    which volumes are resampled, about the image's centre ([volumes](../explanation/volumes.md)); with the architecture
    "VNet", for the whole gland, and where training.slices is "all"."""
    depth: int = Field(default=0, ge=0, le=512, multiple_of=16, exclude_if=lambda value: not value)
    """Where dimensions is 3: slices of a box, a multiple of 16; unless set, 64."""
    slice_spacing_mm: float = Field(default=0.0, ge=0, le=20, exclude_if=lambda value: not value)
    """Where dimensions is 3: millimetres from one slice of a box to the next; unless set, 1.5. Of a deeper volume the
    middle box is trained on, and the whole is segmented, by boxes that overlap by half."""
    package: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", exclude_if=lambda value: not value)
    """For the network of an installed package, the hash of the package's files; `relay study plan` names the hash.
    Every site compares the package that it installed."""

    @model_validator(mode="before")
    @classmethod
    def _own_encoder(cls, given: Any) -> Any:
        """Set the encoder and its weights of a network that leaves no choice, and the box of three dimensions."""
        if not isinstance(given, dict):
            return given
        given = BOX | given if given.get("dimensions") == 3 else given
        if not isinstance(name := given.get("architecture"), str):
            return given
        network = NETWORKS.get(name)
        if network is not None and network.neighbours:
            given = {"neighbours": network.neighbours} | given
        if network is not None and network.encoders is None:
            return given
        own = network.encoders[0] if network is not None and network.encoders else ""
        without = {"encoder": own} if own else {"encoder": "", "encoder_weights": "none"}
        return without | given

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        network = NETWORKS.get(self.architecture)
        encoders = network.encoders if network is not None else ()
        if encoders is None and not self.encoder:
            raise ValueError(f"the architecture {self.architecture} needs an encoder")
        if encoders is not None and self.encoder not in (encoders or ("",)):
            takes = f"takes the encoders {', '.join(encoders)}" if encoders else "takes no encoder"
            raise ValueError(f'the architecture {self.architecture} {takes}, and not "{self.encoder}"')
        if not self.encoder and self.encoder_weights == "imagenet":
            raise ValueError(
                f"the architecture {self.architecture} has no encoder, and so no weights of ImageNet; set"
                ' encoder_weights = "none", or name a file of all its weights'
            )
        if self.decoder_attention != "none" and not (network is not None and network.attention):
            having = ", ".join(one.key for one in NETWORKS.values() if one.attention)
            raise ValueError(
                f"the architecture {self.architecture} takes no decoder_attention; the ones that do are {having}"
            )
        if network is not None and self.neighbours < network.neighbours:
            raise ValueError(
                f"the architecture {self.architecture} takes the slices beside; set neighbours to {network.neighbours}"
                " or more, or leave it out"
            )
        if self.package and network is not None:
            raise ValueError(f"the architecture {self.architecture} is built in; leave out package")
        return self

    @model_validator(mode="after")
    def _fits_dimensions(self) -> ModelConfig:
        if self.dimensions == 2:
            if self.depth or self.slice_spacing_mm:
                raise ValueError("depth and slice_spacing_mm are of a box; set dimensions = 3, or leave them out")
            return self
        network = NETWORKS.get(self.architecture)
        if network is not None and self.dimensions not in network.dimensions:
            able = ", ".join(one.key for one in NETWORKS.values() if self.dimensions in one.dimensions)
            raise ValueError(
                f"the architecture {self.architecture} segments slices alone; with dimensions = 3 the architectures are"
                f" {able}"
            )
        if not self.depth or self.slice_spacing_mm < FINEST:
            raise ValueError(
                f"a box needs a depth, and a slice_spacing_mm of {FINEST} or more; leave them out for those of V-Net"
            )
        if self.neighbours:
            raise ValueError("a box holds the slices to either side; leave out neighbours, or set dimensions = 2")
        if self.segments.zones:
            raise ValueError('zones are segmented in two dimensions alone; set dimensions = 2, or target = "gland"')
        return self

    @property
    def channels(self) -> int:
        """The channels of an image, as the network takes it: a slice and its neighbours."""
        return 2 * self.neighbours + 1

    @property
    def samples(self) -> str:
        """What the network is trained on, in the plural, for texts."""
        return "slices" if self.dimensions == 2 else "boxes"

    def shape(self, pixels: int) -> tuple[int, ...]:
        """Return the size of a slice, or of a box, as the network takes it.

        Args:
            pixels: rows and columns of a slice.

        Returns:
            (pixels, pixels), or in three dimensions (depth, pixels, pixels).
        """
        return (pixels, pixels) if self.dimensions == 2 else (self.depth, pixels, pixels)

    @property
    def segments(self) -> Target:
        """What the network segments."""
        return TARGETS[self.target]

    @property
    def has_batch_norm(self) -> bool:
        """Whether the network has batch normalisation; of a plug-in's network it is assumed."""
        network = NETWORKS.get(self.architecture)
        return network is None or network.has_batch_norm(self.encoder)


class ModelsConfig(Config):
    """Networks to compare: every encoder with every architecture and start, in place of the network in [model].

    An architecture with encoders of its own takes those of the list that it can, or else its own first; an architecture
    without encoder is one network, and starts from "none".
    """

    encoders: tuple[Encoder, ...] = ()
    """The encoders to compare. Empty: only the encoder of [model]."""
    architectures: tuple[Architecture, ...] = ()
    """The architectures to compare. Empty: only the architecture of [model]."""
    encoder_weights: tuple[Line, ...] = Field(default=(), exclude_if=lambda given: not given)
    """The first encoder weights to compare, each as in [model]: ["imagenet", "none"] sets in-domain transfer without
    ImageNet beside in-domain transfer from ImageNet. Patients are prepared once for all; no training is shared, since
    every training descends from other first weights. Empty: only the encoder weights of [model]."""

    @model_validator(mode="after")
    def _one_of_each(self) -> ModelsConfig:
        for name in ("encoders", "architectures", "encoder_weights"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"one of the {name.replace('_', ' ')} stands twice")
        return self


def compared(model: ModelConfig, architecture: str, encoder: str, start: str) -> ModelConfig:
    """Return a network with another architecture and, if the architecture takes them, another encoder and start.

    Raises:
        ValueError: the architecture does not fit the other keys.
    """
    network = NETWORKS.get(architecture)
    takes = network.encoders if network is not None else ()
    if takes is not None and encoder not in takes:
        encoder = takes[0] if takes else ""
    start = start if encoder else "none"
    change: dict[str, Any] = {"architecture": architecture, "encoder": encoder, "encoder_weights": start}
    if network is not None:
        change["package"] = ""
    try:
        return ModelConfig.model_validate(model.model_dump() | change)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
