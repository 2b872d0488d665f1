"""The loss of a network of which one output learns from another (MS-Net: Liu et al., IEEE TMI 39, 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from client.training.recipe import loss_of
from common.networks.registry import Transfer


def transfer_loss(
    outputs: Sequence[torch.Tensor], masks: torch.Tensor, kind: str, transfer: Transfer, *, warm: bool
) -> torch.Tensor:
    """Return the loss of a batch: the auxiliary output's against the mask, and the first one's against both.

    Args:
        outputs: the network's own logits and the auxiliary ones, both (slices, classes, pixels, pixels).
        masks: see `client.training.recipe.loss_of`.
        kind: see `client.training.recipe.loss_of`.
        transfer: the share of the first output's loss that is against the auxiliary output's answers.
        warm: whether the warm-up is over; before, only the auxiliary output has a loss.
    """
    own, auxiliary = outputs
    loss = loss_of(auxiliary, masks, kind)
    if not warm:
        return loss
    taught = loss_of(own, answers(auxiliary.detach()), kind)
    return loss + (1 - transfer.share) * loss_of(own, masks, kind) + transfer.share * taught


def answers(logits: torch.Tensor) -> torch.Tensor:
    """Return the segmentation that logits stand for, 0 or 1: of the gland, or of the gland and each zone.

    Args:
        logits: (slices, classes, pixels, pixels).

    Returns:
        The segmentation in the same shape.
    """
    if logits.shape[1] == 1:
        return (logits > 0).float()
    zones = F.one_hot(logits.argmax(1), logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].float()
    return torch.cat([zones.sum(1, keepdim=True), zones], 1)


def is_warm(transfer: Transfer, step: int, steps: int) -> bool:
    """Return whether the warm-up is over.

    Args:
        transfer: says which share of the steps is the warm-up.
        step: the number of steps before this one, in the whole annealing.
        steps: the number of steps of the whole annealing.
    """
    return step >= int(transfer.warmup * steps)
