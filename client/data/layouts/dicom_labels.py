"""DICOM segmentations and RTSTRUCT files as labels: what they draw, and the images to which they refer.

A label belongs to the images whose SOP instance UIDs it names, whichever folder the two lie in and whatever they are
called. Segmentations that `relay predict` made are no labels.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data.layouts import Folders, Statement, multiframe, regions, series
from client.data.layouts.dicom_header import looks_like_dicom
from client.data.layouts.regions import Region
from client.data.layouts.series import Choice, Series
from common.errors import RelayError

SEGMENTATION, LABEL_MAP, CONTOURS = "66.4", "66.7", "481.3"
_CLASS = "1.2.840.10008.5.1.4.1.1."
KINDS = {f"{_CLASS}{SEGMENTATION}": SEGMENTATION, f"{_CLASS}{LABEL_MAP}": LABEL_MAP, f"{_CLASS}{CONTOURS}": CONTOURS}
"""By SOP class."""
FIRST_BYTES = 2048
"""The bytes of a file among which its SOP class stands."""
_SIGN = re.compile(re.escape(_CLASS.encode()) + rb"(66\.4|66\.7|481\.3)(?![.0-9])")
OWN_MODEL = "prostate-relay"
"""The ManufacturerModelName in segmentations that `relay predict` writes."""
LONGEST = 64


@dataclass(frozen=True)
class Label:
    """One segmentation or RTSTRUCT."""

    file: Path
    kind: str
    regions: tuple[Region, ...]
    instances: frozenset[str]
    """The SOP instance UIDs to which the file refers."""
    series: frozenset[str]
    """The series to which the file refers, which count where it names no instance."""
    own: bool = False
    """Whether `relay predict` made the file."""

    def is_of(self, images: Series) -> bool:
        """Return whether the label refers to a series."""
        if self.instances:
            return not self.instances.isdisjoint(images.instances)
        return images.uid in self.series


class Labels:
    """The label files of a site; their headers are read when first asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Keep the paths of the label files, from `is_label`."""
        self.paths = tuple(paths)

    @functools.cached_property
    def _read(self) -> tuple[tuple[Label, ...], tuple[Path, ...]]:
        found, damaged = [], []
        for path in self.paths:
            try:
                label = read_label(path)
                if not label.regions:
                    raise RelayError(f"{path} describes no segment and no contour.")
                found.append(label)
            except RelayError:
                damaged.append(path)
        return tuple(found), tuple(damaged)

    def of(self, images: Series) -> tuple[Label, ...]:
        """Return the labels that refer to a series and that people made."""
        return tuple(label for label in self._read[0] if label.is_of(images) and not label.own)

    def choose(self, images: Series, stated: Statement, *, place: str) -> tuple[Region, ...]:
        """Return the regions of the gland on a series, all of one file.

        Args:
            images: the series.
            stated: the site's statements, with its names of regions and zones.
            place: the folder of the images, for an error's sentence.

        Raises:
            RelayError: no label refers to the series, or no region fits, or several do.
        """
        labels = self.of(images)
        if not labels:
            raise RelayError(self.without(images, place))
        found = [region for label in labels for region in label.regions]
        if stated.zone_names:
            return tuple(itertools.chain(*regions.choose_zones(found, stated.zone_names, stated.roi)))
        return regions.choose(found, stated.roi)

    def without(self, images: Series, place: str) -> str:
        """Return the sentence about a series to which no label refers."""
        found, damaged = self._read
        what = f'The series "{images.description or images.uid}" in {place} has no label:'
        if any(label.is_of(images) for label in found):
            return f"{what} only a segmentation by `relay predict` refers to it; add the one that a person drew."
        if damaged:
            return f"{what} {damaged[0]} cannot be read, and no other label refers to it; copy it again."
        return (
            f"{what} of {len(self.paths)} SEG and RTSTRUCT files, none refers to its images (SOP instance UID);"
            " add the file, or export images and label together."
        )


def choose(
    candidates: Sequence[Series], labels: Labels, folders: Folders, *, place: str
) -> tuple[Choice, tuple[Region, ...]]:
    """Return the T2 among a patient's series, with the regions that are its gland: labelled series come before others.

    Args:
        candidates: the patient's series.
        labels: the site's label files.
        folders: the site's folders, with the site's pattern for series and its names of regions.
        place: the folder of the images, for an error's sentence.

    Raises:
        RelayError: no series or region fits, or several do.
    """
    labelled = [one for one in candidates if labels.of(one)]
    choice = None
    if labelled and len(labelled) < len(candidates):
        # Where it fails, the labels are of other series, such as a diffusion image's lesions.
        with suppress(RelayError):
            choice = series.choose(labelled, folders.series, place=place)
    choice = choice or series.choose(candidates, folders.series, place=place)
    return choice, labels.choose(choice.series, folders.stated, place=place)


def is_label(path: Path) -> bool:
    """Return whether a file is a DICOM segmentation or an RTSTRUCT, by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(FIRST_BYTES)
    except OSError:
        return False
    return _SIGN.search(start) is not None and looks_like_dicom(path)


