"""How much a site has for a study, before anything is prepared: no bias field is fitted, nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from client import layouts
from client.site import SiteConfig
from client.splits import split
from common.errors import BadPatient, RelayError
from common.study import Study


@dataclass(frozen=True)
class Survey:
    """Counts alone. `train_slices` has a number a fold: chosen slices of its training patients."""

    patients: int
    left_out: int
    test_patients: int
    test_slices: int
    train_slices: tuple[int, ...]
    validation_slices: tuple[int, ...]


def survey(site: SiteConfig, study: Study, *, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read every patient of a plain site once, and divide them as the study will.

    Args:
        study: a plain study, one of `Study.variants`.
        progress: called with (patients done, patients in all) after each.

    Raises:
        RelayError: a folder is missing, no patient can be used, or there are too few for the folds.
    """
    found = layouts.find(site)
    chosen: dict[str, int] = {}
    for done, source in enumerate(found.sources, start=1):
        try:
            mask = layouts.read(source).mask
        except BadPatient:
            mask = np.zeros((0, 0, 0), bool)
        slices = int((np.count_nonzero(mask, axis=(1, 2)) > study.preprocessing.minimum_mask_pixels).sum())
        if slices:
            chosen[source.patient] = slices
        if progress:
            progress(done, len(found.sources))
    if not chosen:
        raise RelayError(f"Site {site.name} has no usable patient; `relay site check` says what is wrong with each.")
    part = study.split
    divided = split(chosen, seed=part.seed, site=site.name, test_fraction=part.test_fraction, folds=part.folds)
    return Survey(
        patients=len(chosen),
        left_out=len(found.sources) + len(found.problems) - len(chosen),
        test_patients=len(divided.test),
        test_slices=sum(chosen[name] for name in divided.test),
        train_slices=tuple(sum(chosen[name] for name in divided.train(fold)) for fold in range(part.folds)),
        validation_slices=tuple(sum(chosen[name] for name in names) for names in divided.validation),
    )
