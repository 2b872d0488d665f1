"""Keys of what the coordinator works out or decides itself, as `common.plan.stage_key` has those of a site's stages."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from common.config.study import Study
from common.digest import digest_of_json
from common.plan.graph import Average, Evaluate, FineTune
from common.protocol.messages import STAGE_VERSION
from server.ledger.ledger import StageRecord


def start_key(study: Study, source: str) -> str:
    """Args: source: what the first weights depend on outside the study; see `server.initial_weights.source_digest`."""
    return _hash("start", STAGE_VERSION, study.model.model_dump(mode="json"), study.seed, source, torch.__version__)


def average_key(node: Average, parts: Mapping[str, StageRecord], *, parent: str) -> str:
    """Args: parts: by site, what is averaged; parent: digest of the weights that the round started from."""
    weights = {site: record.weights for site, record in parts.items()}
    shares = {site: record.train_slices for site, record in parts.items()}
    return _hash("average", STAGE_VERSION, node.strategy, parent, weights, shares)


def absent_key(node: FineTune | Evaluate, study: Study, *, parent: str) -> str:
    """Of the decision to go on without a stage. It stands for these weights: what followed was made without it."""
    return _hash("absent", STAGE_VERSION, study.digest, node.id, parent)


def _hash(*parts: object) -> str:
    return digest_of_json(parts)
