"""Every network of the registry, by the same four checks."""

from __future__ import annotations

import pytest

from common.networks.registry import NETWORKS
from tests.common.networks.checks import Built

pytestmark = pytest.mark.usefixtures("one_thread")

OF_LIBRARY = [key for key, network in NETWORKS.items() if network.encoders is None]
OWN = [key for key in NETWORKS if key not in OF_LIBRARY]
SIDES = {key: max(64, network.smallest_side) for key, network in NETWORKS.items()}
UNUSED = {"PSPNet": ("encoder.layer3", "encoder.layer4")}
"""The levels of an encoder that a decoder of the library leaves out."""
HEAVY = ("efficientnet-b3", "tu-convnext_pico", "mit_b0", "densenet121", "vgg16_bn")


def test_there_are_as_many_networks_as_promised() -> None:
    assert OF_LIBRARY[:4] == ["Unet", "UnetPlusPlus", "MAnet", "DeepLabV3"], "the paper's columns come first"
    assert {*OF_LIBRARY[4:]} == {"DeepLabV3Plus", "FPN", "Linknet", "PSPNet", "PAN", "UPerNet", "Segformer"}


@pytest.mark.parametrize("architecture", OF_LIBRARY)
def test_a_decoder_of_the_library_with_a_small_encoder(architecture: str) -> None:
    Built(architecture, encoder="resnet18", pixels=SIDES[architecture]).check_all(unused=UNUSED.get(architecture, ()))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OWN)
def test_a_network_that_no_library_of_decoders_has(architecture: str) -> None:
    Built(architecture, pixels=SIDES[architecture]).check_all()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [key for key, network in NETWORKS.items() if 3 in network.dimensions])
def test_a_network_in_three_dimensions(architecture: str) -> None:
    built = Built(architecture, pixels=32, dimensions=3, depth=16, slice_spacing_mm=3.0)
    assert any(parameter.dim() == 5 for parameter in built.network.parameters())
    built.check_all()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["HolisticallyNested", "FCN8s"])
def test_vgg_with_batch_normalisation(architecture: str) -> None:
    Built(architecture, encoder="vgg16_bn").check_weights()


@pytest.mark.parametrize(("architecture", "last"), [("Unet", "4"), ("UnetPlusPlus", "x_0_4")])
def test_a_decoder_with_squeeze_and_excitation(architecture: str, last: str) -> None:
    plain = Built(architecture, encoder="resnet18")
    built = Built(architecture, encoder="resnet18", decoder_attention="scse")
    built.check_all(unused=(f"decoder.blocks.{last}.attention1",))  # the last block has nothing to concatenate
    assert len(built.network.state_dict()) > len(plain.network.state_dict())


@pytest.mark.parametrize("encoder", ["mobilenet_v2", *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)])
def test_an_encoder_of_the_library_or_of_timm(encoder: str) -> None:
    built = Built("Unet", encoder=encoder)
    built.check_shapes()
    built.check_evaluation()
    built.check_weights()
