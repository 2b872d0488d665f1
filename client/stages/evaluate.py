"""Evaluation of weights on a site's validation or test patients, without training."""

from __future__ import annotations

from client.evaluation import score_store
from client.evaluation.counted_means import counted_means
from client.evaluation.evaluate import Example, slice_mean, volume_mean
from client.evaluation.gallery import add_to_page
from client.evaluation.scoring import case_numbers, network_of, scores_of, validated
from client.stages.order import VerifiedOrder
from client.stages.store import StageStore, intact
from client.training.batches import statistics
from client.training.device import choose_device, place
from common.model.weights import Weights
from common.plan.graph import Evaluate, way_of
from common.plan.stage_key import stage_key
from common.protocol.messages import EvaluateReply

CASES = ("case_numbers", "case_slices", "case_dices", "case_ious", "case_volume_dices")
"""The fields of a reply about single patients: stored at the site, and sent only where the site's file permits."""


def answer_evaluate(order: VerifiedOrder[Evaluate], store: StageStore) -> EvaluateReply:
    """Score weights, or reply from the disk where the stage is finished.

    Raises:
        Refused: the weights differ from the order's digest.
    """
    reply = store.reply(order.key, EvaluateReply)
    if reply is None:
        weights = order.start or intact(store.weights(order.start_digest), order.start_digest)
        if weights is None:
            return EvaluateReply(study=order.study.digest, key=order.key, state="needs-weights")
        reply = score(order, weights)
        store.finish(reply)
    store.forget(order.acknowledged)
    return reply if order.site.patient_scores else reply.model_copy(update=dict.fromkeys(CASES, ()))


def score(order: VerifiedOrder[Evaluate], weights: Weights) -> EvaluateReply:
    """Score weights on the patients of a split, and show a test's worst patients and slices on the site's page.

    Raises:
        Refused: the weights differ from the order's digest.
    """
    site, study, node, cohort = order.site, order.study, order.node, order.cohort
    device = choose_device(site.device, study.training.precision)
    network = network_of(study, weights, order.start_digest)
    place(network, device)
    examples: list[Example] = []
    mean_std = statistics(cohort.train(node.fold), study.training)
    numbers = case_numbers(site, cohort)
    key = validation_key(order)
    known = score_store.kept(site, key) if node.split == "test" else None
    cleaned = known is not None and known.cleaned
    if node.split == "validation" or (known is None and study.postprocessing.clean_up):
        # The test patients choose nothing: whether this model is cleaned up after, its validation patients say.
        scores, cleaned = validated(network, cohort.validation(node.fold), mean_std, device, study)
        score_store.keep(site, key, scores, numbers, cleaned=cleaned)
    if node.split == "test":
        scores = scores_of(network, cohort.test(), mean_std, device, examples, cleaned=cleaned, surfaces=True)
        score_store.keep(site, order.key, scores, numbers, cleaned=cleaned)
    dice, iou = slice_mean(scores)
    ordered = sorted(scores, key=lambda score: numbers[score.patient])
    if node.split == "test":
        title = f"{way_of(node.weights)}, fold {node.fold + 1}"
        add_to_page(site, title=title, stage=node.id, examples=examples, scores=scores, numbers=numbers)
    return EvaluateReply.model_validate(
        {
            "study": study.digest,
            "key": order.key,
            "state": "done",
            "dice": dice,
            "iou": iou,
            "dice_volume": volume_mean(scores),
            "false_slices": sum(score.false_slices for score in scores),
            "empty_slices": sum(score.empty_slices for score in scores),
            "cleaned": cleaned,
            "patients": len(scores),
            "slices": sum(score.slices for score in scores),
            **(counted_means(scores, minimum_patients=site.minimum_patients) if node.split == "test" else {}),
            "case_numbers": tuple(numbers[score.patient] for score in ordered),
            "case_slices": tuple(score.slices for score in ordered),
            "case_dices": tuple(score.dice for score in ordered),
            "case_ious": tuple(score.iou for score in ordered),
            "case_volume_dices": tuple(round(score.dice_volume, 6) for score in ordered),
        }
    )


def validation_key(order: VerifiedOrder[Evaluate]) -> str:
    """Return the key of the same weights' scoring on the fold's validation patients."""
    node = Evaluate(order.node.site, order.node.fold, "validation", order.node.weights)
    return stage_key(node, study=order.study, weights=order.start_digest, environment=order.environment)
