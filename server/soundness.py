"""Weights that must not go on to the next site, though they arrived whole: a training that collapsed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from common.plan.graph import Average, Best, FineTune, Node
from server.keeping import winner
from server.ledger import StageRecord

SOUND = 0.5
"""Weights whose last known validation Dice was lower than this are at the beginning of their training, where a round
of an epoch may give anything."""


class Unsound(Exception):
    """An answer that is refused, with the reason in plain words; the same stage may be asked for once more."""


LONG = 20
"""Epochs after which weights that came from another site have had time to fit this one: other scanners may show a gland
the other way round, and one or two epochs do not mend that."""


def dice_before(node: FineTune, known: Mapping[Node, StageRecord]) -> float | None:
    """The validation Dice, 0 to 1, that the weights had which a stage starts from; None where there is none that the
    stage's own can be held against.

    At this site: of a training here its own, of an average this site's part, of a chosen round what it was chosen by.
    At another site, only if the stage is long (`LONG`).
    """
    parent = node.parent
    if isinstance(parent, Best):
        chosen = winner(parent, lambda ballot: known[ballot].dice)
        dices = {parent.at: known[parent.ballots[parent.candidates.index(chosen)]].dice}
    else:
        trained = parent.parts if isinstance(parent, Average) else (parent,)
        dices = {
            part.site: known[part].dice
            for part in trained
            if isinstance(part, FineTune) and part in known and known[part].kind == "fine-tune"
        }
    if node.site in dices:
        return dices[node.site]
    return statistics.fmean(dices.values()) if dices and node.schedule.epochs >= LONG else None


def check_not_collapsed(dice: float, before: float | None, share: float) -> None:
    """Refuse a training that lost what its weights could do.

    A hand-off is fine-tuned to its best epoch and a round's training begins where the last ended, so that the Dice
    falls to a tenth only where something is broken.

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
