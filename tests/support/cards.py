"""Model cards and outcomes as a test needs them, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.delivery.model_card import Card, CurveBin, Figure, HopScores, HospitalCounts, Reference, Scores
from client.delivery.store import Arrival, Outcome
from common.config.model import ModelConfig
from common.config.study import PreprocessingConfig, TrainingConfig

SELECTED, BASELINE, LONGER = "b" * 64, "c" * 64, "d" * 64


def figure(mean: float, spread: float | None = None, patients: int = 6) -> Figure:
    if spread is None:
        return Figure(mean=mean, patients=patients)
    return Figure(mean=mean, low=mean - spread, high=mean + spread, patients=patients)


def scores(dice: float, patients: int = 6, *, drawn: int | None = None) -> Scores:
    spread = None if patients < 6 else 2.0
    distances = [figure(mean, spread and 0.5, drawn or patients) for mean in (6.25, 1.75)]
    return Scores(
        slices=77,
        false_slices=3,
        empty_slices=41,
        dice=figure(dice, spread, patients),
        iou=figure(dice - 7, spread, patients),
        dice_volume=figure(dice - 2, spread, patients),
        hd95_mm=distances[0] if drawn != 0 else None,
        assd_mm=distances[1] if drawn != 0 else None,
        calibration_error=figure(100 - dice, spread and 0.25, patients),
        reliability=tuple(
            CurveBin(low=low, high=low + 10, patients=patients, voxels=10.0, probability=low + 6, gland=low + 0.5)
            for low in range(0, 100, 10)
            if low != 40
        ),
    )


def reference(method: str, ahead: Figure | None, patients: int = 6, volume_ahead: Figure | None = None) -> Reference:
    weights = BASELINE if method == "baseline" else LONGER
    return Reference(
        method=method,
        fold=0,
        weights=weights,
        validation_dice=90.0,
        scores=scores(88.5, patients),
        ahead=ahead,
        volume_ahead=volume_ahead or ahead,
    )


def card(**changes: Any) -> Card:
    """Of the route B → C → A at hospital A, from a study of three."""
    fields: dict[str, Any] = {
        "relay": "0.1.0",
        "received": "2026-05-04T09:00:00+00:00",
        "study": "three-hospitals",
        "study_digest": "a" * 64,
        "about": "",
        "licence": "",
        "synthetic": False,
        "site": "A",
        "role": "selected",
        "method": "sequential",
        "route": ("B", "C", "A"),
        "fold": 1,
        "folds": 5,
        "weights": SELECTED,
        "model": ModelConfig(),
        "preprocessing": PreprocessingConfig(),
        "training": TrainingConfig(),
        "mean": 312.5,
        "std": 201.25,
        "device": "cpu",
        "precision": "float32",
        "torch": "2.13.0",
        "hospitals": tuple(
            HospitalCounts(name=name, patients=patients, test_patients=6, slices=400, trained=True)
            for name, patients in (("A", 30), ("B", 31), ("C", 19))
        ),
        "validation_dice": 92.25,
        "checked": True,
        "scores": scores(91.4),
        "references": (),
        "forgetting": (),
    }
    return Card(**(fields | changes))


HOPS = (
    HopScores(site="B", dice={"A": 70.0, "B": 90.0, "C": 66.0}),
    HopScores(site="C", dice={"A": 72.0, "B": 80.0, "C": 86.0}),
    HopScores(site="A", dice={"A": 91.4, "B": 75.0, "C": 70.5}),
)


def outcome(
    ahead: Figure,
    differences: Sequence[float],
    *,
    methods: Sequence[str] = ("baseline", "longer"),
    volume_ahead: Figure | None = None,
    **changes: Any,
) -> Outcome:
    """A route against the hospital's own: the last of the methods, ahead of which it is by so much."""
    references = tuple(
        reference(method, ahead if method == methods[-1] else figure(3.0, None), ahead.patients, volume_ahead)
        for method in methods
    )
    own = references[-1]
    selected = card(references=references, scores=scores(91.4, ahead.patients), **changes)
    beside = card(references=references, role="own", method=own.method, route=("A",), weights=own.weights)
    return Outcome(
        Arrival(selected, Path("selected.safetensors"), {own.method: tuple(differences)}),
        Arrival(beside, Path("own.safetensors"), {}),
    )
