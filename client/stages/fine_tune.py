"""A leg of a fine-tuning stage: from the site's own checkpoint, for at most `leg_minutes`, up to an epoch's end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from client import progress
from client.evaluation import score_store
from client.evaluation.evaluate import slice_mean, volume_mean
from client.evaluation.floor import is_below_floor
from client.evaluation.scoring import case_numbers, network_of, predictions, validated
from client.governance.approval import approved
from client.governance.commitments import bind_restart
from client.governance.released_sets import PatientSets
from client.preprocessing.cohort import persons_of
from client.preprocessing.pipeline import Record
from client.stages.cases import case_fields, permitted
from client.stages.describe import trained_slices
from client.stages.order import VerifiedOrder
from client.stages.own_tensors import OwnTensors, own_tensors
from client.stages.store import StageStore, intact
from client.training.batches import Slices, Standard, standardised_slices, standards
from client.training.boxes import standardised_boxes
from client.training.collapse import SOUND, against_received
from client.training.device import choose_device
from client.training.fine_tune import Trained, fine_tune, re_estimated
from client.training.received import check_received
from common.config.study import Study
from common.model.network import declared, staying_names
from common.model.weights import Weights
from common.plan.graph import Evaluate, FineTune, Start, visit_of
from common.plan.stage_key import completed_digest, stage_key
from common.protocol.messages import FineTuneReply

CHECKPOINT_SECONDS = 60.0
"""Seconds after which an epoch's end saves a checkpoint; the end of every leg but the last saves a checkpoint too."""


def answer_fine_tune(order: VerifiedOrder[FineTune], store: StageStore) -> tuple[FineTuneReply, Weights | None]:
    """Train for one leg, estimate batch norm's statistics, or reply from the disk where the stage is finished.

    Returns:
        The reply, and with the last leg the finished weights, without the tensors that stay; None if all of them stay.

    Raises:
        Refused: the start weights differ from the order's digest, the site has left the study, the stage was begun
            anew before with another token, or the training diverged.
    """
    store.forget(order.acknowledged)
    if order.restart_token:
        bind_restart(order.site, order.study, order.node, order.restart_token)
        store.restart(order.key, order.restart_token)
    reply = store.reply(order.key, FineTuneReply)
    if reply is not None and all(_own(order).has(order.node, kept) for kept in (reply.own, reply.parts) if kept):
        finished = intact(store.weights(reply.weights), reply.weights) if reply.weights else None
        if finished is not None or not reply.weights:
            return permitted(reply, order.site), finished
    resume = store.checkpoint(order.key)
    (digest,) = order.models
    start = order.start or intact(store.start(order.key), digest) or intact(store.weights(digest), digest)
    if start is None:
        return FineTuneReply(study=order.study.digest, key=order.key, state="needs-weights"), None
    return _train(order, start, resume, store)


