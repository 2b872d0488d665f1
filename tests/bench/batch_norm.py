"""Statistics of batch normalisation: what estimating them anew costs, and what it gains.

    python -m tests.bench.batch_norm [HOSPITALS]

The demo's synthetic hospitals (written first, or found in the folder HOSPITALS), its grid and batches, one thread. A
network is trained from random weights with torch's running averages; the same weights are then scored twice, with the
running averages and with statistics estimated anew from the training slices.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import prepare
from client.site_config import load_site
from client.training.batch_norm import estimate_statistics
from client.training.batches import Slices, standardised_slices, statistics
from client.training.device import Device
from client.training.fine_tune import fine_tune, grid_dice
from common.config.model import ModelConfig
from common.config.study import Study, load_study
from common.model.network import build
from common.plan.graph import Schedule
from deploy.phantom import write_hospitals
from tests.bench.pairs import show, table
from tests.support.hospitals import REPO

STEPS = (5, 20, 100)
NETWORKS = ("mobilenet_v2", "resnet18")
SEEDS = (1, 2)


def slices_of(study: Study, path: Path) -> tuple[Slices, Slices]:
    """Training and validation slices of the first fold."""
    site = load_site(path)
    cohort = gather(prepare(site, study.preprocessing).records, site, study.split)
    training = study.training
    mean_std = statistics(cohort.train(0), training)
    return (
        standardised_slices(cohort.train(0), mean_std, training),
        standardised_slices(cohort.validation(0), mean_std, training),
    )


def scored_twice(
    study: Study, encoder: str, train: Slices, validation: Slices, steps: int, seed: int, precision: str
) -> tuple[float, float, float, float]:
    """Dice with running averages and with estimated statistics; seconds of an epoch and of the estimate."""
    epoch_steps = -(-len(train.images) // study.training.batch)
    epochs = max(1, round(steps / epoch_steps))
    if steps < epoch_steps:  # fewer slices, shown once
        train = Slices(train.images[: steps * study.training.batch], train.masks[: steps * study.training.batch])
    torch.manual_seed(seed)
    network = build(ModelConfig(architecture="Unet", encoder=encoder, encoder_weights="none"))
    device = Device("cpu", precision)
    began = time.perf_counter()
    for _ in fine_tune(
        network,
        train,
        validation,
        training=study.training.model_copy(update={"batch_norm": "running"}),
        schedule=Schedule(epochs, 0, epochs, "last"),
        seed_names=(seed, "bench"),
        device=device,
    ):
        pass
    trained = time.perf_counter()
    before = grid_dice(network, validation, device)
    began_estimate = time.perf_counter()
    estimate_statistics(network, train.images, device)
    estimate = time.perf_counter() - began_estimate
    return before, grid_dice(network, validation, device), (trained - began) / epochs, estimate


def cells(found: list[tuple[float, float, float, float]]) -> Iterator[str]:
    count = len(found)
    before, after, epoch, estimate = (sum(values) / count for values in zip(*found, strict=True))
    yield f"{100 * before:.1f}"
    yield f"{100 * after:.1f}"
    yield f"{epoch:.2f} s"
    yield f"{estimate:.2f} s"
    yield f"{estimate / epoch:.2f}"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    study = load_study(REPO / "deploy" / "studies" / "demo.toml")
    paths = write_hospitals(folder, patients={"A": 8, "B": 8, "C": 6})
    data = {name: slices_of(study, path) for name, path in paths.items()}
    made = table(
        "Validation Dice (%), running averages and estimated statistics",
        "network, precision, steps",
        "running",
        "estimated",
        "an epoch",
        "an estimate",
        "ratio",
    )
    for encoder, precision, steps in itertools.product(NETWORKS, ("float32", "bfloat16"), STEPS):
        found = [
            scored_twice(study, encoder, *slices, steps, seed, precision) for slices in data.values() for seed in SEEDS
        ]
        made.add_row(f"{encoder}, {precision}, {steps}", *cells(found))
    show(made, "Means over three hospitals and two seeds; an epoch is timed with its scoring, without the estimate.")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
