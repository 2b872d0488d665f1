"""Segmentations as 3D Slicer saves them, NAME.seg.nrrd: a label map, or several on top of each other as layers.

Header entries "SegmentN_Name", "SegmentN_Layer" and "SegmentN_LabelValue" say which value of which layer is which
segment. Format: slicer.readthedocs.io, developer guide, segmentations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from client.data.layouts import Statement
from client.data.layouts.mask_names import GLAND
from client.data.layouts.regions import Region, choose
from common.errors import RelayError
from common.text import listed

_HEADER_BYTES = 1 << 20
_ENTRY = re.compile(r"^Segment(\d+)_(Name|Layer|LabelValue):=(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Segment:
    """One segment of a file."""

    name: str
    layer: int
    value: int


def segments(path: Path) -> tuple[Segment, ...]:
    """Return the segments that a .nrrd file's header describes, in the order of their numbers; none for other files."""
    with path.open("rb") as file:
        header = re.split(rb"\r?\n\r?\n", file.read(_HEADER_BYTES), maxsplit=1)[0].decode("utf-8", "replace")
    entries: dict[int, dict[str, str]] = {}
    for number, key, value in _ENTRY.findall(header):
        entries.setdefault(int(number), {})[key] = value
    try:
        return tuple(
            Segment(entry.get("Name", f"segment {number}"), int(entry.get("Layer", 0)), int(entry["LabelValue"]))
            for number, entry in sorted(entries.items())
            if "LabelValue" in entry
        )
    except ValueError:
        return ()


def label_map(path: Path, image: sitk.Image, found: Sequence[Segment], stated: Statement) -> sitk.Image:
    """Return a segmentation as one label map of three axes.

    Args:
        path: the file.
        image: the file's voxels, with a component for each layer.
        found: the file's segments, from `segments`.
        stated: the site's statements on the values of masks.

    Raises:
        RelayError: segments of the gland and others lie in the file, and the site does not say which are gland.
    """
    if stated.roi:
        named = choose([Region(path, number, segment.name) for number, segment in enumerate(found)], stated.roi)
        found = [found[region.number] for region in named]
    gland = tuple(segment for segment in found if GLAND.search(segment.name))
    if len(found) > 1 and not stated.masks and not stated.roi and 0 < len(gland) < len(found):
        raise RelayError(
            f'{path} holds segments of the gland and others ({_names(found)}); say with "labels" or "roi" in the site'
            " file which are gland, or export the gland alone."
        )
    if image.GetNumberOfComponentsPerPixel() == 1:
        if not stated.roi:
            return image
        gland_values = np.isin(sitk.GetArrayViewFromImage(image), [segment.value for segment in found])
        made = sitk.GetImageFromArray(np.where(gland_values, sitk.GetArrayViewFromImage(image), 0))
        made.CopyInformation(image)
        return made
    if len({segment.value for segment in found}) < len(found) and stated.labels:
        raise RelayError(
            f'{path} holds segments of one value in several layers ({_names(found)}), which "labels" cannot tell'
            " apart; export the gland alone."
        )
    layers = sitk.GetArrayViewFromImage(image)
    values = np.zeros(layers.shape[:-1], np.uint16)
    for segment in found:
        if segment.layer >= layers.shape[-1]:
            raise RelayError(f"{path} describes a layer that it does not hold; export it again.")
        if not stated.labels or segment.value in stated.labels:
            values[layers[..., segment.layer] == segment.value] = segment.value
    made = sitk.GetImageFromArray(values)
    made.CopyInformation(image)
    return made


def _names(found: Sequence[Segment]) -> str:
    return listed(f'"{segment.name}" with the value {segment.value}' for segment in found[:8])
