"""Conversion of a site's replies to records of the ledger."""

from __future__ import annotations

from common.plan.graph import Evaluate, FineTune
from common.protocol.messages import EvaluateReply, FineTuneReply
from common.scores import COUNTED, GLAND, SCORES
from server.ledger.ledger import Cases, StageRecord


def of_training(node: FineTune, reply: FineTuneReply, *, parent: str) -> StageRecord:
    """Return the record of a training.

    Args:
        node: the training.
        reply: the site's last reply.
        parent: digest of the weights at the start of the training.
    """
    return StageRecord(
        key=reply.key,
        kind="fine-tune",
        site=node.site,
        fold=node.fold,
        parents=(parent,),
        weights=reply.weights,
        gradient_steps=reply.gradient_steps,
        train_slices=reply.train_slices,
        losses=reply.losses,
        learning_rates=reply.learning_rates,
        dices=reply.dices,
        kept_epoch=reply.kept_epoch,
        dice=reply.validation_dice,
        iou=reply.validation_iou,
        dice_volume=reply.validation_dice_volume,
        patients=reply.validation_patients,
    )


def of_scores(node: Evaluate, reply: EvaluateReply, *, parent: str) -> StageRecord:
    """Return the record of a scoring.

    Args:
        node: the scoring.
        reply: the site's reply.
        parent: digest of the scored weights.
    """
    return StageRecord(
        key=reply.key,
        kind="evaluate",
        site=node.site,
        fold=node.fold,
        parents=(parent,),
        patients=reply.patients,
        slices=reply.slices,
        **{score.key: getattr(reply, score.key) for score in (*SCORES, *GLAND)},
        **{name: getattr(reply, name) for name in COUNTED},
        false_slices=reply.false_slices,
        empty_slices=reply.empty_slices,
        cleaned=reply.cleaned,
        cases=Cases(
            numbers=reply.case_numbers,
            slices=reply.case_slices,
            dices=reply.case_dices,
            ious=reply.case_ious,
            volume_dices=reply.case_volume_dices,
        ),
    )


def of_skipped(node: FineTune, key: str, *, parent: str) -> StageRecord:
    """Return the record of a skipped stage.

    Args:
        node: the skipped training.
        key: the key of the decision to skip the training.
        parent: digest of the start weights, which the record also gives as the stage's result.
    """
    return StageRecord(key=key, kind="absent", site=node.site, fold=node.fold, parents=(parent,), weights=parent)
