"""The step from weights to scores on a site's patients, and the check of weights against the digest in a message."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.data.site_key import site_key
from client.evaluation.evaluate import (
    CaseScore,
    Probabilities,
    evaluate,
    evaluate_both,
    standardised_first,
    volume_mean,
)
from client.preprocessing.cohort import Cohort
from client.preprocessing.pipeline import PatientSlices, Record
from client.site_config import SiteConfig
from client.training.batches import Standard, standardised, with_neighbours
from client.training.boxes import volume_probabilities
from client.training.device import Device
from client.training.fine_tune import probabilities
from common.config.model import ModelConfig
from common.config.study import Study
from common.digest import digest_of
from common.model.network import build_undrawn
from common.model.weights import UnfitWeights, Weights, check_fit, serialize_chunks
from common.protocol.refusals import Refusal, Refused
from common.seeds import seed_of


def predictions(
    network: nn.Module, device: Device, standard: Mapping[str, Standard], model: ModelConfig
) -> Probabilities:
    """Return a network's probabilities for patients, each standardised as the patient's site has it.

    Args:
        network: the network, on its device.
        device: the device and precision to predict in.
        standard: by what each site's images are standardised.
        model: the study's network.
    """

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        shown = torch.from_numpy(with_neighbours(images, model.neighbours))
        return probabilities(network, shown, device).squeeze(1).numpy()

    def of_volume(record: Record, slices: PatientSlices) -> NDArray[np.float32]:
        shown = standardised(slices.image, standard[record.site])
        return volume_probabilities(network, shown, slices.native_spacing[0], model, device)

    return of_volume if model.dimensions == 3 else standardised_first(predict, lambda record: standard[record.site])


def validated(model: Probabilities, records: Sequence[Record], study: Study) -> tuple[list[CaseScore], bool]:
    """Return a model's scores on validation patients, and whether the model is cleaned up after.

    A study with `postprocessing.clean_up` scores without and with a clean-up; the clean-up stays where the mean volume
    Dice gains, and the scores are those of the segmentations that stay.

    Args:
        model: the model.
        records: the validation patients.
        study: the study.
    """
    if not study.postprocessing.clean_up:
        return evaluate(model, records), False
    plain, cleaned = evaluate_both(model, records)
    gains = volume_mean(cleaned) > volume_mean(plain)
    return (cleaned if gains else plain), gains


def network_of(
    study: Study,
    weights: Weights,
    digest: str,
    *,
    own: Mapping[str, torch.Tensor] | None = None,
    lacking: Collection[str] = (),
    parts: Mapping[str, torch.Tensor] | None = None,
) -> nn.Module:
    """Return the study's network with weights named in a message by their digest.

    Args:
        study: the study.
        weights: the weights.
        digest: the digest in the message.
        own: tensors of the site's own, which take the place of those of the weights.
        lacking: the names of the tensors that the weights must lack, since they stayed at the sites.
        parts: the tensors of the modules that belong to the site, for a training; None: the network is without them.

    Raises:
        Refused: the weights do not fit the study's network, or have another digest.
    """
    network = build_undrawn(study.model, whole=parts is not None)
    check_named(study, weights, digest, lacking=lacking)
    network.load_state_dict({**weights, **(own or {}), **(parts or {})})
    return network


def check_named(study: Study, weights: Weights, digest: str, *, lacking: Collection[str] = ()) -> None:
    """Refuse weights that do not fit the study's network, or whose digest differs from the message's.

    Args:
        study: the study.
        weights: the weights.
        digest: the digest in the message.
        lacking: the names of the tensors that the weights must lack.

    Raises:
        Refused: the weights do not fit, or have another digest.
    """
    try:
        check_fit(weights, study.model, without=lacking)
    except UnfitWeights:
        raise Refused(Refusal.BAD_WEIGHTS) from None
    if digest_of(serialize_chunks(weights)) != digest:
        raise Refused(Refusal.BAD_WEIGHTS)


def case_numbers(site: SiteConfig, cohort: Cohort) -> dict[str, int]:
    """Return a random number for each patient: the same for every model, and meaningless outside the site."""
    key = int.from_bytes(site_key(site), "big")
    ranks: dict[str, int] = {name: seed_of(key, name) for name in cohort.records}
    return {name: number for number, name in enumerate(sorted(ranks, key=ranks.__getitem__), start=1)}
