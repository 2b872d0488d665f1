"""The loss, the optimizer and the learning rate of a training, by the study's recipe.

"adam": Adam with cosine annealing. "nnunet": what nnU-Net trains with (Isensee et al., Nature Methods 18, 2021, and the
source of its second version): stochastic gradient descent with Nesterov's momentum of 0.99, a learning rate that falls
with the power 0.9 of the epochs left, gradients clipped to a norm of 12.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from client.training.zones_loss import SMOOTH, zones_loss
from common.config.study import TrainingConfig
from common.networks.smp import segmentation_models
from common.plan.graph import Hop, Schedule

MOMENTUM = 0.99
POWER = 0.9
LARGEST_NORM = 12.0


def optimizer_of(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Return the recipe's optimizer, with nothing remembered yet."""
    rate, decay = training.learning_rate, training.weight_decay
    if training.recipe == "nnunet":
        return torch.optim.SGD(network.parameters(), lr=rate, weight_decay=decay, momentum=MOMENTUM, nesterov=True)
    return torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)


def learning_rate(schedule: Schedule, epoch: int, training: TrainingConfig, hop: Hop | None = None) -> float:
    """Return the learning rate of an epoch: cosine annealing, or nnU-Net's power of the epochs left.

    Cosine annealing is that of Loshchilov and Hutter, ICLR 2017, without restarts. A linear warm-up of w epochs comes
    before either, which takes the remaining epochs; its k-th epoch has k / (w + 1) of the first rate.

    Args:
        schedule: the stage's part of the whole curve.
        epoch: the epoch in the whole curve, counted from 0.
        training: gives the recipe, and the first and the final learning rate.
        hop: gives the first rate and the warm-up of a second or later training, where it sets them.
    """
    low, high = training.final_learning_rate, training.learning_rate
    warmup = 0
    if hop is not None:
        high, warmup = hop.learning_rate or high, hop.warmup_epochs
    if epoch < warmup:
        return high * (epoch + 1) / (warmup + 1)
    past, of = epoch - warmup, schedule.total_epochs - warmup
    if training.recipe == "nnunet":
        return high * float((1 - past / of) ** POWER)
    return low + (high - low) * (1 + math.cos(math.pi * past / of)) / 2


def clip_gradients(network: nn.Module, training: TrainingConfig) -> None:
    """Clip the gradients to nnU-Net's norm, where that is the recipe."""
    if training.recipe == "nnunet":
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_NORM)


def loss_of(logits: torch.Tensor, masks: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the loss of a batch: soft Dice over the whole batch, binary cross entropy, or their sum.

    Of several classes it is `zones_loss`.

    "nnunet" is the sum with nnU-Net's soft Dice, (2 Σpg + 1e-5) / (Σp + Σg + 1e-5), which counts batches without gland
    too.

    Args:
        logits: (slices, 1, pixels, pixels), or of the background and each zone.
        masks: the same shape, 0 or 1; of zones, the gland and each zone.
        kind: contains "dice", "bce" or both, or is "nnunet".
    """
    logits = logits.float()
    if logits.shape[1] > 1:
        return zones_loss(logits, masks, kind)
    terms = []
    if "dice" in kind:
        terms.append(segmentation_models().losses.DiceLoss("binary")(logits, masks))
    if kind == "nnunet":
        gland = logits.sigmoid()
        both, sizes = (gland * masks).sum(), gland.sum() + masks.sum()
        terms.append(1 - (2 * both + SMOOTH) / (sizes + SMOOTH))
    if "bce" in kind or kind == "nnunet":
        terms.append(F.binary_cross_entropy_with_logits(logits, masks))
    return torch.stack(terms).sum()


def loss_of_outputs(
    outputs: torch.Tensor | Sequence[torch.Tensor], masks: torch.Tensor, kind: str, weights: Sequence[float]
) -> torch.Tensor:
    """Return the loss of what a network returns in training, its auxiliary outputs included.

    An auxiliary output is compared with the mask at its own size, which takes the mask's nearest pixels, as in nnU-Net.

    Args:
        outputs: logits (slices, classes, pixels, pixels), or a list of them of any sizes, the network's own first.
        masks: (slices, classes, pixels, pixels), 0 or 1; see `loss_of`.
        kind: see `loss_of`.
        weights: the weight of each output's loss.
    """
    if isinstance(outputs, torch.Tensor):
        return loss_of(outputs, masks, kind)
    losses = []
    for weight, logits in zip(weights, outputs, strict=True):
        truth = (
            masks if logits.shape == masks.shape else F.interpolate(masks, size=logits.shape[2:], mode="nearest-exact")
        )
        losses.append(weight * loss_of(logits, truth, kind))
    return torch.stack(losses).sum()
