"""Networks and encoders by name: read without torch, and every wrong name a sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.config.study import Study, load_study
from common.config.toml import from_table
from common.errors import RelayError
from common.networks.encoders import ENCODERS, known_encoder
from common.networks.registry import NETWORKS
from common.networks.smp import segmentation_models
from common.plan import plan
from tests.support.hospitals import REPO

BOXES: dict[str, object] = {"architecture": "VNet", "dimensions": 3}


def study(model: dict[str, object], **parts: object) -> Study:
    return from_table({"sites": ["A", "B"], "model": model, **parts}, Study, "a test")


def sentence(model: dict[str, object], **parts: object) -> str:
    with pytest.raises(RelayError) as error:
        study(model, **parts)
    return str(error.value)


def test_the_encoders_are_the_librarys_without_those_that_deceive() -> None:
    theirs = set(segmentation_models().encoders.encoders)
    assert set(ENCODERS) == {name for name in theirs if not name.startswith("timm-tf_")}
    for name in theirs - set(ENCODERS):
        with pytest.raises(ValueError, match=f'set "tu-{name.removeprefix("timm-")}"'):
            known_encoder(name)


def test_reading_a_study_imports_neither_torch_nor_a_library_of_networks() -> None:
    code = (
        "import sys; from common.config.study import Study, load_study;"
        " Study(sites=('A', 'B'), model={'architecture': 'FPN', 'encoder': 'tu-convnext_pico'});"
        " print(sorted({'torch', 'timm', 'monai', 'segmentation_models_pytorch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ({"architecture": "Unett"}, ("model.architecture", 'there is no network "Unett"; the nearest name is "Unet"')),
        ({"architecture": "V"}, ("the networks are Unet, UnetPlusPlus",)),
        ({"encoder": "resnet19"}, ("model.encoder", 'there is no encoder "resnet19"; the nearest name is "resnet18"')),
        ({"encoder": "timm-tf_efficientnet_lite0"}, ('set "tu-tf_efficientnet_lite0"',)),
        ({"encoder": "tu-../x"}, ("there is no encoder",)),
        ({"encoder": ""}, ("the architecture UnetPlusPlus needs an encoder",)),
        ({"architecture": "FPN", "decoder_attention": "scse"}, ("takes no decoder_attention", "Unet, UnetPlusPlus")),
        ({"architecture": "DynUNet", "encoder": "resnet18"}, ('takes no encoder, and not "resnet18"',)),
        ({"architecture": "DynUNet", "encoder_weights": "imagenet"}, ("no weights of ImageNet",)),
        ({"architecture": "FCN8s", "encoder": "resnet18"}, ("takes the encoders vgg16, vgg16_bn",)),
        ({"architecture": "MSNet", "neighbours": 0}, ("takes the slices beside; set neighbours to 1 or more",)),
        ({"package": "a" * 64}, ("is built in; leave out package",)),
        ({"dimensions": 3}, ("the architecture UnetPlusPlus segments slices alone", "are VNet")),
        ({**BOXES, "depth": 24}, ("model.depth", "multiple of 16")),
        ({**BOXES, "depth": 0}, ("a box needs a depth, and a slice_spacing_mm of 0.1 or more",)),
        ({**BOXES, "slice_spacing_mm": 0.01}, ("a box needs a depth, and a slice_spacing_mm of 0.1 or more",)),
        ({**BOXES, "neighbours": 1}, ("leave out neighbours",)),
        ({**BOXES, "target": "zones"}, ("zones are segmented in two dimensions alone",)),
        ({**BOXES, "dimensions": 2, "depth": 32}, ("set dimensions = 3, or leave them out",)),
    ],
)
def test_a_wrong_network_is_one_sentence(model: dict[str, object], parts: tuple[str, ...]) -> None:
    text = sentence(model)
    assert "\n" not in text and text.endswith(".")
    assert all(part in text for part in parts), text


def test_three_dimensions_train_on_whole_volumes_and_with_no_other_network_beside() -> None:
    text = sentence(BOXES, training={"slices": "chosen"})
    assert 'set training.slices = "all", or dimensions = 2 in [model]' in text
    beside = sentence(BOXES, models={"architectures": ["VNet", "BasicUNet"]})
    assert "the architecture BasicUNet segments slices alone" in beside


def test_the_box_is_v_nets_unless_set_and_no_other_study_says_a_word_of_it() -> None:
    assert (model := study(BOXES).model).shape(32) == (64, 32, 32) and model.slice_spacing_mm == 1.5
    shallow = study({**BOXES, "depth": 16, "slice_spacing_mm": 3.0}).model
    assert shallow.shape(64) == (16, 64, 64)
    plain = study({"architecture": "VNet"})
    assert plain.model.shape(64) == (64, 64)
    assert not {"dimensions", "depth", "slice_spacing_mm"} & set(plain.model.model_dump(mode="json"))
    found = load_study(REPO / "deploy" / "studies" / "vnet-volumes.toml")
    assert [model.dimensions for model in found.networks] == [3]


def test_attention_is_refused_for_every_network_of_a_list_without_it() -> None:
    text = sentence({"decoder_attention": "scse"}, models={"architectures": ["Unet", "Linknet"]})
    assert "the architecture Linknet takes no decoder_attention" in text


def test_the_study_of_related_work_has_a_row_for_each_network_of_its_own() -> None:
    found = load_study(REPO / "deploy" / "studies" / "related-work.toml").networks
    assert {model.architecture for model in found} == {key for key, one in NETWORKS.items() if one.encoders is not None}
    starts = {model.architecture: (model.encoder, model.encoder_weights) for model in found}
    assert starts.pop("HolisticallyNested") == starts.pop("FCN8s") == ("vgg16", "imagenet")
    assert set(starts.values()) == {("", "none")}
    listed = study(
        {"encoder": "resnet18"}, models={"architectures": ["Unet", "DynUNet"], "encoders": ["resnet18", "vgg16"]}
    )
    names = [(model.architecture, model.encoder) for model in listed.networks]
    assert names == [("Unet", "resnet18"), ("DynUNet", ""), ("Unet", "vgg16")]


def test_an_average_of_a_network_without_batch_norm_has_no_row_with_estimated_statistics() -> None:
    def methods(architecture: str) -> set[str]:
        model: dict[str, object] = {"architecture": architecture, "encoder_weights": "none"}
        part = study(model, methods={"federated": [{"rounds": 1}], "pooled": False})
        return {row.method for row in plan(part, {"A": (40,) * 5, "B": (40,) * 5}, {}).rows}

    assert methods("VNet") - methods("BasicUNet") == {"fedavg-re-estimated"}
    only = {"federated": [{"batch_norm": "re-estimate"}]}
    assert "has no batch normalisation" in sentence({"architecture": "BasicUNet"}, methods=only)


def test_a_network_made_for_neighbouring_slices_has_them_by_itself() -> None:
    found = study({"architecture": "MSNet"}).model
    assert (found.neighbours, found.channels) == (1, 3) and study({"architecture": "MSNet", "neighbours": 2})
    assert type(found).model_validate(found.model_dump()) == found
    compared = study({"encoder": "resnet18"}, models={"architectures": ["Unet", "MSNet"]}).networks
    assert [model.neighbours for model in compared] == [0, 1]


def test_titles_and_names_are_each_used_once() -> None:
    assert len({network.title for network in NETWORKS.values()}) == len(NETWORKS)
    assert all(network.about.endswith(".") for network in NETWORKS.values())
