"""Evaluation of weights on a site's validation or test patients, without training."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Sequence

from client.evaluation import score_store
from client.evaluation.counted_means import counted_means
from client.evaluation.ensemble import Incomplete, MeanProbabilities, shown_fold
from client.evaluation.evaluate import CaseScore, Example, Probabilities, evaluate, slice_mean, volume_mean
from client.evaluation.floor import is_below_floor
from client.evaluation.gallery import add_to_page
from client.evaluation.scoring import case_numbers, network_of, predictions, validated
from client.governance import looks, released_sets
from client.governance.released_sets import PatientSets
from client.preprocessing.cohort import persons_of
from client.preprocessing.pipeline import Record
from client.stages.cases import case_fields, permitted
from client.stages.describe import is_enough
from client.stages.order import VerifiedOrder
from client.stages.store import StageStore, intact
from client.training.batches import standards
from client.training.device import choose_device, place
from common.model.weights import Weights
from common.plan.graph import Evaluate, Node, ensemble_in, share_at, validation_folds, way_of
from common.plan.stage_key import stage_key
from common.protocol.messages import EvaluateReply
from common.scores import unmeasured


def answer_evaluate(order: VerifiedOrder[Evaluate], store: StageStore) -> EvaluateReply:
    """Score weights, or reply from the disk where the stage is finished.

    The members of an ensemble arrive one after the other: the reply names the next member needed.

    Raises:
        Refused: the weights differ from the order's digest.
    """
    reply = store.reply(order.key, EvaluateReply)
    if reply is None:
        try:
            model = _ensemble_model(order, store) if len(order.models) > 1 else _single_model(order, store)
            if isinstance(model, int):
                return EvaluateReply(study=order.study.digest, key=order.key, state="needs-weights", member=model)
            reply = score(order, model)
            if order.node.split == "test" and not reply.below_floor:
                looks.note(order.site, order.study.digest, order.key)
        except Incomplete:
            shutil.rmtree(store.beside(order.key), ignore_errors=True)
            return EvaluateReply(study=order.study.digest, key=order.key, state="needs-weights")
        store.finish(reply)
    shutil.rmtree(store.beside(order.key), ignore_errors=True)
    store.forget(order.acknowledged)
    return permitted(reply, order.site)


def sets_behind_scoring(order: VerifiedOrder[Evaluate]) -> PatientSets:
    """Return the set of patients behind the numbers of a scoring."""
    split = order.cohort.split
    folds = (split.validation[fold] for fold in validation_folds(order.node))
    scored = split.test if order.node.split == "test" else itertools.chain.from_iterable(folds)
    return PatientSets((frozenset(scored),), persons_of(order.cohort))


def _single_model(order: VerifiedOrder[Evaluate], store: StageStore) -> Probabilities | int:
    """Return the model to score, or 0 where its weights are needed."""
    weights = _weights(order, store, 0)
    return 0 if weights is None else _model(order, weights, 0, order.node.fold)


def _ensemble_model(order: VerifiedOrder[Evaluate], store: StageStore) -> Probabilities | int:
    """Return the ensemble to score, or the place of the member whose weights are needed next.

    Each member segments its patients once its weights are here, and is then dropped: at any time, one model is in
    memory.
    """
    mean = MeanProbabilities(store.beside(order.key))
    mean.begin(validates=order.node.split == "validation" or _validates_first(order))
    ensemble = ensemble_in(order.node.weights)
    assert ensemble is not None
    for number in range(mean.added, len(ensemble.members)):
        weights, member = _weights(order, store, number), ensemble.members[number]
        if weights is None:
            return number
        fold = shown_fold(member, order.site.name, order.node.fold)
        patients = _patients(order, member, validates=mean.validates)
        mean.add(number, _model(order, weights, number, fold), patients)
    return mean.of


def _weights(order: VerifiedOrder[Evaluate], store: StageStore, number: int) -> Weights | None:
    """Return the weights of a model of the order, from the order or from this site's disk; None where they are needed.

    Weights from the order are not yet compared with their digest.
    """
    if order.start is not None and order.came == number:
        return order.start
    return intact(store.weights(order.models[number]), order.models[number])


def _model(order: VerifiedOrder[Evaluate], weights: Weights, number: int, fold: int) -> Probabilities:
    """Return a model of the order, which standardises by the training patients of a fold.

    Raises:
        Refused: the weights differ from the order's digest.
    """
    device = choose_device(order.site.device, order.study.training.precision)
    network = network_of(order.study, weights, order.models[number], own=order.own, lacking=order.lacking)
    place(network, device)
    share = share_at(order.node.weights, order.site.name)
    standard = standards(order.cohort.train(fold, share), order.study)
    return predictions(network, device, standard, order.study.model)


def _patients(order: VerifiedOrder[Evaluate], member: Node, *, validates: bool) -> Iterator[Record]:
    """Yield the patients that a member segments: on a validation split, no patient of the member's training."""
    if order.node.split == "test":
        yield from order.cohort.test()
    if validates:
        for fold in validation_folds(order.node):
            if shown_fold(member, order.site.name, fold) == fold:
                yield from order.cohort.validation(fold)


