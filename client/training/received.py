"""The first look at weights that came from elsewhere, before a site trains on them."""

from __future__ import annotations

import logging
import math

import torch
from torch import nn

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

    A training from such weights ends in values that are not finite, and this site would seem to be at fault.

    Args:
        network: the network with the received weights; left as it is, on the device.
        validation: standardised validation slices.
        training: the study's training settings.
        device: the device and precision to compute in.

    Raises:
        Refused: the loss over the validation slices is not finite, or beyond `LARGEST_LOSS`.
    """
    place(network, device)
    logits = torch.cat(list(predicted_logits(network, validation.images, device)))
    loss = float(loss_of(logits, validation.masks, training.loss))
    if not math.isfinite(loss) or abs(loss) > LARGEST_LOSS:
        log.warning("The weights that came have a loss of %g on this site's validation patients; not trained on.", loss)
        raise Refused(Refusal.UNFIT_START)
    return loss