def _train(
    order: VerifiedOrder[FineTune], start: Weights, resume: Trained | None, store: StageStore
) -> tuple[FineTuneReply, Weights | None]:
    """Train for one leg, and return the reply, with the finished weights after the last leg."""
    site, study, node, cohort, key = order.site, order.study, order.node, order.cohort, order.key
    began = checkpointed = time.monotonic()
    device = choose_device(site.device, study.training.precision)
    train, validation = _patients(order)
    standard = standards(train, study)
    (digest,) = order.models
    network = network_of(study, start, digest, own=order.own, lacking=order.lacking, parts=order.parts)
    slices = _shown(train, standard, study), _shown(validation, standard, study)
    trained = resume
    if resume is None and node.trains and not isinstance(node.parent, Start):
        check_received(network, slices[1], training=study.training, device=device)
    legs_end = began + study.training.leg_minutes * 60
    if not node.trains:
        trained = re_estimated(network, slices[0], device)
    elif trained is None or trained.epoch < node.schedule.epochs:
        for trained in fine_tune(
            network,
            *slices,
            training=study.training,
            schedule=node.schedule,
            seed_names=(study.seed, site.name, node.fold, *([f"visit {visit}"] if (visit := visit_of(node)) else [])),
            device=device,
            proximal_mu=node.proximal_mu,
            anchor=start if node.stays == "everything" else None,
            hop=node.hop,
            output_weights=declared(study.model).output_weights,
            transfer=declared(study.model).transfer,
            apart=order.parts or (),
            resume=resume,
        ):
            approved(site, study.digest)  # raises Refused: a site that has left the study trains no further epoch
            progress.notify(trained.epoch, node.schedule.epochs, trained.dices[-1])
            now = time.monotonic()
            if trained.epoch == node.schedule.epochs:
                break
            if now >= legs_end:
                if not store.has_start(key):
                    store.save_start(key, start)
                store.save_checkpoint(key, trained)
                return _reply(order, trained, "running"), None
            if now - checkpointed >= CHECKPOINT_SECONDS:
                store.save_checkpoint(key, trained)
                checkpointed = now
    assert trained is not None
    network.load_state_dict(trained.kept)
    scores, cleaned = validated(predictions(network, device, standard, study.model), validation, study)
    dice, iou = slice_mean(scores)
    figures: dict[str, Any] = {"validation_dice": dice, "validation_iou": iou}
    figures["validation_dice_volume"] = volume_mean(scores)
    floored = not node.trains and is_below_floor(site, scores)
    if floored:  # an estimate of batch norm's statistics is a scoring of another's weights
        figures = dict.fromkeys(figures, 0.0)
    fell = node.trains and trained.dices[trained.kept_epoch - 1] < study.collapse
    if fell and not isinstance(node.parent, Start):
        received = network_of(study, start, digest, own=order.own, lacking=order.lacking)
        compared = against_received(network, received, *slices, training=study.training, device=device)
        # Of received weights that do little here, the coordinator needs to know no more than that.
        figures |= compared if not site.scoring_floor or compared.get("received_dice", 0.0) >= SOUND else {}
    numbers = case_numbers(site, cohort)
    figures |= {} if floored else case_fields(scores, numbers)
    stays = staying_names(study.model, node.stays)
    parts = {name: tensor for name, tensor in trained.kept.items() if name in (order.parts or ())}
    leaving = {name: tensor for name, tensor in trained.kept.items() if name not in stays and name not in parts}
    staying = {name: tensor for name, tensor in trained.kept.items() if name in stays}
    own = _own(order).keep(node, staying) if node.stays else ""
    left = store.save_weights(key, leaving) if leaving else ""
    stayed = {"own": own, "parts": _own(order).keep(node, parts) if parts else ""}
    reply = _reply(order, trained, "done").model_copy(update={"weights": left, **stayed, **figures})
    # An evaluation of these weights would give the same scores, so the scores are stored under the evaluation's key.
    scored = Evaluate(node.site, node.fold, "validation", node)
    score_store.keep(
        site,
        stage_key(scored, study=study, weights=completed_digest(left, own), environment=order.environment),
        scores,
        numbers,
        cleaned=cleaned,
    )
    store.finish(reply)
    return permitted(reply, site), leaving or None


def _shown(records: Sequence[Record], standard: Mapping[str, Standard], study: Study) -> Slices:
    """Return what the network is trained on or validated by: slices, or boxes."""
    model = study.model
    if model.dimensions == 3:
        return standardised_boxes(records, standard, model)
    return standardised_slices(records, standard, study.training, neighbours=model.neighbours, target=model.segments)


def _patients(order: VerifiedOrder[FineTune]) -> tuple[list[Record], list[Record]]:
    """Return the training and the validation patients of a stage; of pooled data, without those of sites left out."""
    cohort, node = order.cohort, order.node
    both = cohort.train(node.fold, node.share), cohort.validation(node.fold)
    train, validation = ([record for record in one if record.site not in node.without] for one in both)
    return train, validation


def sets_behind_training(order: VerifiedOrder[FineTune]) -> PatientSets:
    """Return the sets of patients behind the numbers of a training: those trained on and those who validate."""
    train, validation = (frozenset(record.patient for record in part) for part in _patients(order))
    return PatientSets((train, validation), persons_of(order.cohort))


def _own(order: VerifiedOrder[FineTune]) -> OwnTensors:
    return own_tensors(order.site.private(), order.study.digest)


def _reply(order: VerifiedOrder[FineTune], trained: Trained, state: str) -> FineTuneReply:
    train, validation = _patients(order)
    return FineTuneReply.model_validate(
        {
            "study": order.study.digest,
            "key": order.key,
            "state": state,
            "epoch": trained.epoch,
            "losses": trained.losses,
            "learning_rates": trained.learning_rates,
            "dices": trained.dices,
            "kept_epoch": trained.kept_epoch,
            "gradient_steps": trained.gradient_steps,
            "train_slices": trained_slices(train, order.study),
            "train_patients": len(train),
            "validation_patients": len(validation),
        }
    )
