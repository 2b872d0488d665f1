"""Counts of a site's patients and slices for a study, before the preparation: no bias field, no written file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from client.data import layouts
from client.data.site_key import split_key
from client.data.slice_counts import SliceCounts, samples_an_epoch, total_of
from client.data.splits import Split, split
from client.site_config import SiteConfig
from common.config.study import Study
from common.errors import BadPatient, RelayError


@dataclass(frozen=True)
class Counted:
    """The slices of a site's patients. The patients' names stay at the site."""

    slices: dict[str, SliceCounts]
    """The slices of each usable patient."""
    left_out: int
    persons: dict[str, str] = field(default_factory=dict)
    """By patient, the person with several visits; see `client.data.layouts.Source`."""


@dataclass(frozen=True)
class Survey:
    """Counts of a site's patients and slices. Tuples have one count for each fold."""

    patients: int
    left_out: int
    test_patients: int
    test_slices: int
    """Slices that the study trains and selects on, of the test patients."""
    train_patients: tuple[int, ...]
    train_slices: tuple[int, ...]
    """Slices that an epoch trains on."""
    validation_patients: tuple[int, ...]
    validation_slices: tuple[int, ...]
    part_patients: tuple[int, ...] = ()
    """Training patients of each fold and share of the study's `methods.train_fraction`."""

    @property
    def fewest(self) -> int:
        """Return the number of patients in the smallest split."""
        return min(self.test_patients, *self.train_patients, *self.validation_patients, *self.part_patients)


def survey(site: SiteConfig, study: Study, *, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read every patient of a plain site once, and count patients and slices as the study will divide them.

    Args:
        site: a plain site.
        study: a plain study, from `Study.variants`.
        progress: called after each patient with the number of patients done and the number in all.

    Raises:
        RelayError: a folder is missing, no patient is usable, or there are too few patients for the folds.
    """
    return divide(site, count(site, study, progress=progress), study)


def count(site: SiteConfig, study: Study, *, progress: Callable[[int, int], None] | None = None) -> Counted:
    """Read every patient of a plain site once, and count the patient's slices.

    Args:
        site: a plain site.
        study: a plain study, from `Study.variants`.
        progress: called after each patient with the number of patients done and the number in all.

    Raises:
        RelayError: a folder is missing, or no patient is usable.
    """
    found = layouts.find(site)
    counts: dict[str, SliceCounts] = {}
    for done, source in enumerate(found.sources, start=1):
        try:
            mask = layouts.read(source).mask
        except BadPatient:
            mask = np.zeros((0, 0, 0), bool)
        area = np.count_nonzero(mask, axis=(1, 2))
        selected, gland = int((area > study.preprocessing.minimum_mask_pixels).sum()), int((area > 0).sum())
        if selected:
            counts[source.patient] = SliceCounts(selected, gland - selected, len(area) - gland)
        if progress:
            progress(done, len(found.sources))
    if not counts:
        raise RelayError(f"Site {site.name} has no usable patient; `relay site check` says what is wrong with each.")
    persons = {source.patient: source.person for source in found.sources}
    return Counted(counts, len(found.sources) + len(found.problems) - len(counts), persons)


def divided_as(site: SiteConfig, counted: Counted, study: Study) -> Split:
    """Return the division of a site's patients by a plain study.

    Raises:
        RelayError: there are too few patients for the study's folds.
    """
    return split(counted.slices, study.split, site=site.name, persons=counted.persons, key=split_key(site))


def divide(site: SiteConfig, counted: Counted, study: Study) -> Survey:
    """Divide a site's patients as a plain study will, and count patients and slices of each part.

    Raises:
        RelayError: there are too few patients for the study's folds.
    """
    counts = counted.slices
    divided = divided_as(site, counted, study)
    folds = range(study.split.folds)

    def trained(names: Iterable[str]) -> int:
        return samples_an_epoch((counts[name] for name in names), study)

    def scored(names: Iterable[str]) -> int:
        if study.model.dimensions == 3:
            return len(list(names))
        together = total_of(counts[name] for name in names)
        return together.selected if study.training.slices == "chosen" else together.total

    return Survey(
        patients=len(counts),
        left_out=counted.left_out,
        test_patients=len(divided.test),
        test_slices=scored(divided.test),
        train_patients=tuple(len(divided.train(fold)) for fold in folds),
        train_slices=tuple(trained(divided.train(fold)) for fold in folds),
        validation_patients=tuple(len(names) for names in divided.validation),
        validation_slices=tuple(scored(names) for names in divided.validation),
        part_patients=tuple(len(divided.train(fold, share)) for share in study.methods.parts for fold in folds),
    )
