"""The first look at weights that came from elsewhere, before a site trains on them."""

from __future__ import annotations

import copy
import logging
import math

import torch
from torch import nn

from client.training.batch_norm import estimate_statistics
from client.training.batches import Slices
from client.training.device import Device, place
from client.training.fine_tune import predicted_logits
from client.training.recipe import loss_of
from common.config.study import TrainingConfig
from common.protocol.refusals import Refusal, Refused

LARGEST_LOSS = 1000.0
"""The largest loss of received weights over the validation slices. Weights that fit another scanner come to a few tens:
the loss of a pixel is about the logit of its wrong answer."""

log = logging.getLogger("relay.site")


def check_received(network: nn.Module, validation: Slices, *, training: TrainingConfig, device: Device) -> float:
    """Refuse weights that came from elsewhere if a training could only fail with them; return their loss.

    A training from such weights ends in values that are not finite, and this site would seem to be at fault. Statistics
    of batch normalisation that belong to other weights, as at the first visit of a route with own batch norm, are no
    reason: a training normalises by those of its batches. So a bad loss counts only if it stays bad with the
    statistics of the validation slices.

    Args:
        network: the network with the received weights; left as it is, on the device.
        validation: standardised validation slices.
        training: the study's training settings.
        device: the device and precision to compute in.

    Raises:
        Refused: the loss over the validation slices is not finite, or beyond `LARGEST_LOSS`, with either statistics.
    """
    place(network, device)
    loss = _loss(network, validation, training, device)
    if not _is_sound(loss):
        normalised = copy.deepcopy(network)
        estimate_statistics(normalised, validation.images, device)
        loss = _loss(normalised, validation, training, device)
    if not _is_sound(loss):
        log.warning("The weights that came have a loss of %g on this site's validation patients; not trained on.", loss)
        raise Refused(Refusal.UNFIT_START)
    return loss


def _loss(network: nn.Module, slices: Slices, training: TrainingConfig, device: Device) -> float:
    logits = torch.cat(list(predicted_logits(network, slices.images, device)))
    return float(loss_of(logits, slices.masks, training.loss))


def _is_sound(loss: float) -> bool:
    return math.isfinite(loss) and abs(loss) <= LARGEST_LOSS