def _validates_first(order: VerifiedOrder[Evaluate]) -> bool:
    """Return whether a test has to segment validation patients too: for the floor, and to decide on the clean-up.

    The test patients choose nothing: whether this model is cleaned up after, its validation patients say.
    """
    decides = order.study.postprocessing.clean_up and order.node.decides_clean_up
    return (decides or order.site.scoring_floor > 0) and score_store.kept(order.site, validation_key(order)) is None


def score(order: VerifiedOrder[Evaluate], model: Probabilities) -> EvaluateReply:
    """Score a model on the patients of a split, and show a test's worst patients and slices on the site's own page.

    A model below the site's floor is not scored on test patients, and its figures are 0.
    """
    site, study, node, cohort = order.site, order.study, order.node, order.cohort
    examples: list[Example] = []
    numbers = case_numbers(site, cohort)
    key = validation_key(order)
    scores: list[CaseScore] = []
    cleaned = False
    if node.split == "validation" or _validates_first(order):
        patients = [record for fold in validation_folds(node) for record in cohort.validation(fold)]
        scores, cleaned = validated(model, patients, study)
        score_store.keep(site, key, scores, numbers, cleaned=cleaned)
    on_record = score_store.kept(site, key) if site.scoring_floor or node.split == "test" else None
    if on_record is not None and is_below_floor(site, on_record.patients):
        return _without_figures(order)
    if node.split == "test":
        cleaned = node.decides_clean_up and on_record is not None and on_record.cleaned
        scores = evaluate(model, cohort.test(), cleaned=cleaned, surfaces=True, keep=examples.append)
        score_store.keep(site, order.key, scores, numbers, cleaned=cleaned)
        title = f"{way_of(node.weights)}, fold {node.fold + 1}"
        add_to_page(site, title=title, stage=node.id, examples=examples, scores=scores, numbers=numbers)
    return _reply(order, scores, numbers, cleaned=cleaned)


def _without_figures(order: VerifiedOrder[Evaluate]) -> EvaluateReply:
    """Return the reply about a model below the site's floor: the numbers of patients and slices, and nothing of it."""
    node, cohort = order.node, order.cohort
    validating = (record for fold in validation_folds(node) for record in cohort.validation(fold))
    records = cohort.test() if node.split == "test" else list(validating)
    return EvaluateReply.model_validate(
        {
            "study": order.study.digest,
            "key": order.key,
            "state": "done",
            "below_floor": True,
            "patients": len(records),
            "slices": sum(record.selected for record in records),
            **unmeasured(order.study.model.segments),
        }
    )


def _reply(
    order: VerifiedOrder[Evaluate], scores: Sequence[CaseScore], numbers: dict[str, int], *, cleaned: bool
) -> EvaluateReply:
    dice, iou = slice_mean(scores)
    tested = order.node.split == "test"
    return EvaluateReply.model_validate(
        {
            "study": order.study.digest,
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
            **unmeasured(order.study.model.segments),
            **(_counted(order, scores) if tested else {}),
            **case_fields(scores, numbers),
        }
    )


def _counted(order: VerifiedOrder[Evaluate], scores: Sequence[CaseScore]) -> dict[str, float | int]:
    """Return the means over those test patients who have a value; without those that would tell of too few patients.

    Which patients have a value depends on the model, and so on who made it.
    """

    def may_leave(measured: frozenset[str]) -> bool:
        if not is_enough(order.site, len(measured), len(scores)):
            return False
        behind = PatientSets((measured,), persons_of(order.cohort))
        return released_sets.admitted(order.site, behind, study=order.study.digest)

    return counted_means(scores, may_leave)


def validation_key(order: VerifiedOrder[Evaluate]) -> str:
    """Return the key of the same weights' scoring on the fold's validation patients."""
    node = Evaluate(order.node.site, order.node.fold, "validation", order.node.weights)
    return stage_key(node, study=order.study, weights=order.start_digest, environment=order.environment)
