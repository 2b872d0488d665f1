"""Weights that must not go on to the next site, though they arrived whole: a training that collapsed.

The rule stops a study, so it must never fire on a healthy run. A hand-off to another scanner may begin with a Dice of
nearly nothing, and a round of one epoch may end with one; neither is a fault. What counts is what the very same weights
did at this site before the stage, measured as the stage itself is, and whether the training lost on its own training
slices as well.
"""

from __future__ import annotations

from common.protocol.messages import FineTuneReply
from common.text import percent
from server.transport.outcomes import TrainingFailed

SOUND = 0.5
"""Received weights with a lower validation Dice at this site are at the beginning of their training here."""


def check_not_collapsed(reply: FineTuneReply, share: float) -> None:
    """Refuse a training that lost what its weights could do.

    Args:
        reply: with the figures of the received weights, where the stage's own Dice fell below `share`.
        share: the study's `collapse`.

    Raises:
        TrainingFailed: the received weights had a validation Dice of `SOUND` at least at this site, the kept ones have
            less than `share` of it, and their loss over the training slices is no lower than that of the received.
    """
    dice, before = reply.dices[reply.kept_epoch - 1], reply.received_dice
    if before >= SOUND and dice < share * before and reply.kept_loss >= reply.received_loss:
        raise TrainingFailed(
            f"its validation Dice collapsed to {percent(dice)}, from {percent(before)} of the weights that it was"
            f" given, and its training loss rose from {reply.received_loss:.2f} to {reply.kept_loss:.2f}"
        )
