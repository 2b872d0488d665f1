"""Counts of slices, and how many of them an epoch trains on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.config.study import Study, TrainingConfig


@dataclass(frozen=True)
class SliceCounts:
    """The slices of a patient, or of several patients together, by the expert's mask on the native grid."""

    selected: int
    """Slices whose mask holds more pixels than the study's minimum."""
    below: int
    """Slices with some gland, but not more pixels than the minimum."""
    empty: int
    """Slices without gland."""

    @property
    def total(self) -> int:
        """All slices."""
        return self.selected + self.below + self.empty


def total_of(counts: Iterable[SliceCounts]) -> SliceCounts:
    """Return the sums of several counts."""
    found = list(counts)
    return SliceCounts(
        selected=sum(one.selected for one in found),
        below=sum(one.below for one in found),
        empty=sum(one.empty for one in found),
    )


def samples_an_epoch(counts: Iterable[SliceCounts], study: Study) -> int:
    """Return how many samples one epoch trains on: slices, or in three dimensions a box of each patient.

    Args:
        counts: the counts of each training patient.
        study: the study.
    """
    found = list(counts)
    return len(found) if study.model.dimensions == 3 else slices_an_epoch(found, study.training)


def slices_an_epoch(counts: Iterable[SliceCounts], training: TrainingConfig) -> int:
    """Return how many slices one epoch trains on.

    Args:
        counts: the counts of each training patient.
        training: the study's training settings.
    """
    together = total_of(counts)
    if training.slices == "chosen":
        return together.selected
    return together.selected + together.below + drawn_of(together.empty, training)


def drawn_of(empty: int, training: TrainingConfig) -> int:
    """Return how many of a number of slices without gland an epoch draws."""
    return round(training.empty_share * empty)
