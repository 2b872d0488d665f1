"""Conversion of a site's replies to records of the ledger."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from common.plan.graph import Evaluate, FineTune
from common.plan.stage_key import completed_digest, ensemble_digest
from common.protocol.messages import EvaluateReply, FineTuneReply
from common.scores import CALIBRATION, COUNTED, GLAND, OF_ZONES, SCORES, VALIDATED
from server.ledger.ledger import Cases, StageRecord


def of_training(node: FineTune, reply: FineTuneReply, *, parent: str) -> StageRecord:
    """Return the record of a training, or of an estimate of batch norm's statistics.

    Args:
        node: the stage.
        reply: the site's last reply.
        parent: digest of the weights file that the site received for the training.
    """
    return StageRecord(
        key=reply.key,
        kind="fine-tune" if node.trains else "re-estimate",
        site=node.site,
        fold=node.fold,
        parents=(parent,),
        weights=completed_digest(reply.weights, reply.own),
        own=reply.own,
        parts=reply.parts,
        shared=reply.weights if reply.own else "",
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
        cases=_cases(reply),
    )


def of_scores(node: Evaluate, reply: EvaluateReply, *, models: tuple[str, ...]) -> StageRecord:
    """Return the record of a scoring.

    Args:
        node: the scoring.
        reply: the site's reply.
        models: digests of the scored weights files: several of an ensemble.
    """
    # Replies of a study of the gland lack the figures of zones.
    names = (*(score.key for score in OF_ZONES), *COUNTED)
    counted: dict[str, Any] = {name: getattr(reply, name) or 0 for name in names}
    return StageRecord(
        key=reply.key,
        kind="evaluate",
        site=node.site,
        fold=node.fold,
        parents=models,
        patients=reply.patients,
        slices=reply.slices,
        **{score.key: getattr(reply, score.key) for score in (*SCORES, *GLAND, *CALIBRATION)},
        **counted,
        false_slices=reply.false_slices,
        empty_slices=reply.empty_slices,
        cleaned=reply.cleaned,
        below_floor=reply.below_floor,
        cases=_cases(reply),
    )


def _cases(reply: FineTuneReply | EvaluateReply) -> Cases:
    """Return the scores of single patients; empty where the site does not permit them."""
    return Cases(
        numbers=reply.case_numbers,
        slices=reply.case_slices,
        dices=reply.case_dices,
        ious=reply.case_ious,
        volume_dices=reply.case_volume_dices,
    )


def of_ensemble(fold: int, members: Sequence[StageRecord]) -> StageRecord:
    """Return the record of an ensemble.

    Args:
        fold: the fold of the ensemble's first member.
        members: the records of the members, in their order.
    """
    models = tuple(member.weights for member in members)
    digest = ensemble_digest(models)
    return StageRecord(key=digest, kind="ensemble", fold=fold, parents=models, weights=digest)


def of_choice_elsewhere(chosen: StageRecord, ballots: Sequence[StageRecord]) -> StageRecord:
    """Return the record of a choice by several sites: of the chosen weights, with the mean of the sites' scores.

    Args:
        chosen: the record of the chosen weights.
        ballots: the records with the scores of these weights, one a site.
    """
    means = {score.key: statistics.fmean(ballot.value(score) for ballot in ballots) for score in VALIDATED}
    return chosen.model_copy(update=means)


def of_completed(made: StageRecord, part: StageRecord) -> StageRecord:
    """Return the record of weights completed with a site's own tensors.

    Args:
        made: the record of the weights, which lack the tensors.
        part: the record of the site's training that kept its own, or of the decision to skip it.
    """
    digest = completed_digest(made.file, part.own)
    return StageRecord(
        key=digest,
        kind="completed",
        fold=made.fold,
        parents=(made.file,),
        weights=digest,
        own=part.own,
        shared=made.file,
    )


def of_skipped(
    node: FineTune, key: str, *, parent: str, before: StageRecord | None = None, parts: str = ""
) -> StageRecord:
    """Return the record of a skipped stage.

    Args:
        node: the skipped training.
        key: the key of the decision to skip the training.
        parent: digest of the start weights, which the record also gives as the stage's result.
        before: the record of the training whose kept tensors the skipped training would have gone on from; they stay
            the site's last ones.
        parts: the digest of the network's parts at the site with which the skipped training would have begun.
    """
    own = before.own if before else ""
    return StageRecord(
        key=key, kind="absent", site=node.site, fold=node.fold, parents=(parent,), weights=parent, own=own, parts=parts
    )