def read_label(path: Path) -> Label:
    """Return what a label file draws, and the images to which it refers; no pixel is read.

    Raises:
        RelayError: the file cannot be read, or is neither a segmentation nor an RTSTRUCT.
    """
    header = multiframe.read_header(path)
    with multiframe.reading(path):
        kind = KINDS.get(str(header.get("SOPClassUID", "")), "")
        if not kind:
            raise RelayError(f"{path} is neither a DICOM segmentation nor an RTSTRUCT; give another file.")
        named = list(_named(header))
        return Label(
            file=path,
            kind=kind,
            regions=_contours(path, header) if kind == CONTOURS else _segments(path, header),
            instances=frozenset(uid for keyword, uid in named if keyword == "ReferencedSOPInstanceUID"),
            series=frozenset(uid for keyword, uid in named if keyword == "SeriesInstanceUID"),
            own=header.get("ManufacturerModelName") == OWN_MODEL,
        )


def _segments(path: Path, header: Any) -> tuple[Region, ...]:
    found = []
    drawn = {
        int(inner[0].get("ReferencedSegmentNumber", 0))
        for frame in (*(header.get("PerFrameFunctionalGroupsSequence") or ()), *_shared(header))
        if (inner := frame.get("SegmentIdentificationSequence"))
    }
    for segment in header.get("SegmentSequence") or []:
        if drawn and int(segment.SegmentNumber) not in drawn:  # declared, and empty
            continue
        code, meaning = _code(segment.get("SegmentedPropertyTypeCodeSequence"))
        label = _text(segment.get("SegmentLabel")) or _text(segment.get("SegmentDescription")) or meaning
        found.append(Region(path, int(segment.SegmentNumber), label, meaning, code))
    return tuple(found)


def _shared(header: Any) -> Any:
    return header.get("SharedFunctionalGroupsSequence") or ()


def _contours(path: Path, header: Any) -> tuple[Region, ...]:
    drawn = {
        int(one.ReferencedROINumber) for one in header.get("ROIContourSequence") or [] if one.get("ContourSequence")
    }
    codes = {
        int(one.ReferencedROINumber): _code(one.get("RTROIIdentificationCodeSequence"))
        for one in header.get("RTROIObservationsSequence") or []
        if "ReferencedROINumber" in one
    }
    found = []
    for one in header.get("StructureSetROISequence") or []:
        number = int(one.ROINumber)
        code, meaning = codes.get(number, ("", ""))
        if number in drawn:
            found.append(Region(path, number, _text(one.get("ROIName")) or f"ROI {number}", meaning, code))
    return tuple(found)


def _code(sequence: Any) -> tuple[str, str]:
    if not sequence:
        return "", ""
    return _text(sequence[0].get("CodeValue")), _text(sequence[0].get("CodeMeaning"))


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip(" \0")[:LONGEST]


def _named(header: Any, *, inside: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the UIDs of instances and series to which a file refers, at any depth, with the keyword of each."""
    for element in header:
        if element.VR == "SQ":
            for item in element.value:
                yield from _named(item, inside=True)
        elif element.keyword == "ReferencedSOPInstanceUID" or (inside and element.keyword == "SeriesInstanceUID"):
            yield element.keyword, str(element.value)
