"""The recipes of training: nnU-Net's by the formulas of its source, and auxiliary outputs at their own sizes."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch
from torch import nn

from client.training.batches import with_neighbours
from client.training.recipe import clip_gradients, learning_rate, loss_of, loss_of_outputs, optimizer_of
from common.config.study import Study, TrainingConfig, study_toml
from common.config.toml import from_table
from common.errors import RelayError
from common.plan.graph import Schedule

NNUNET = TrainingConfig.model_validate({"recipe": "nnunet"})


def test_the_recipe_sets_what_the_study_leaves_open() -> None:
    table = {"sites": ["A", "B"], "training": {"recipe": "nnunet", "weight_decay": 0.5}}
    study = from_table(table, Study, "a test")
    part = study.training
    assert (part.learning_rate, part.weight_decay, part.loss) == (0.01, 0.5, "nnunet")
    assert from_table(tomllib.loads(study_toml(study)), Study, "a test") == study
    plain = from_table({"sites": ["A", "B"]}, Study, "a test")
    assert "recipe" not in study_toml(plain) and plain.training.loss == "dice+bce"
    table["training"] = {"recipe": "nnunet", "final_learning_rate": 1e-5}
    with pytest.raises(RelayError, match="leave out final_learning_rate"):
        from_table(table, Study, "a test")


def test_the_rate_falls_with_the_power_of_the_epochs_left() -> None:
    rates = [learning_rate(Schedule(10, 0, 10, "best"), epoch, NNUNET) for epoch in range(10)]
    assert rates == pytest.approx([0.01 * (left / 10) ** 0.9 for left in range(10, 0, -1)], rel=1e-12)


def test_the_descent_has_momentum_and_clipped_gradients() -> None:
    layer = nn.Linear(3, 1, bias=False)
    optimizer = optimizer_of(layer, NNUNET)
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.SGD)
    assert (group["momentum"], group["nesterov"], group["weight_decay"], group["lr"]) == (0.99, True, 3e-5, 0.01)
    layer.weight.grad = torch.tensor([[30.0, 0.0, 40.0]])
    clip_gradients(layer, NNUNET)
    assert layer.weight.grad.tolist()[0] == pytest.approx([7.2, 0.0, 9.6], rel=1e-4)
    layer.weight.grad = torch.tensor([[30.0, 0.0, 40.0]])
    clip_gradients(layer, TrainingConfig())
    assert layer.weight.grad.tolist() == [[30.0, 0.0, 40.0]]


def test_the_loss_is_the_formula_and_counts_batches_without_gland() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(2, 1, 4, 4))
    for masks in (random.integers(0, 2, size=(2, 1, 4, 4)).astype(float), np.zeros((2, 1, 4, 4))):
        gland = 1 / (1 + np.exp(-logits))
        dice = (2 * (gland * masks).sum() + 1e-5) / (gland.sum() + masks.sum() + 1e-5)
        entropy = -(masks * np.log(gland) + (1 - masks) * np.log(1 - gland)).mean()
        found = loss_of(torch.tensor(logits).float(), torch.tensor(masks).float(), "nnunet")
        assert float(found) == pytest.approx(1 - dice + entropy, rel=1e-5)


@pytest.mark.parametrize("kind", ["dice+bce", "bce", "nnunet"])
def test_each_output_is_compared_at_its_own_size_with_its_weight(kind: str) -> None:
    torch.manual_seed(0)
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, 2:6, 3:8] = 1
    outputs = [torch.randn(2, 1, side, side) for side in (8, 4, 8)]
    small = torch.zeros(2, 1, 4, 4)
    small[:, :, 1:3, 1:4] = 1  # of each two by two pixels the lower right one
    expected = 0.5 * loss_of(outputs[0], masks, kind) + 0.3 * loss_of(outputs[1], small, kind)
    expected += 0.2 * loss_of(outputs[2], masks, kind)
    assert float(loss_of_outputs(outputs, masks, kind, (0.5, 0.3, 0.2))) == pytest.approx(float(expected), rel=1e-6)
    assert torch.equal(loss_of_outputs(outputs[0], masks, kind, (1.0,)), loss_of(outputs[0], masks, kind))
    with pytest.raises(ValueError):
        loss_of_outputs(outputs, masks, kind, (1.0,))


def test_neighbours_stand_beside_a_slice_and_the_last_one_twice() -> None:
    volume = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    shown = with_neighbours(volume, 1)
    assert shown.shape == (4, 3, 2, 2)
    assert shown[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert with_neighbours(volume, 2)[0, :, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert np.array_equal(with_neighbours(volume, 0), volume[:, None])
    assert with_neighbours(volume[:1], 3).shape == (1, 7, 2, 2), "a single slice is its own neighbour"
