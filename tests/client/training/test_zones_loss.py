"""The loss of zones is worked out pixel by pixel, with masks of both zones, of the gland alone, and of both kinds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.training.batches import augment
from client.training.distillation import distillation_loss
from client.training.recipe import loss_of, loss_of_outputs
from common.target import ZONES

Array = NDArray[Any]
SIDE = 6


def drawn(kind: str, seed: int) -> Array:
    """A slice's masks of gland, peripheral zone and central gland, as the kind of expert draws them."""
    mask = np.zeros((3, SIDE, SIDE))
    if kind == "empty":
        return mask
    first = seed % 2
    mask[0, 1 : 4 + first, 1:5] = 1
    if kind == "zones":
        mask[1, 3 : 4 + first, 1:5] = 1
        mask[2, 1:3, 1:5] = 1
    if kind == "central":
        mask[2] = mask[0]
    return mask


def plain_loss(logits: Array, masks: Array, kind: str) -> float:
    """The docstring of `zones_loss`, in loops over pixels."""
    entropy, sums = 0.0, {name: [0.0, 0.0, 0.0] for name in ("pz", "cg", "gland")}
    for scores, (gland, pz, cg) in zip(logits, masks, strict=True):
        zoned, any_gland = bool(pz.any() or cg.any()), bool(gland.any())
        for row in range(SIDE):
            for column in range(SIDE):
                powers = [math.exp(score) for score in scores[:, row, column]]
                outside, first, second = (power / sum(powers) for power in powers)
                if not gland[row, column]:
                    truth = outside
                elif pz[row, column]:
                    truth = first
                elif cg[row, column]:
                    truth = second
                else:
                    truth = first + second
                entropy -= math.log(truth)
                pairs = []
                if zoned or not any_gland:
                    pairs += [("pz", first, pz[row, column]), ("cg", second, cg[row, column])]
                if not zoned:
                    pairs += [("gland", first + second, gland[row, column])]
                for name, chance, there in pairs:
                    for k, value in enumerate((chance * there, chance, there)):
                        sums[name][k] += value
    entropy /= len(logits) * SIDE * SIDE
    smooth = 1e-5 if kind == "nnunet" else 0.0
    named = [name for name in sums if sums[name][2]] or (["gland"] if kind == "nnunet" else [])
    losses = [1 - (2 * sums[name][0] + smooth) / (sums[name][1] + sums[name][2] + smooth) for name in named]
    dice = sum(losses) / max(len(losses), 1)
    return {"dice": dice, "bce": entropy}.get(kind, dice + entropy)


BATCHES = (
    ("zones", "zones", "empty"),
    ("gland", "gland", "empty"),
    ("zones", "gland", "empty", "gland"),
    ("central", "zones"),
    ("central",),
    ("empty", "empty"),
)


@pytest.mark.parametrize("kind", ["dice+bce", "dice", "bce", "nnunet"])
@pytest.mark.parametrize("batch", BATCHES, ids="-".join)
def test_the_loss_is_that_of_a_loop_over_pixels(batch: tuple[str, ...], kind: str) -> None:
    masks = np.stack([drawn(one, number) for number, one in enumerate(batch)])
    logits = np.random.default_rng(len(batch)).normal(size=masks.shape) * 2
    found = loss_of(torch.tensor(logits).float(), torch.tensor(masks).float(), kind)
    assert float(found) == pytest.approx(plain_loss(logits, masks, kind), rel=1e-5, abs=1e-6)


def test_masks_of_the_gland_say_nothing_about_the_zones() -> None:
    """Moving probability from one zone to the other changes nothing, so the gradient says nothing of it either."""
    masks = torch.tensor(np.stack([drawn("gland", 0), drawn("gland", 1)])).float()
    logits = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    swapped = logits[:, [0, 2, 1]]
    for kind in ("dice+bce", "nnunet"):
        assert float(loss_of(logits, masks, kind)) == pytest.approx(float(loss_of(swapped, masks, kind)), rel=1e-6)
    zoned = torch.tensor(drawn("zones", 0)).float()[None]
    one, other = (float(loss_of(given[:1], zoned, "bce")) for given in (logits, swapped))
    assert abs(one - other) > 1e-3


def test_a_perfect_prediction_costs_nothing() -> None:
    for kind in ("zones", "gland"):
        masks = torch.tensor(drawn(kind, 1)).float()[None]
        certain = torch.full((1, 3, SIDE, SIDE), -30.0)
        certain[:, 0][masks[:, 0] == 0] = 30
        certain[:, 1:][masks[:, 1:] == 1] = 30
        if kind == "gland":
            certain[:, 2][masks[:, 0] == 1] = 30
        assert float(loss_of(certain, masks, "dice+bce")) == pytest.approx(0, abs=1e-5)


def test_auxiliary_outputs_are_compared_at_their_own_size() -> None:
    masks = torch.tensor(np.stack([drawn("zones", 0), drawn("gland", 1)])).float()
    outputs = [torch.randn(2, 3, side, side) for side in (SIDE, SIDE // 2)]
    small = masks[:, :, 1::2, 1::2]
    expected = 0.75 * loss_of(outputs[0], masks, "dice+bce") + 0.25 * loss_of(outputs[1], small, "dice+bce")
    assert float(loss_of_outputs(outputs, masks, "dice+bce", (0.75, 0.25))) == pytest.approx(float(expected), rel=1e-6)


def test_augmented_zones_lie_within_the_gland_and_fill_it() -> None:
    big = np.stack([np.kron(drawn(kind, 1), np.ones((8, 8))) for kind in ("zones", "gland", "empty", "central")])
    masks = torch.tensor(big).float()
    for seed in range(5):
        _, turned = augment(torch.zeros(4, 1, 48, 48), masks, "light", torch.Generator().manual_seed(seed))
        gland, zones = turned[:, 0], turned[:, 1:].sum(1)
        assert set(turned.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(zones[0], gland[0]) and torch.equal(turned[3, 2], gland[3])
        assert gland[0].any() and gland[1].any() and not zones[1].any() and not gland[2].any()
        alone = augment(torch.zeros(4, 1, 48, 48), masks[:, :1], "light", torch.Generator().manual_seed(seed))[1]
        assert torch.equal(alone[:, 0], gland), "the gland is that of a study of the gland"


def test_what_a_teacher_says_of_zones_is_softened_by_the_temperature() -> None:
    random = np.random.default_rng(3)
    mine, taught = random.normal(size=(2, 2, 3, 4, 4))
    expected = 0.0
    pixels = (logits.transpose(0, 2, 3, 1).reshape(-1, 3) for logits in (mine, taught))
    for logits, wanted in zip(*pixels, strict=True):
        powers, softened = np.exp(logits / 2.5), np.exp(wanted / 2.5)
        expected -= float((softened / softened.sum() * np.log(powers / powers.sum())).sum()) / 32
    assert float(distillation_loss(torch.tensor(mine), torch.tensor(taught), 2.5)) == pytest.approx(expected, rel=1e-5)


def test_three_classes_are_the_background_and_two_zones() -> None:
    assert ZONES.classes == 3 and [zone.label for zone in ZONES.zones] == [1, 2]
