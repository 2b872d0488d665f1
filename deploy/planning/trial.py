"""Measure briefly how long a gradient step, a prediction and a bias field take on this machine.

The trial calls a site's own training functions on random slices of the study's size. As many processes run the trial
together as stages will run at the same time, because such processes share the machine's caches and memory.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config.study import Study

STEPS = 3
"""Gradient steps timed, after an equal number of untimed steps."""


@dataclass(frozen=True)
class Speed:
    """Hold the seconds of the slowest among several processes run side by side."""

    step: float
    """A batch: forward, backward and the update."""
    predict: float
    """A slice's forward pass."""


def measure(study: Study, *, device: str, at_once: int) -> Speed:
    """Time training and prediction of a plain study's network.

    Args:
        study: a study with a single network.
        device: the device, as in a site file.
        at_once: the number of processes run side by side.
    """
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_measure_one, [study] * at_once, [device] * at_once))
    return Speed(step=max(speed.step for speed in found), predict=max(speed.predict for speed in found))


def measure_n4(site_file: Path, study: Study) -> float:
    """Return the seconds of a patient's bias-field correction on a core; 0 where the study corrects no bias field."""
    from client.data import layouts
    from client.preprocessing.bias_field import correct_bias_field
    from client.site_config import load_site

    if not study.preprocessing.n4.enabled:
        return 0.0
    case = layouts.read(layouts.find(load_site(site_file)).sources[0])
    began = time.perf_counter()
    correct_bias_field(case.image, case.spacing, study.preprocessing.n4)
    return time.perf_counter() - began


def _measure_one(study: Study, device: str) -> Speed:
    import torch

    from client.training.batches import Slices
    from client.training.device import choose_device, place
    from client.training.fine_tune import fine_tune, probabilities
    from common.model.network import build, declared
    from common.plan.graph import Schedule

    torch.set_num_threads(study.training.threads)
    selected = choose_device(device, study.training.precision)
    random = np.random.default_rng(0)
    count, pixels = STEPS * study.training.batch, study.preprocessing.pixels
    images = torch.from_numpy(random.standard_normal((count, study.model.channels, pixels, pixels), dtype=np.float32))
    slices = Slices(images, (images[:, :1] > 1).float())
    few = Slices(images[:1], slices.masks[:1])
    network = build(study.model)
    epochs = fine_tune(
        network,
        slices,
        few,
        training=study.training,
        schedule=Schedule(2, 0, 2, "last"),
        seed_names=("trial",),
        device=selected,
        output_weights=declared(study.model).output_weights,
    )
    next(epochs)
    began = time.perf_counter()
    next(epochs)
    trained = time.perf_counter() - began
    place(network, selected)
    began = time.perf_counter()
    probabilities(network, images, selected)
    predict = (time.perf_counter() - began) / count
    return Speed(step=max(trained - predict, 0.0) / STEPS, predict=predict)
