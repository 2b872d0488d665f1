"""Keys of the coordinator's own computations and decisions; for stages at sites see `common.plan.stage_key`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from common.config.study import Study
from common.digest import digest_of_json
from common.plan.graph import Average, Evaluate, FineTune, ServerStep
from common.protocol.messages import STAGE_VERSION
from server.ledger.ledger import StageRecord


def start_key(study: Study, source: str) -> str:
    """Return the key of a study's first weights.

    Args:
        study: the study; its network and seed enter the key.
        source: the digest of the file of encoder weights, or empty; see `server.initial_weights.source_digest`.
    """
    return _hash("start", STAGE_VERSION, study.model.model_dump(mode="json"), study.seed, source, torch.__version__)


def average_key(node: Average, parts: Mapping[str, StageRecord], *, parent: str, state: str = "") -> str:
    """Return the key of a round's average.

    Args:
        node: the average; its strategy and the settings of its server's optimizer enter the key.
        parts: the records of the averaged weights, by site.
        parent: the digest of the weights at the round's start.
        state: the digest of the state of the server's optimizer at the round's start; empty where there is none.
    """
    weights = {site: record.models[0] for site, record in parts.items()}
    shares = {site: record.train_slices for site, record in parts.items()}
    server = [[node.settings, state]] if isinstance(node, ServerStep) else []
    return _hash("average", STAGE_VERSION, node.strategy, parent, weights, shares, *server)


def refilled_key(weights: str, start: str) -> str:
    """Return the key of weights with the first weights' batch-norm tensors.

    Args:
        weights: the digest of the weights file without these tensors.
        start: the digest of the first weights.
    """
    return _hash("refilled", STAGE_VERSION, weights, start)


def absent_key(node: FineTune | Evaluate, study: Study, *, parent: str) -> str:
    """Return the key of the decision to skip a stage.

    The decision holds only for the stage's start weights, since later stages went on from these weights.

    Args:
        node: the skipped stage.
        study: the study of the decision.
        parent: the digest of the stage's start weights.
    """
    return _hash("absent", STAGE_VERSION, study.digest, node.id, parent)


def _hash(*parts: object) -> str:
    return digest_of_json(parts)
