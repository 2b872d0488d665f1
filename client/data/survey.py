"""How much a site has for a study, before anything is prepared: no bias field is fitted, nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from client.data import layouts
from client.data.splits import split
from client.site_config import SiteConfig
from common.config.study import Study
from common.errors import BadPatient, RelayError


@dataclass(frozen=True)
class Counted:
    """What was read of a site's patients. Names stay at the site."""

    slices: dict[str, int]
    """Of every usable patient, how many slices the study would choose."""
    left_out: int


@dataclass(frozen=True)
class Survey:
    """Counts alone. Where there is a number a fold, it is that fold's."""

    patients: int
    left_out: int
    test_patients: int
    test_slices: int
    train_patients: tuple[int, ...]
    train_slices: tuple[int, ...]
    """Chosen slices of the fold's training patients."""
    validation_patients: tuple[int, ...]
    validation_slices: tuple[int, ...]

    @property
    def fewest(self) -> int:
        """The patients of the smallest split."""
        return min(self.test_patients, *self.train_patients, *self.validation_patients)


def survey(site: SiteConfig, study: Study, *, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read every patient of a plain site once, and divide them as the study will.

    Args:
        study: a plain study, one of `Study.variants`.
        progress: called with (patients done, patients in all) after each.

    Raises:
        RelayError: a folder is missing, no patient can be used, or there are too few for the folds.
    """
    return divide(site, count(site, study, progress=progress), study)


def count(site: SiteConfig, study: Study, *, progress: Callable[[int, int], None] | None = None) -> Counted:
    """Read every patient of a plain site once. Raises RelayError if a folder is missing or no patient can be used."""
    found = layouts.find(site)
    selected: dict[str, int] = {}
    for done, source in enumerate(found.sources, start=1):
        try:
            mask = layouts.read(source).mask
        except BadPatient:
            mask = np.zeros((0, 0, 0), bool)
        slices = int((np.count_nonzero(mask, axis=(1, 2)) > study.preprocessing.minimum_mask_pixels).sum())
        if slices:
            selected[source.patient] = slices
        if progress:
            progress(done, len(found.sources))
    if not selected:
        raise RelayError(f"Site {site.name} has no usable patient; `relay site check` says what is wrong with each.")
    return Counted(selected, len(found.sources) + len(found.problems) - len(selected))


def divide(site: SiteConfig, counted: Counted, study: Study) -> Survey:
    """Divide a site's patients as a plain study will. Raises RelayError if they are too few for the folds."""
    part, selected = study.split, counted.slices
    divided = split(selected, seed=part.seed, site=site.name, test_fraction=part.test_fraction, folds=part.folds)
    folds = range(part.folds)
    return Survey(
        patients=len(selected),
        left_out=counted.left_out,
        test_patients=len(divided.test),
        test_slices=sum(selected[name] for name in divided.test),
        train_patients=tuple(len(divided.train(fold)) for fold in folds),
        train_slices=tuple(sum(selected[name] for name in divided.train(fold)) for fold in folds),
        validation_patients=tuple(len(names) for names in divided.validation),
        validation_slices=tuple(sum(selected[name] for name in names) for names in divided.validation),
    )
