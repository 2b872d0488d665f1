"""Statistics of batch normalisation belong to the weights they stand beside, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from client.training import batch_norm
from client.training.batch_norm import estimate_statistics
from client.training.batches import Slices
from client.training.device import Device
from client.training.fine_tune import fine_tune, grid_dice, re_estimated
from common.config.model import ModelConfig
from common.config.study import TrainingConfig
from common.model.network import build
from common.plan.graph import Schedule

CPU = Device("cpu", "float32")
pytestmark = pytest.mark.usefixtures("one_thread")


def network_of(encoder: str = "mobilenet_v2", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(ModelConfig.model_validate({"architecture": "Unet", "encoder": encoder, "encoder_weights": "none"}))


def images_of(count: int, seed: int = 0, pixels: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(count, 1, pixels, pixels, generator=generator)


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("encoder", ["mobilenet_v2", "resnet18", "efficientnet-b0"])
def test_evaluation_then_sees_what_a_batch_of_all_slices_would(encoder: str) -> None:
    network, images = network_of(encoder), images_of(20)
    with torch.no_grad():
        lagging = network.eval()(images)
        estimate_statistics(network, images, CPU)
        evaluated = network(images)
        for norm in norms(network):
            norm.train()
        exact = network(images)
    assert torch.allclose(evaluated, exact, atol=1e-3 * float(exact.abs().max()))
    assert not torch.allclose(lagging, exact, atol=0.1 * float(exact.abs().max()))


def test_several_passes_give_the_mean_and_variance_over_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a first layer, whose input no other layer normalises, the passes make no difference at all."""
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1))
    images = images_of(13, pixels=8) + torch.arange(13.0).view(-1, 1, 1, 1)  # patients differ
    monkeypatch.setattr(batch_norm, "PIXELS_AT_ONCE", 3 * 8 * 8)
    shown: list[int] = []
    network[1].register_forward_pre_hook(lambda _, inputs: shown.append(len(inputs[0])))
    estimate_statistics(network, images, CPU)
    assert sorted(shown) == [2, 2, 3, 3, 3]
    values = images.numpy().astype(np.float64)
    norm = norms(network)[0]
    assert norm.running_mean is not None and norm.running_var is not None
    assert float(norm.running_mean) == pytest.approx(values.mean(), rel=1e-6)
    assert float(norm.running_var) == pytest.approx(values.var(), rel=1e-5)


def test_no_weight_no_count_and_no_chance_is_touched() -> None:
    network, images = network_of("efficientnet-b0"), images_of(6)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    momenta = [norm.momentum for norm in norms(network)]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    network.train()
    estimate_statistics(network, images, CPU)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.endswith(("running_mean", "running_var")) for name in changed)
    assert torch.equal(torch.get_rng_state(), state)
    assert [norm.momentum for norm in norms(network)] == momenta
    assert not any(module.training or module._forward_pre_hooks for module in network.modules())


def test_a_stage_without_an_epoch_has_torchs_own_averages_over_one_pass() -> None:
    """The statistics reset, momentum None, every training slice once: torch averages what it is shown."""
    weights, images = copy.deepcopy(network_of().state_dict()), images_of(7)
    slices = Slices(images, torch.zeros_like(images))
    found = re_estimated(network_of(), slices, CPU)
    assert (found.epoch, found.kept_epoch, found.gradient_steps, found.losses) == (0, 0, 0, ())
    plain = network_of().eval()
    counts: dict[nn.Module, int] = {}
    for norm in norms(plain):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
        norm.register_forward_hook(lambda norm, _, out: counts.__setitem__(norm, out.numel() // out.shape[1]))
    with torch.no_grad():
        plain(images)
    for name, norm in plain.named_modules():
        if norm in counts:
            assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
            biased = norm.running_var * (counts[norm] - 1) / counts[norm]
            assert torch.allclose(found.kept[f"{name}.running_mean"], norm.running_mean, rtol=1e-3, atol=1e-4)
            assert torch.allclose(found.kept[f"{name}.running_var"], biased, rtol=1e-3, atol=1e-4)
    assert len(counts) > 10
    same = {name for name in weights if not name.endswith(("running_mean", "running_var"))}
    assert all(torch.equal(found.kept[name], weights[name]) for name in same)


def test_estimating_twice_changes_no_bit() -> None:
    network, images = network_of(), images_of(6)
    estimate_statistics(network, images, CPU)
    once = copy.deepcopy(network.state_dict())
    estimate_statistics(network, images, CPU)
    assert all(torch.equal(tensor, once[name]) for name, tensor in network.state_dict().items())


def test_a_single_slice_and_a_network_without_batch_norm_are_left_as_they_are() -> None:
    network = network_of()
    before = copy.deepcopy(network.state_dict())
    estimate_statistics(network, images_of(1), CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    estimate_statistics(nn.Conv2d(1, 1, 1), images_of(4), CPU)


def test_in_bfloat16_the_statistics_are_those_of_bfloat16() -> None:
    network, images = network_of(), images_of(20)
    estimate_statistics(network, images, Device("cpu", "bfloat16"))
    other = network_of()
    estimate_statistics(other, images, CPU)
    for norm, exact in zip(norms(network), norms(other), strict=True):
        assert norm.running_var is not None and exact.running_var is not None
        assert float((norm.running_var / exact.running_var - 1).abs().median()) < 0.2


def glands(count: int, seed: int) -> Slices:
    """Bright discs on noise: what a network learns within a few steps."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    middle = 16 + random.uniform(-5, 5, (count, 2, 1, 1))
    masks = np.hypot(rows - middle[:, 0], columns - middle[:, 1]) < random.uniform(5, 8, (count, 1, 1))
    images = 1.5 * masks + random.normal(0, 0.5, masks.shape) - 0.3
    return Slices(
        torch.from_numpy(images.astype(np.float32))[:, None], torch.from_numpy(masks.astype(np.float32))[:, None]
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_short_training_is_scored_by_what_it_learnt(precision: str) -> None:
    """Seen at a hospital: the loss fell from 1.57 to 1.02 and the validation Dice from 59 % to 0."""
    train, validation, device = glands(40, 1), glands(20, 2), Device("cpu", precision)
    dices = {}
    for kind in ("running", "precise"):
        training = TrainingConfig.model_validate({"batch": 8, "batch_norm": kind, "learning_rate": 2e-3})
        *_, last = fine_tune(
            network := network_of(),
            train,
            validation,
            training=training,
            schedule=Schedule(2, 0, 2, "last"),
            seed_names=(1, "A", 0),
            device=device,
        )
        dices[kind] = last.dices[-1]
        assert last.losses[-1] < 0.8 * last.losses[0]
        assert grid_dice(network, validation, device) == last.dices[-1], "the weights leave as they were scored"
    assert dices["precise"] > max(0.65, dices["running"] + 0.05), dices
