"""The key of a stage: the digest of exactly those inputs and settings that determine the stage's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.config.study import Study
from common.digest import digest_of_json
from common.plan.graph import Evaluate, FineTune, share_at, single, visit_of
from common.protocol.messages import STAGE_VERSION


@dataclass(frozen=True)
class ExecutionEnvironment:
    """The data and the machine at a site, on which a stage's result depends besides the order."""

    fingerprint: str
    """The keyed digest of the site's data."""
    torch: str
    """The version of torch."""
    device: str
    """The kind of device: cpu, cuda or mps."""
    precision: str
    """The floating-point type of training."""


def stage_key(
    node: FineTune | Evaluate, *, study: Study, weights: str, environment: ExecutionEnvironment, parts: str = ""
) -> str:
    """Return the key of a stage: a sha256 over the stage, the study's settings for it, and its inputs.

    Two nodes with the same start weights by different routes have the same key, since their work is the same.

    Args:
        node: the stage.
        study: the study; only the settings relevant to the stage enter the key.
        weights: the digest of the stage's start weights; of an ensemble, its `ensemble_digest`; of weights that the
            site completes with tensors of its own, their `completed_digest`.
        environment: the site's data and machine.
        parts: of a training, the digest of the network's parts at the site that an earlier training kept; empty at a
            first visit, and for a network without such parts.
    """
    stage: dict[str, Any]
    if isinstance(node, FineTune) and node.trains:
        schedule = node.schedule
        stage = {
            "kind": "fine-tune",
            "schedule": [schedule.total_epochs, schedule.first, schedule.last, schedule.keep],
            "proximal_mu": node.proximal_mu,
            "seed": study.seed,
            "training": study.training.model_dump(mode="json", exclude={"leg_minutes", "epochs", "keep", "seeds"}),
        }
        if visit := visit_of(node):
            stage["visit"] = visit
        if node.stays:
            stage["stays"] = node.stays
        if node.hop is not None:
            stage["hop"] = node.hop.differing
        if node.share is not None:
            stage["share"] = node.share
        if parts:
            stage["parts"] = parts
        if node.without:
            stage["without"] = single(node.without)
    elif isinstance(node, FineTune):
        # No random number is drawn and no step is made: only the slices, the precision and the threads matter.
        stage = {
            "kind": "re-estimate",
            "training": study.training.model_dump(mode="json", include={"precision", "threads", "slices"}),
        }
    else:
        stage = {
            "kind": "evaluate",
            "split": node.split,
            # images are standardised by the training patients
            **({"share": share} if (share := share_at(node.weights, node.site)) is not None else {}),
            "training": study.training.model_dump(mode="json", include={"precision", "threads", "slices"}),
        }
    as_drawn = {} if isinstance(node, FineTune) or node.decides_clean_up else {"clean_up": False}
    stage |= {
        "version": STAGE_VERSION,
        "site": node.site,
        "fold": node.fold,
        "model": study.model.model_dump(mode="json", exclude={"encoder_weights"}),
        "preprocessing": study.preprocessing.model_dump(mode="json"),
        "postprocessing": study.postprocessing.model_dump(mode="json") | as_drawn,
        "splits": study.split.model_dump(mode="json", include={"seed", "test", "rotation", "test_fraction", "folds"}),
        "weights": weights,
        "data": environment.fingerprint,
        "machine": [environment.torch, environment.device, environment.precision],
    }
    return digest_of_json(stage)


def ensemble_digest(members: Sequence[str]) -> str:
    """Return the digest by which an ensemble goes in place of a weights file's digest.

    Args:
        members: the digests of the members' weights files, in the order of the members.
    """
    return digest_of_json(["ensemble", *members])


def completed_digest(shared: str, own: str) -> str:
    """Return the digest by which weights go that a site completes with tensors of its own.

    Args:
        shared: the digest of the weights file that travels; empty if all tensors are the site's own.
        own: the digest of the file of the site's own tensors, which never leaves the site; empty if there are none.
    """
    return digest_of_json(["completed", shared, own]) if shared and own else shared or own
