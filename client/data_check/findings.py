"""The kinds of faults in a data check, and the results for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """A kind of fault, in the order of the table."""

    UNUSABLE = "unusable"
    """No mask or no image, an unreadable file, an unfit grid, or a non-axial series."""
    SPACING = "spacing"
    ORIENTATION = "orientation"
    INTENSITY = "intensity"
    DUPLICATE = "duplicate"
    MASK_EXTENT = "mask-extent"
    """Tiny, huge or cut off; in several parts, or with a gap; nothing to train on."""
    MASK_VALUES = "mask-values"
    """Values in a mask's file that may be no gland: other organs, borders to be ignored."""
    MIRRORED = "mirrored"
    REVERSED = "reversed"
    SHIFTED = "shifted"
    TURNED = "turned"
    MISPLACED = "misplaced"
    """The mask of another patient, or of none."""


BY_OUTLINE = (Kind.MIRRORED, Kind.REVERSED, Kind.SHIFTED, Kind.TURNED, Kind.MISPLACED)
"""The kinds that are found by comparing the mask's outline with the image."""


@dataclass(frozen=True)
class Finding:
    """A possible fault. A finding names a patient and stays at the site."""

    kind: Kind
    patient: str
    sentence: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    """The numbers behind the sentence, by name."""


@dataclass(frozen=True)
class Looked:
    """The search for a kind of fault at a site, as counts of patients."""

    kind: Kind
    compared: int
    """Patients examined for the fault; 0 where there are too few to compare."""
    found: int
    hidden: int = 0
    """Patients at whom the fault could not be seen, since the mask would hardly change (see `evidence.HIDDEN`)."""
    undecided: int = 0
    """Patients at whom the fault would change the mask, and the image does not decide which of the two is right."""
