"""What a site measures to tell whether a training lost what its weights could do; `server.scheduling.collapse` decides.

The weights that the stage received and the weights that it kept are measured in the same way at the same site.
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
    """The loss over all training slices, without augmentation."""


def against_received(
    kept: nn.Module,
    received: nn.Module,
    train: Slices,
    validation: Slices,
    *,
    training: TrainingConfig,
    device: Device,
) -> dict[str, float]:
    """Return the figures of `FineTuneReply` that compare the kept weights with the received ones.

    The figures distinguish a training that lost something from one that began with little. Received weights come with
    batch-norm statistics of another site's slices; where the study estimates these statistics anew ("precise"), so does
    this function.

    Args:
        kept: the network with the weights that the stage kept, on its device.
        received: the network with the weights that the stage received.
        train: the training slices.
        validation: the validation slices.
        training: the study's training settings.
        device: the device and precision to measure in.

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
