"""3. A training step: as a site does it, against the plain float32 loop, with the Dice that both reach.

    python -m tests.bench.step [PAIRS]

UNet++ with EfficientNet-B3, as in the paper, at 128 × 128 and batches of 8, with as many threads as the machine has
cores; slices of synthetic patients, read from files. Both start from the same weights and see the same batches.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from client.preprocessing.pipeline import load, prepare
from client.site_config import load_site
from client.training.batches import Slices
from client.training.device import choose_device
from client.training.fine_tune import fine_tune
from common.config.model import ModelConfig
from common.model.network import build
from common.plan.graph import Schedule
from tests.bench.pairs import PAIRS, Pairs, show, table
from tests.end_to_end.plain_loop import augmented, dice_and_bce, slice_dice
from tests.support.hospitals import small_study, write_hospitals

MODEL = ModelConfig(architecture="UnetPlusPlus", encoder="efficientnet-b3", encoder_weights="none")
EPOCHS = 8


def slices_of(folder: Path) -> tuple[Slices, Slices]:
    """Training and validation slices of one synthetic hospital."""
    import numpy as np

    study = small_study(preprocessing={"pixels": 128, "spacing_mm": 56 / 128, "minimum_mask_pixels": 50})
    site = load_site(write_hospitals(folder, {"A": 10}, slices=9)["A"])
    patients = [load(record) for record in prepare(site, study.preprocessing).records]

    def taken(some: list) -> Slices:  # type: ignore[type-arg]
        images = np.concatenate([patient.image[patient.selected] for patient in some])
        masks = np.concatenate([patient.mask[patient.selected] for patient in some])
        mean, std = np.float32(images.mean()), np.float32(images.std())
        return Slices(
            torch.from_numpy((images - mean) / std)[:, None], torch.from_numpy(masks.astype(np.float32))[:, None]
        )

    return taken(patients[:8]), taken(patients[8:])


def main(pairs: int = PAIRS) -> None:
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory() as name:
        train, validation = slices_of(Path(name))
    torch.manual_seed(0)
    start = {name: tensor.clone() for name, tensor in build(MODEL).state_dict().items()}
    study = small_study(training={"epochs": EPOCHS, "batch": 8, "learning_rate": 1e-3, "precision": "auto"})
    device = choose_device("cpu", "auto")
    steps = -(-len(train.images) // 8)
    dices: tuple[list[float], list[float]] = ([], [])

    def ours() -> float:
        network = build(MODEL)
        network.load_state_dict(start)
        began = time.perf_counter()
        *_, last = fine_tune(
            network,
            train,
            validation,
            training=study.training,
            schedule=Schedule(EPOCHS, 0, EPOCHS, "best"),
            seed_names=(1, "A", 0),
            device=device,
        )
        dices[0].append(max(last.dices))
        return (time.perf_counter() - began) / (EPOCHS * steps)

    def plain() -> float:
        network = build(MODEL)
        network.load_state_dict(start)
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, EPOCHS)
        best = 0.0
        began = time.perf_counter()
        for epoch in range(EPOCHS):
            generator = torch.Generator().manual_seed(epoch)
            network.train()
            for selected in torch.randperm(len(train.images), generator=generator).split(8):
                x, y = augmented(train.images[selected], train.masks[selected], generator)
                loss = dice_and_bce(network(x), y)
                adam.zero_grad()
                loss.backward()
                adam.step()
            cosine.step()
            network.eval()
            with torch.no_grad():
                predicted = torch.cat([network(part) for part in validation.images.split(32)]) > 0
            best = max(best, slice_dice(predicted[:, 0].numpy(), validation.masks[:, 0].numpy() > 0.5))
        dices[1].append(best)
        return (time.perf_counter() - began) / (EPOCHS * steps)

    from tests.bench.pairs import interleaved

    found: Pairs = interleaved(ours, plain, pairs)
    made = table("3. A training step", "", "relay", "plain float32", "ratio", "range of ratios")
    made.add_row(f"{device.precision}, channels_last, {cores} threads; scoring included", *found.cells())
    made.add_row(
        "Dice reached on validation",
        f"{100 * statistics.median(dices[0]):.1f} %",
        f"{100 * statistics.median(dices[1]):.1f} %",
    )
    show(made)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
