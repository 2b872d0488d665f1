"""Measurements at a site by which `server.scheduling.collapse` decides whether a training lost its weights' quality.

The received weights of a stage and its kept weights are measured in the same way at the same site.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from client.training.batch_norm import estimate_statistics
from client.training.batches import Slices
from client.training.device import Device, place
from client.training.fine_tune import grid_dice, predicted_logits
from client.training.recipe import loss_of
from common.config.study import TrainingConfig
from common.protocol.refusals import Refusal, Refused

SOUND = 0.5
"""The least Dice of received weights whose comparison a site with a `scoring_floor` tells: the least with which
`server.scheduling.collapse` compares."""


class Measured(NamedTuple):
    """A model's quality at a site, on the study's grid."""

    dice: float
    """The Dice that selects an epoch (`grid_dice`), 0 to 1."""
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
    """Return the figures of `FineTuneReply` that compare the kept weights with the received weights.

    The figures distinguish a training with a loss of quality from a training that began with little quality. Received
    weights come with batch-norm statistics of another site's slices; where the study estimates the statistics anew
    ("precise"), so does this function.

    Args:
        kept: the network with the weights kept by the stage, on its device.
        received: the network with the weights received by the stage.
        train: the training slices.
        validation: the validation slices.
        training: the study's training settings.
        device: the device and precision to measure in.

    Returns:
        The figures; none where the loss of the received weights is not finite, so that no quality could be lost.

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
