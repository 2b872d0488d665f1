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
    adapted to the channels."""
    package: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", exclude_if=lambda value: not value)
    """For the network of an installed package, the hash of the package's files; `relay study plan` names the hash.
    Every site compares the package that it installed."""

    @model_validator(mode="before")
    @classmethod
    def _own_encoder(cls, given: Any) -> Any:
        """Set the encoder and its weights of a network that leaves no choice."""
        if not isinstance(given, dict) or not isinstance(name := given.get("architecture"), str):
            return given
        network = NETWORKS.get(name)
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
        if self.package and network is not None:
            raise ValueError(f"the architecture {self.architecture} is built in; leave out package")
        return self

    @property
    def channels(self) -> int:
        """The channels of an image, as the network takes it: a slice and its neighbours."""
        return 2 * self.neighbours + 1

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
