"""The loss of the two zones, with masks that name the zones or the whole gland alone.

A pixel's truth is a set of classes: the background, a zone, or, where an expert drew the whole gland alone, both zones.
The probability of a set is the sum of its classes' probabilities. Cross-entropy and Dice loss of such sets are the
marginal losses of Shi et al. (Marginal loss and exclusion loss for partially supervised multi-organ segmentation,
Medical Image Analysis 70, 2021); for masks with both zones they are the plain ones. Chosen here: the background has no
Dice term, as with the gland alone, and the paper's exclusion loss is not used, since no other organ is drawn.
"""

from __future__ import annotations

import torch

SMOOTH = 1e-5
LEAST = 1e-7
"""The least denominator of a Dice, as in segmentation_models.pytorch."""


def zones_loss(logits: torch.Tensor, masks: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the loss of a batch: soft Dice, cross-entropy, or their sum.

    The Dice loss is the mean over the regions that the batch's masks name, each over the whole batch: a zone over the
    slices in which no gland is of unknown zone, and the gland over the slices that name no zone. "nnunet" smooths each
    Dice by 1e-5, and counts the gland in a batch whose masks are empty.

    Args:
        logits: of the background and each zone, (slices, 1 + zones, pixels, pixels).
        masks: of the gland and each zone, 0 or 1, in the same shape; zones lie within the gland, and do not overlap.
        kind: contains "dice", "bce" or both, or is "nnunet".
    """
    gland, zones = masks[:, :1], masks[:, 1:]
    logs = logits.log_softmax(1)
    terms = []
    if "dice" in kind or kind == "nnunet":
        terms.append(_dice_loss(logs.exp(), gland, zones, smoothed=kind == "nnunet"))
    if "bce" in kind or kind == "nnunet":
        unknown = gland - zones.sum(1, keepdim=True)
        named = (1 - gland) * logs[:, :1] + (zones * logs[:, 1:]).sum(1, keepdim=True)
        terms.append(-(named + unknown * logs[:, 1:].logsumexp(1, keepdim=True)).mean())
    return torch.stack(terms).sum()


def _dice_loss(chances: torch.Tensor, gland: torch.Tensor, zones: torch.Tensor, *, smoothed: bool) -> torch.Tensor:
    zoned = zones.amax((1, 2, 3), keepdim=True) > 0
    alone = (gland.amax((1, 2, 3), keepdim=True) > 0) & ~zoned
    regions = [
        *((chances[:, k + 1] * ~alone[:, 0], zones[:, k]) for k in range(zones.shape[1])),
        (chances[:, 1:].sum(1) * ~zoned[:, 0], gland[:, 0] * ~zoned[:, 0]),
    ]
    smooth = SMOOTH if smoothed else 0.0
    losses = [1 - (2 * (p * g).sum() + smooth) / (p.sum() + g.sum() + smooth).clamp(min=LEAST) for p, g in regions]
    counted = torch.stack([g.amax() > 0 for _, g in regions])
    if smoothed:
        counted[-1] |= ~counted.any()
    return (torch.stack(losses) * counted).sum() / counted.sum().clamp(min=1)
