"""The encoders of segmentation_models.pytorch, by name, without an import of the library."""

from __future__ import annotations

import difflib
import re

ENCODERS = (
    *(f"efficientnet-b{size}" for size in range(8)),
    *(f"resnet{layers}" for layers in (18, 34, 50, 101, 152)),
    *("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d"),
    *("resnext101_32x16d", "resnext101_32x32d", "resnext101_32x48d"),
    *("senet154", "se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("dpn68", "dpn68b", "dpn92", "dpn98", "dpn107", "dpn131"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("inceptionresnetv2", "inceptionv4", "xception", "mobilenet_v2"),
    *(f"mit_b{size}" for size in range(6)),
    *(f"mobileone_s{size}" for size in range(5)),
    *(f"timm-efficientnet-b{size}" for size in range(9)),
    "timm-efficientnet-l2",
    *("timm-skresnet18", "timm-skresnet34", "timm-skresnext50_32x4d"),
)
"""The encoders that segmentation_models.pytorch 0.6 has by itself. Encoders named `tu-…` are timm's: there are
hundreds, and whether one can be built is seen when it is built."""

_OF_TIMM = re.compile(r"tu-[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DECEIVING = "timm-tf_"


def known_encoder(name: str) -> str:
    """Return an encoder's name unchanged; "" is the name for no encoder.

    Raises:
        ValueError: there is no such encoder, or the encoder computes something else than the network of its weights.
    """
    if not name or name in ENCODERS or _OF_TIMM.fullmatch(name):
        return name
    if name.startswith(_DECEIVING):
        # Conv2d for TensorFlow's padding, and another epsilon: the weights load, and the features are wrong.
        raise ValueError(
            f'the encoder "{name}" takes its weights without an error and computes something else;'
            f' set "tu-{name.removeprefix("timm-")}"'
        )
    near = difflib.get_close_matches(name, ENCODERS, n=1)
    raise ValueError(
        f'there is no encoder "{name}"; '
        + (f'the nearest name is "{near[0]}"' if near else "docs/reference/networks.md lists the encoders")
    )
