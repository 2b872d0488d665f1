"""Collapsed trainings: weights received intact, but unfit to go on to the next site.

The check rejects a stage, so a false alarm on a healthy training is unacceptable. A hand-off to another scanner may
begin with a Dice near 0, and a round of a single epoch may end with a Dice near 0; both are normal. The check therefore
compares the stage's weights with its received weights, measured at the same site and in the same way, and also requires
a rise of the loss on the stage's own training slices.
"""

from __future__ import annotations

from common.protocol.messages import FineTuneReply
from common.text import percent
from server.transport.outcomes import TrainingFailed

SOUND = 0.5
"""The least validation Dice of received weights for a comparison; weights with a lower Dice are at the beginning of
their training at the site."""


def check_not_collapsed(reply: FineTuneReply, share: float) -> None:
    """Reject a training whose weights are much worse than its received weights.

    Args:
        reply: the site's reply, with the scores of the received weights where the stage's own Dice fell below `share`
            of their Dice.
        share: the study's `collapse`.

    Raises:
        TrainingFailed: the received weights had a validation Dice of at least `SOUND` at this site, the kept weights
            have less than `share` of this Dice, and the kept weights' loss over the training slices is at least the
            received weights' loss.
    """
    dice, before = reply.dices[reply.kept_epoch - 1], reply.received_dice
    if before >= SOUND and dice < share * before and reply.kept_loss >= reply.received_loss:
        raise TrainingFailed(
            f"its validation Dice collapsed to {percent(dice)}, from {percent(before)} of the weights that it was"
            f" given, and its training loss rose from {reply.received_loss:.2f} to {reply.kept_loss:.2f}"
        )
