"""Learning without forgetting: the received weights teach on the site's own slices (Li and Hoiem, IEEE TPAMI 40, 2018).

The paper's term for old tasks is the cross-entropy of the new answers against the received model's, both softened by a
temperature. Of a gland's probability there are two classes, so each softened answer is the sigmoid of the logit divided
by the temperature; of zones it is the softmax of the logits so divided.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from client.training.batch_norm import estimate_statistics
from client.training.device import Device
from common.config.study import TrainingConfig


class Teacher:
    """The received model, in evaluation mode, which no step changes."""

    def __init__(self, network: nn.Module, images: torch.Tensor, training: TrainingConfig, device: Device) -> None:
        """Copy a network with the received weights.

        Where the study estimates batch norm's statistics anew ("precise"), the teacher's become those of this site's
        training slices, which it is to judge: received statistics are of another site's.

        Args:
            network: the network with the received weights, on its device; unchanged.
            images: the standardised training slices, (slices, channels, pixels, pixels).
            training: the study's training settings.
            device: the device and precision.
        """
        self._network = copy.deepcopy(network).eval()
        self._device = device
        if training.batch_norm == "precise":
            estimate_statistics(self._network, images, device)

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the received model's logits for a batch, float32; no random number is drawn."""
        with self._device.autocast():
            found: torch.Tensor = self._network(images)
        return found.float()


def distillation_loss(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the mean over all pixels of the cross-entropy against the teacher's softened answers.

    Args:
        logits: the model's logits, (slices, classes, pixels, pixels); one class is the gland's.
        taught: the teacher's logits, of the same shape.
        temperature: divides the logits of both; above 1, answers far from the edge of the gland count more.
    """
    if logits.shape[1] > 1:
        softened = (taught.float() / temperature).softmax(1)
        return -(softened * (logits.float() / temperature).log_softmax(1)).sum(1).mean()
    answers = (taught.float() / temperature).sigmoid()
    return F.binary_cross_entropy_with_logits(logits.float() / temperature, answers)
