"""A stage's key: the hash of all that determines its result, and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config.study import Study
from common.digest import digest_of_json
from common.plan.graph import Evaluate, FineTune
from common.protocol.messages import STAGE_VERSION


@dataclass(frozen=True)
class ExecutionEnvironment:
    """What a site brings to a result besides the order: its data and the machine it works on."""

    fingerprint: str
    torch: str
    device: str
    precision: str


def stage_key(node: FineTune | Evaluate, *, study: Study, weights: str, environment: ExecutionEnvironment) -> str:
    """sha256 over the stage itself, the parts of the study it depends on, its weights, data and machine.

    Two nodes that start from the same weights by different ways have the same key: the work is the same.
    """
    stage: dict[str, Any]
    if isinstance(node, FineTune):
        schedule = node.schedule
        stage = {
            "kind": "fine-tune",
            "schedule": [schedule.total_epochs, schedule.first, schedule.last, schedule.keep],
            "proximal_mu": node.proximal_mu,
            "seed": study.seed,
            "training": study.training.model_dump(mode="json", exclude={"leg_minutes", "epochs", "keep"}),
        }
    else:
        stage = {
            "kind": "evaluate",
            "split": node.split,
            "training": study.training.model_dump(mode="json", include={"precision", "threads"}),
        }
    stage |= {
        "version": STAGE_VERSION,
        "site": node.site,
        "fold": node.fold,
        "model": study.model.model_dump(mode="json", exclude={"encoder_weights"}),
        "preprocessing": study.preprocessing.model_dump(mode="json"),
        "splits": study.split.model_dump(mode="json", include={"seed", "test_fraction", "folds"}),
        "weights": weights,
        "data": environment.fingerprint,
        "machine": [environment.torch, environment.device, environment.precision],
    }
    return digest_of_json(stage)
