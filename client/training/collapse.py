"""What a site measures where a training may have lost what its weights could do; `server.scheduling.collapse` decides.

Both models are measured in the same way at the same site: the weights that the stage received, and those that it kept.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from client.training.batch_norm import estimate_statistics
from client.training.batches import Slices
from client.training.device import Device, place
from client.training.fine_tune import grid_dice, loss_of, predicted_logits
from common.config.study import TrainingConfig
from common.protocol.refusals import Refusal, Refused


class Measured(NamedTuple):
    """How good a model is at a site, on the study's grid."""

    dice: float
    """Mean over the validation slices, 0 to 1."""
    loss: float
    """Over all training slices, without augmentation."""


def against_received(
    kept: nn.Module,
    received: nn.Module,
    train: Slices,
    validation: Slices,
    *,
    training: TrainingConfig,
    device: Device,
) -> dict[str, float]:
    """Return the figures of `FineTuneReply` that tell a training which lost something from one that began with little.

    The received weights come with statistics of another site's slices; where the study has batch normalisation's
    estimated anew, theirs are, too.

    Returns:
        The figures; none where the loss of the received weights is not finite, so that there was nothing to lose.

    Raises:
        Refused: the loss of the kept weights is not finite.
    """
    place(received, device)
    if training.batch_norm == "precise":
        estimate_statistics(received, train.images, device)
    before, after = (_measure(network, train, validation, training, device) for network in (received, kept))
    if not math.isfinite(after.loss):
        raise Refused(Refusal.DIVERGED)
    if not math.isfinite(before.loss):
        return {}
    return {"received_dice": before.dice, "received_loss": before.loss, "kept_loss": after.loss}


def _measure(
    network: nn.Module, train: Slices, validation: Slices, training: TrainingConfig, device: Device
) -> Measured:
    logits = torch.cat(list(predicted_logits(network, train.images, device)))
    return Measured(grid_dice(network, validation, device), float(loss_of(logits, train.masks, training.loss)))
