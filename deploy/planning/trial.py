"""Measure briefly how long a gradient step, a prediction and a bias field take on this machine, and a stage's memory.

The trial calls a site's own training functions on random slices of the study's size. A first process measures the
memory of a stage. Then as many processes run the trial together as stages will run at the same time, because such
processes share the machine's caches; only as many as fit into the free memory.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config.study import Study
from common.errors import RelayError
from deploy.memory import fitting, free_memory, peak_memory

STEPS = 3
"""Gradient steps timed, after an equal number of untimed steps."""


@dataclass(frozen=True)
class Speed:
    """Hold the seconds and bytes of the slowest and largest among several processes run side by side."""

    step: float
    """A batch: forward, backward and the update."""
    predict: float
    """The forward pass of a slice, or of a box."""
    memory: int = 0
    """The most bytes of memory that a process held, Python and torch included."""
    at_once: int = 1
    """The number of processes run side by side."""


def measure(study: Study, *, device: str, at_once: int, free: int | None = None) -> Speed:
    """Time training and prediction of a plain study's network, and measure the memory of a stage.

    Args:
        study: a study with a single network.
        device: the device, as in a site file.
        at_once: the number of processes to run side by side; fewer run if the memory does not suffice.
        free: the free bytes of memory; by default this machine's.

    Raises:
        RelayError: the system ended a process, or a process fails.
    """
    free = free_memory() if free is None else free
    alone = _side_by_side(study, device, 1)
    together = fitting(at_once, alone.memory, free)
    return alone if together == 1 else _side_by_side(study, device, together)


def _side_by_side(study: Study, device: str, at_once: int) -> Speed:
    try:
        with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(_measure_one, [study] * at_once, [device] * at_once))
    except BrokenProcessPool:
        raise RelayError(
            f"The system ended a process of the trial of {study.model.architecture} with {study.model.encoder},"
            f" which ran {at_once} at once, most often for want of memory; free memory, give a"
            " smaller --at-once, or plan without the trial (--no-trial)."
        ) from None
    return Speed(
        step=max(speed.step for speed in found),
        predict=max(speed.predict for speed in found),
        memory=max(speed.memory for speed in found),
        at_once=at_once,
    )


def measure_n4(site_file: Path, study: Study) -> float:
    """Return the seconds of a patient's bias-field correction on a core; 0 where the study corrects no bias field."""
    from client.data import layouts
    from client.preprocessing.bias_field import correct_bias_field
    from client.site_config import load_site

    if not study.preprocessing.n4.enabled:
        return 0.0
    case = layouts.read(layouts.find(load_site(site_file)).sources[0])
    began = time.perf_counter()
    correct_bias_field(case.image, study.preprocessing.n4)
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
    size = (count, study.model.channels, *study.model.shape(pixels))
    images = torch.from_numpy(random.standard_normal(size, dtype=np.float32))
    # Any masks: of zones, the gland alone costs the same.
    masks = torch.zeros(len(images), study.model.segments.classes, *images.shape[2:])
    masks[:, :1] = images[:, :1] > 1
    slices = Slices(images, masks)
    few = Slices(images[:1], slices.masks[:1])
    network = build(study.model, whole=True)
    epochs = fine_tune(
        network,
        slices,
        few,
        training=study.training,
        schedule=Schedule(2, 0, 2, "last"),
        seed_names=("trial",),
        device=selected,
        output_weights=declared(study.model).output_weights,
        transfer=declared(study.model).transfer,
    )
    next(epochs)
    began = time.perf_counter()
    next(epochs)
    trained = time.perf_counter() - began
    place(network, selected)
    began = time.perf_counter()
    probabilities(network, images, selected)
    predict = (time.perf_counter() - began) / count
    return Speed(step=max(trained - predict, 0.0) / STEPS, predict=predict, memory=peak_memory())
