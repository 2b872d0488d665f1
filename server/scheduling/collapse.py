"""Collapsed trainings: weights that arrived intact, but must not go on to the next site.

The check rejects a stage, so it must never fire on a healthy training. A hand-off to another scanner may begin with a
Dice of nearly nothing, and a round of one epoch may end with one; neither is a fault. The check therefore compares the
stage with the weights that it received, measured at the same site and in the same way, and also asks whether the loss
on the stage's own training slices rose.
"""

from __future__ import annotations

from common.protocol.messages import FineTuneReply
from common.text import percent
from server.transport.outcomes import TrainingFailed

SOUND = 0.5
"""Received weights with a lower validation Dice at this site are at the beginning of their training here, and are not
compared."""


def check_not_collapsed(reply: FineTuneReply, share: float) -> None:
    """Reject a training that lost what its received weights could do.

    Args:
        reply: the site's reply, which has the scores of the received weights where the stage's own Dice fell below
            `share` of theirs.
        share: the study's `collapse`.

    Raises:
        TrainingFailed: the received weights had a validation Dice of at least `SOUND` at this site, the kept weights
            have less than `share` of that Dice, and their loss over the training slices is not lower than that of the
            received weights.
    """
    dice, before = reply.dices[reply.kept_epoch - 1], reply.received_dice
    if before >= SOUND and dice < share * before and reply.kept_loss >= reply.received_loss:
        raise TrainingFailed(
            f"its validation Dice collapsed to {percent(dice)}, from {percent(before)} of the weights that it was"
            f" given, and its training loss rose from {reply.received_loss:.2f} to {reply.kept_loss:.2f}"
        )
