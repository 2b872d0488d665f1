"""The loss of an output that learns from another, against numpy; and the warm-up in a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.training.batches import Slices
from client.training.device import choose_device
from client.training.fine_tune import fine_tune
from client.training.knowledge_transfer import answers, transfer_loss
from common.config.model import ModelConfig
from common.config.study import TrainingConfig
from common.model.network import build, part_names
from common.networks.registry import Transfer
from common.plan.graph import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")


def cross_entropy(logits: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    chances = 1 / (1 + np.exp(-logits))
    return float(-(truth * np.log(chances) + (1 - truth) * np.log(1 - chances)).mean())


def test_the_own_output_learns_from_the_mask_and_from_the_auxiliary_answers() -> None:
    random = np.random.default_rng(2)
    own, auxiliary = random.normal(size=(2, 3, 1, 8, 8))
    mask = (random.random((3, 1, 8, 8)) < 0.4).astype(float)
    tensors = [torch.tensor(array, dtype=torch.float32, requires_grad=True) for array in (own, auxiliary)]
    masks = torch.tensor(mask, dtype=torch.float32)
    transfer = Transfer(share=0.25, warmup=0.0)
    loss = transfer_loss(tensors, masks, "bce", transfer, warm=True)
    answered = (auxiliary > 0).astype(float)
    expected = cross_entropy(auxiliary, mask) + 0.75 * cross_entropy(own, mask) + 0.25 * cross_entropy(own, answered)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    # The auxiliary output learns from the masks alone: d/dx of the mean cross-entropy is (σ(x) - truth) / pixels.
    slope = (1 / (1 + np.exp(-auxiliary)) - mask) / mask.size
    assert tensors[1].grad is not None
    np.testing.assert_allclose(tensors[1].grad.numpy(), slope, rtol=1e-4, atol=1e-7)
    cold = transfer_loss(tensors, masks, "bce", transfer, warm=False)
    assert cold.item() == pytest.approx(cross_entropy(auxiliary, mask), rel=1e-5)


def test_the_answers_of_zones_are_one_class_a_pixel() -> None:
    logits = torch.tensor([[[3.0, 0.0, 1.0]], [[0.0, 2.0, 1.5]], [[1.0, 1.0, 4.0]]])[None]  # background, two zones
    assert answers(logits).tolist() == [[[[0.0, 1.0, 1.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]]


def test_in_the_warm_up_the_universal_decoder_learns_nothing_and_the_auxiliary_one_does() -> None:
    model = ModelConfig.model_validate({"architecture": "MSNet"})
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    slices = Slices(images, (images[:, 1:2] > 0).float())
    training = TrainingConfig.model_validate({"batch": 2, "precision": "float32", "batch_norm": "running"})
    torch.manual_seed(0)
    network = build(model, whole=True)
    # 2 epochs of 2 steps: the first epoch is the warm-up
    states = fine_tune(
        network,
        slices,
        slices,
        training=training,
        schedule=Schedule(2, 0, 2, "last"),
        seed_names=("test",),
        device=choose_device("cpu", "float32"),
        transfer=Transfer(share=0.5, warmup=0.5),
        apart=part_names(model),
    )

    def values() -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    found = [values()]
    for _ in states:
        found.append(values())
    for before, after, learns in zip(found[:-1], found[1:], (False, True), strict=True):
        for name in before:
            moved = not torch.equal(before[name], after[name])
            assert moved == (learns or not name.startswith("decoder.")), name
