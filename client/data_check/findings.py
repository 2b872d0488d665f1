"""The kinds of faults that a data check looks for, and what it reports of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """A kind of fault. The order is that of the table."""

    UNUSABLE = "unusable"
    """No mask or no image, a file that cannot be read, a grid that does not fit, a series that is not axial."""
    SPACING = "spacing"
    ORIENTATION = "orientation"
    INTENSITY = "intensity"
    DUPLICATE = "duplicate"
    MASK_EXTENT = "mask-extent"
    """Tiny, huge or cut off; in several parts, or with a gap; nothing to train on."""
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
    """One thing to look at. A finding names a patient and stays at the site."""

    kind: Kind
    patient: str
    sentence: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    """The numbers behind the sentence, by name."""


@dataclass(frozen=True)
class Looked:
    """How one kind of fault was looked for at a site, as counts of patients."""

    kind: Kind
    compared: int
    """Patients that were examined for the fault; 0 where there are too few to compare."""
    found: int
    hidden: int = 0
    """Patients at whom the fault could not be seen, since it would hardly change the mask (see `evidence.HIDDEN`)."""
    undecided: int = 0
    """Patients at whom the fault would change the mask, and the image does not decide which of the two is right."""
