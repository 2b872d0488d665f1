"""The studies that histories are made of: small, and with all kinds of stages between them."""

from __future__ import annotations

from typing import Any

from common.config.study import Study
from tests.faults.history import Bench

NONE: dict[str, Any] = {
    "baseline": False,
    "longer_baseline": False,
    "sequential": {"routes": "none"},
    "federated": (),
    "pooled": False,
    "pooled_then_target": False,
    "forgetting": False,
}


def bench(
    name: str,
    sites: tuple[str, ...],
    epoch_seconds: float,
    leg_minutes: float,
    *,
    absence: dict[str, Any] | None = None,
    seed: int = 1,
    collapse: float = 0.0,  # scores are drawn, and fall by chance
    **methods: Any,
) -> Bench:
    study = Study.model_validate(
        {
            "sites": sites,
            "name": name,
            "seed": seed,
            "model": {"encoder_weights": "none"},
            "split": {"folds": 2},
            "absence": absence or {},
            "collapse": collapse,
            "training": {"epochs": 2, "leg_minutes": leg_minutes, "precision": "float32"},
            "methods": {**NONE, **methods},
        }
    )
    return Bench(name, study, epoch_seconds)


BENCHES = (
    # A leg an epoch.
    bench("routes", ("A", "B", "C"), 7.0, 0.1, baseline=True, sequential={"routes": (("B", "C", "A"),)}),
    bench("forgetting", ("A", "B"), 7.0, 10.0, sequential={"routes": (("B", "A"),)}, forgetting=True),
    bench("rounds", ("A", "B"), 3.0, 10.0, federated=({"rounds": 3, "local_epochs": 1},)),
    bench(
        "what stays",
        ("A", "B"),
        3.0,
        10.0,
        federated=({"rounds": 2, "local_epochs": 1, "batch_norm": "local", "ditto_lambda": 0.5},),
    ),
    # The round and the route come to the same weights: both train B for two epochs from the first weights, and with
    # this seed the last epoch is the best.
    bench(
        "shared",
        ("A", "B"),
        3.0,
        10.0,
        seed=2,
        sequential={"routes": (("B", "A"),)},
        federated=({"rounds": 1, "local_epochs": 2, "then_target": False},),
    ),
    # Checkpoints within a leg.
    bench("growing", ("A", "B"), 65.0, 10.0, sequential={"routes": "greedy"}),
)
