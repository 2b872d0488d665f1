"""How data sets lie on disk, and the one form in which the rest of the client sees a patient.

A layout is one small file in this folder. It says where each patient's image and mask lie, from names
and headers alone; reading them is the same for all layouts (`volumes.py`, `dicom.py`).

The contract
------------
`find(site)` lists a site's patients and reads no pixel. `read(source)` gives one of them as a `Case`:

axes        (slices, rows, columns): slices run from feet to head, rows from front to back, columns from
            the patient's right to left. That is DICOM's LPS order; axes are turned and mirrored to it,
            never resampled. Slices are axial (oblique by less than 45 degrees).
spacing     millimetres between voxel centres, (slice, row, column).
image       float32, the values of the scanner after the file's own rescaling; finite, not constant.
mask        bool, the image's shape. The whole gland is every label above 0: zones are merged.
space       image and mask are brought together in physical space, by the positions in their headers,
            never by file order or array index. The mask is taken to the image's grid by nearest
            neighbour; it may come on a cropped, finer or coarser grid.
DICOM       a series is put in order by ImagePositionPatient along the slice normal. A slice missing in
            an image makes it unusable; one missing in a mask is an empty slice.
errors      what concerns one patient is a `Problem` (from `find`) or a `BadPatient` (from `read`): one
            sentence, which may name files and so stays at the site. What concerns the whole site is a
            RelayError.

One more layout
---------------
A new file here is enough; `find` imports every module of this folder::

    # client/layouts/promise12.py
    @layout("promise12")
    def find(site: SiteConfig) -> Found:
        \"\"\"CaseNN.mhd beside CaseNN_segmentation.mhd.\"\"\"
        sources, problems = [], []
        for mask in sorted(site.images.glob("*_segmentation.mhd")):
            stem = mask.stem.removesuffix("_segmentation")
            image = mask.with_name(f"{stem}.mhd")
            if image.exists():
                sources.append(Source(stem, (image,), (mask,)))
            else:
                problems.append(Problem(stem, f"The mask {mask} has no image; add {image.name}."))
        return Found(tuple(sources), tuple(problems))

`@layout(name, masks_apart=True)` asks for the key `masks` in site.toml, the folder of the labels.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import RelayError

if TYPE_CHECKING:
    from client.site import SiteConfig

__all__ = ["Case", "Found", "Layout", "Problem", "Source", "find", "known", "layout", "read"]


@dataclass(frozen=True)
class Source:
    """Where one patient's files lie. Nothing has been read but headers."""

    patient: str
    """DICOM PatientID, or the name of the folder or file; unique at the site."""
    image: tuple[Path, ...]
    """One volume file, or all files of one DICOM series, in any order."""
    mask: tuple[Path, ...]


@dataclass(frozen=True)
class Problem:
    """A patient that cannot be used, or something odd about one that can. Stays at the site."""

    patient: str
    sentence: str


@dataclass(frozen=True)
class Found:
    sources: tuple[Source, ...]
    """Sorted by patient."""
    problems: tuple[Problem, ...]


@dataclass(frozen=True, eq=False)
class Case:
    """One patient, read: see the contract at the top of this module."""

    patient: str
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    """Millimetres: slice, row, column."""
    origin: tuple[float, float, float]
    """Centre of voxel (0, 0, 0) in millimetres, LPS: x, y, z, as SimpleITK gives it."""
    direction: tuple[float, ...]
    """Nine numbers, as SimpleITK gives them: row by row, for the axes columns, rows, slices."""


Finder = Callable[["SiteConfig"], Found]


@dataclass(frozen=True)
class Layout:
    name: str
    find: Finder
    masks_apart: bool
    """The masks lie in a folder of their own, which site.toml names."""


_registry: dict[str, Layout] = {}


def layout(name: str, *, masks_apart: bool = False) -> Callable[[Finder], Finder]:
    """Register a function that lists a site's patients under the name used in site.toml."""

    def register(find: Finder) -> Finder:
        _registry[name] = Layout(name, find, masks_apart)
        return find

    return register


@functools.cache
def known() -> Mapping[str, Layout]:
    """All layouts by name. The first call imports every module of this folder."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_registry.items()))


def find(site: SiteConfig) -> Found:
    """List a site's patients, from names and headers alone.

    A patient with a `Problem` is never among the sources. Sources may be empty where problems are not.

    Raises:
        RelayError: a folder is missing, no patient lies there at all, or the site is pooled.
    """
    if site.pooled:
        raise RelayError("The pooled site has no patients of its own; list those of its members.")
    for key, folder in (("images", site.images), ("masks", site.masks)):
        if folder is not None and not folder.is_dir():
            raise RelayError(f'Site {site.name}: there is no folder {folder}; correct "{key}" in its site file.')
    found = known()[site.layout].find(site)
    if not found.sources and not found.problems:
        raise RelayError(
            f'Site {site.name}: no patient lies in {site.images} as layout "{site.layout}" expects; '
            'correct "images" or "layout" in its site file.'
        )
    times = Counter(source.patient for source in found.sources)
    twice = [
        Problem(patient, f'Two images are of patient "{patient}"; keep one of them.')
        for patient, count in times.items()
        if count > 1
    ]
    problems = {problem.patient: problem for problem in reversed([*found.problems, *twice])}
    return Found(
        tuple(sorted((s for s in found.sources if s.patient not in problems), key=lambda s: s.patient)),
        tuple(sorted(problems.values(), key=lambda p: p.patient)),
    )


def read(source: Source) -> Case:
    """Read one patient's image and mask onto one grid.

    Raises:
        BadPatient: it cannot be used; the sentence says why, and may name files.
    """
    from client.layouts.volumes import read_case  # SimpleITK is imported only by who reads

    return read_case(source)
