"""Weights that must not go on to the next site, though they arrived whole: a training that collapsed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from common.graph import Average, Best, FineTune, Node
from server.keeping import winner
from server.ledger import StageRecord

SOUND = 0.5
"""Weights whose last known validation Dice was lower than this are at the beginning of their training, where a round
of an epoch may give anything."""


class Unsound(Exception):
    """An answer that is refused, with the reason in plain words; the same stage may be asked for once more."""


def dice_before(node: FineTune, known: Mapping[Node, StageRecord]) -> float | None:
    """The validation Dice, 0 to 1, of the weights that a stage starts from; None where there is none.

    Of a training its own; of an average the mean over its parts; of what was chosen the Dice that it was chosen by,
    which of a chosen round is that on the very patients that the next stage is validated on.
    """
    parent = node.parent
    if isinstance(parent, Best):
        chosen = winner(parent, lambda ballot: known[ballot].dice)
        return known[parent.ballots[parent.candidates.index(chosen)]].dice
    trained = parent.parts if isinstance(parent, Average) else (parent,)
    dices = [known[part].dice for part in trained if part in known and known[part].kind == "fine-tune"]
    return statistics.fmean(dices) if dices else None


def check_not_collapsed(dice: float, before: float | None, share: float) -> None:
    """Refuse a training that lost what its weights could do.

    A hand-off is fine-tuned to its best epoch and a round's training begins where the last ended, so that the Dice
    falls to a tenth only where something is broken, whatever the hospitals' scanners.

    Args:
        dice: validation Dice after the stage.
        before: see `dice_before`.
        share: the study's `collapse`.

    Raises:
        Unsound: it collapsed.
    """
    if before is not None and before >= SOUND and dice < share * before:
        raise Unsound(
            f"its validation Dice collapsed to {100 * dice:.1f} %, from weights that had {100 * before:.1f} %"
            " where they were made"
        )
