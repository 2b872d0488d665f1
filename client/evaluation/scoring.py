"""From weights to the declared answer of how well they do on a site's patients."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.evaluation import score_store
from client.evaluation.evaluate import CaseScore, Example, evaluate, slice_mean
from client.evaluation.gallery import add_to_page
from client.preprocessing.cohort import Cohort
from client.preprocessing.pipeline import Record, site_key
from client.site_config import SiteConfig
from client.training.batches import MeanStd, statistics
from client.training.device import Device, choose_device, place
from client.training.fine_tune import probabilities
from common.config.study import Study
from common.digest import digest_of
from common.model.network import build_undrawn
from common.model.weights import UnfitWeights, Weights, check_fit, serialize_chunks
from common.plan.graph import Evaluate, way_of
from common.protocol.messages import EvaluateOrder, EvaluateReply
from common.protocol.refusals import Refusal, Refused
from common.scores import DISTANCES
from common.seeds import seed_of


def score(
    site: SiteConfig, study: Study, node: Evaluate, cohort: Cohort, order: EvaluateOrder, weights: Weights
) -> EvaluateReply:
    """Scores on the patients of a split; the site's own page keeps the worst and best slices of a test."""
    device = choose_device(site.device, study.training.precision)
    network = network_of(study, weights, order.weights)
    place(network, device)
    examples: list[Example] = []
    records = cohort.test() if node.split == "test" else cohort.validation(node.fold)
    mean_std = statistics(cohort.train(node.fold))
    scores = scores_of(network, records, mean_std, device, examples, surfaces=node.split == "test")
    dice, iou = slice_mean(scores)
    numbers = case_numbers(site, cohort)
    score_store.keep(site, order.key, scores, numbers)
    ordered = sorted(scores, key=lambda score: numbers[score.patient])
    if node.split == "test":
        add_to_page(site, title=f"{way_of(node.weights)}, fold {node.fold + 1}", stage=node.id, examples=examples)
    # Fewer than may stand behind a number: the numbers stay, the rest of the answer may go.
    drawn = [score for score in scores if score.hd95_mm is not None]
    if len(drawn) < site.minimum_patients:
        drawn = []
    keys = [one.key for one in DISTANCES]
    means = np.mean([[getattr(score, key) for key in keys] for score in drawn], axis=0).tolist() if drawn else ()
    distances = dict(zip(keys, means, strict=bool(drawn)))
    return EvaluateReply.model_validate(
        {
            "study": study.digest,
            "key": order.key,
            "state": "done",
            "dice": dice,
            "iou": iou,
            "dice_volume": float(np.mean([score.dice_volume for score in scores])),
            "patients": len(scores),
            "slices": sum(score.slices for score in scores),
            **distances,
            "surface_patients": len(drawn),
            "case_numbers": tuple(numbers[score.patient] for score in ordered),
            "case_slices": tuple(score.slices for score in ordered),
            "case_dices": tuple(score.dice for score in ordered),
            "case_ious": tuple(score.iou for score in ordered),
        }
    )


def scores_of(
    network: nn.Module,
    records: list[Record],
    mean_std: dict[str, MeanStd],
    device: Device,
    examples: list[Example] | None = None,
    *,
    surfaces: bool = False,
) -> list[CaseScore]:
    """A network's scores on some patients, each standardised as its site's are."""

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities(network, torch.from_numpy(images).unsqueeze(1), device).squeeze(1).numpy()

    return evaluate(
        predict,
        records,
        lambda record: mean_std[record.site],
        surfaces=surfaces,
        keep=None if examples is None else examples.append,
    )


def network_of(study: Study, weights: Weights, digest: str) -> nn.Module:
    """The declared network with weights that a message names.

    Raises:
        Refused: they are not the declared network's, or not those of that digest.
    """
    network = build_undrawn(study.model)
    check_named(study, weights, digest)
    network.load_state_dict(weights)
    return network


def check_named(study: Study, weights: Weights, digest: str) -> None:
    """Refuse weights that are not the declared network's, or not those of a digest. Raises Refused."""
    try:
        check_fit(weights, study.model)
    except UnfitWeights:
        raise Refused(Refusal.BAD_WEIGHTS) from None
    if digest_of(serialize_chunks(weights)) != digest:
        raise Refused(Refusal.BAD_WEIGHTS)


def case_numbers(site: SiteConfig, cohort: Cohort) -> dict[str, int]:
    """Random numbers in the patients' place: the same for every model, and meaningless elsewhere."""
    key = int.from_bytes(site_key(site), "big")
    ranks: dict[str, int] = {name: seed_of(key, name) for name in cohort.records}
    return {name: number for number, name in enumerate(sorted(ranks, key=ranks.__getitem__), start=1)}
