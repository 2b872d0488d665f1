"""The layouts in which data sets lie on disk, and the `Case`, the one form of a patient for the rest of the client.

A layout is one small file in this folder, which finds each patient's image and mask from names and headers alone.
Reading is the same for all layouts: `volumes.py` and `dicom.py` read the files, and one file for each format
(`nifti.py`, `nrrd.py`, `metaimage.py`) checks for faults that ITK does not report. Layouts share `folder.py`, a listing
of names, and `pairs.py`.

The contract
------------
`find(site)` lists a site's patients and reads no pixel. `read(source)` returns one patient as a `Case`:

axes        (slices, rows, columns): slices run from feet to head, rows from front to back, columns from
            the patient's right to left (DICOM's LPS order); axes are turned and mirrored to this order,
            never resampled. Slices are axial (oblique by less than 45 degrees).
spacing     millimetres between voxel centres, (slice, row, column).
image       float32, the values of the scanner after the file's own rescaling; finite, not constant. The
            same image read from two formats has the same voxels.
mask        bool, the image's shape. The whole gland is every label above 0, or those that the site's file names
            (`labels`): zones are merged. Values between whole numbers are refused unless the file states a threshold.
zones       where the site's file says which values are which zone, also the zone of each voxel of the mask. A patient
            in whom a zone is missing has none: an expert who drew one label alone may have drawn the whole gland.
geometry    is what the files state. A missing spacing or orientation, or two statements that contradict each other,
            make a patient unusable, unless the site's file states what is missing.
space       image and mask are brought together in physical space, by the positions in their headers,
            never by file order or array index. The mask is taken to the image's grid by nearest
            neighbour; the mask's own grid may be cropped, finer or coarser.
DICOM       a series is put in order by ImagePositionPatient along the slice normal. A missing slice makes
            an image unusable; in a mask a missing slice is an empty slice.
labels      a DICOM segmentation or an RTSTRUCT is of the images to which it refers by SOP instance UID. Its segment or
            region is the one that the site's file names (`roi`), or else the one that is the whole prostate by name
            or code (`regions.py`). A contour's voxels are those whose centres it encloses (`contours.py`).
files       a `Source` names every file on which its voxels depend, and with its `channel` all on which the
            `Case` depends: the keys of the caches cover both (`client/preprocessing/inventory.py`).
errors      a fault of one patient is a `Problem` (from `find`) or a `BadPatient` (from `read`): one
            sentence, which may name files and so stays at the site. A fault of the whole site is a
            RelayError, and a remark about the whole site a note.

Recognising
-----------
Where site.toml names no layout, or "auto", every layout's `detect` is called with the site's `Folder`, whose names are
listed already. `detect` returns the path by which the layout is recognised, or None. `detect` decides by names, in the
last resort by a file's first bytes, and reads no header. A `detect` must never claim an unmixed folder of another
layout of the same kind (labels in a folder of their own, or beside the images). Exactly one layout must claim the
folder; the patients found then are the same as if site.toml had named the layout.

One more layout
---------------
A new file here is enough; `find` imports every module of this folder::

    # client/data/layouts/our_scanner.py
    def detect(folder: Folder) -> Path | None:
        return next((path for path in folder.files if path.name.endswith("_gland.nii")), None)

    @layout("our-scanner", detect=detect, looks_for="NAME.nii beside NAME_gland.nii")
    def find(folders: Folders) -> Found:
        \"\"\"NAME.nii beside NAME_gland.nii.\"\"\"
        sources, problems = [], []
        for mask in folders.images.files:
            if not mask.name.endswith("_gland.nii"):
                continue
            name = mask.name.removesuffix("_gland.nii")
            image = mask.with_name(f"{name}.nii")
            if image in folders.images.files:
                sources.append(Source(name, (image,), (mask,)))
            else:
                problems.append(Problem(name, f"The mask {mask} has no image; add {image.name}."))
        return Found(tuple(sources), tuple(problems))

`folders.images` lists the site's folder of images. `@layout(…, masks_apart=True)` requires the key `masks` in
site.toml, the folder of the labels, which is listed in `folders.masks`.

Such a file may also lie in a package of the hospital's own, which names the module in the group of entry points
`PLUGINS`::

    [project.entry-points."relay.layouts"]
    our-scanner = "our_hospital.our_scanner"

A study knows nothing of it: only this hospital's patients are found by it, and they leave the hospital no more than
others.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from client.data.layouts.folder import Folder, is_text, list_folder
from common.errors import RelayError
from common.target import ZONES
from common.text import listed, quoted

if TYPE_CHECKING:
    from client.site_config import SiteConfig

__all__ = [
    "AUTO",
    "Case",
    "Folder",
    "Folders",
    "Found",
    "Layout",
    "NOTHING_STATED",
    "Part",
    "Problem",
    "Source",
    "Statement",
    "find",
    "known",
    "layout",
    "read",
    "recognise",
    "writable",
]

PLUGINS = "relay.layouts"
"""The group of entry points by which installed packages bring layouts; each names a module that registers them."""
AUTO = "auto"
"""The value of "layout" in site.toml with which the layout is recognised from the files."""


@dataclass(frozen=True)
class Statement:
    """What the site file states about files that do not state it themselves, and about the values of masks."""

    spacing_mm: tuple[float, float, float] | None = None
    """Millimetres between voxel centres for files without spacing: feet to head, front to back, right to left."""
    orientation: str = ""
    """The directions in which columns, rows and slices of files without orientation run, such as "LPS"."""
    labels: tuple[int, ...] = ()
    """The values of a mask that are gland; if empty, every value above 0."""
    zones: tuple[tuple[int, ...], ...] = ()
    """Those of the values that are each zone, in the order of `common.target.ZONES`; empty where the file does not name
    zones."""
    zone_names: tuple[tuple[str, ...], ...] = ()
    """The names or codes of the segments and contours that are each zone, in the same order; `zones` are then the
    labels that reading gives them. Empty where the file names no zones, or by their values."""
    mask_threshold: float | None = None
    """The value of a mask above which a voxel is gland; None: masks hold whole numbers."""
    roi: tuple[str, ...] = ()
    """The names or codes of the segments and contours that are gland; if empty, the one that is the whole prostate by
    name or code."""

    @property
    def masks(self) -> bool:
        """Whether the site says which values of a mask are gland."""
        return bool(self.labels) or self.mask_threshold is not None

    def sentences(self) -> tuple[str, ...]:
        """Return the statements in words, for a model card."""
        said = []
        if self.spacing_mm is not None:
            steps = " × ".join(f"{step:g}" for step in self.spacing_mm)
            said.append(f"For image files without a spacing the hospital stated {steps} mm (slices, rows, columns).")
        if self.orientation:
            said.append(f"For image files without an orientation the hospital stated {self.orientation}.")
        if self.zone_names:
            pairs = zip(ZONES.zones, self.zone_names, strict=True)
            regions = listed(f"{listed(map(quoted, names))} as {zone.title}" for zone, names in pairs)
            said.append(f"The hospital named {regions} among its segments and contours.")
        elif self.zones:
            named = zip(ZONES.zones, self.zones, strict=True)
            which = listed(f"{listed(map(str, values))} as {zone.title}" for zone, values in named)
            said.append(f"The hospital named the values {which} of its masks.")
        elif self.labels:
            said.append(f"As gland the hospital named the values {listed(map(str, self.labels))} of its masks.")
        if self.mask_threshold is not None:
            said.append(f"As gland the hospital named the values above {self.mask_threshold:g} of its masks.")
        if self.roi:
            said.append(f"As gland the hospital named {listed(map(quoted, self.roi))} among its segments and contours.")
        return tuple(said)

    def axes(self) -> NDArray[np.float64]:
        """Return unit vectors along columns, rows and slices of files without orientation, as rows."""
        unit = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
        rows = np.zeros((3, 3))
        for row, (axis, sign) in enumerate(unit[letter] for letter in self.orientation):
            rows[row, axis] = sign
        return rows


NOTHING_STATED = Statement()


@dataclass(frozen=True)
class Source:
    """The files of one patient's image and mask; only headers have been read."""

    patient: str
    """DICOM PatientID, or the name of the folder or file; unique at the site."""
    image: tuple[Path, ...]
    """One volume file, followed by the file of its voxels where that is separate; or all files of one DICOM series, in
    any order."""
    mask: tuple[Path, ...]
    """The mask's files, in the same form."""
    channel: int | None = None
    """The number of the T2 volume in an image file of four axes, counted from 0; None where the file has three axes."""
    stated: Statement = NOTHING_STATED
    """The site's statements about its files, filled in by `find`."""
    person: str = ""
    """From a layout, the DICOM PatientID where it is not the patient's name. From `find`, where a person has several
    visits, the name of the first visit; else empty. A split keeps visits together."""


@dataclass(frozen=True)
class Problem:
    """An unusable patient, or an oddity of a usable patient. Problems stay at the site."""

    patient: str
    sentence: str


@dataclass(frozen=True)
class Found:
    """The patients of a site as a layout found them, and the problems with them."""

    sources: tuple[Source, ...]
    """Sorted by patient."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    """Remarks about the whole site, which are no errors, one sentence each. Notes stay at the site."""
    layout: str = ""
    """The name of the layout, filled in by `find`."""


@dataclass(frozen=True)
class Part:
    """The voxels of one value in a mask's file."""

    value: float
    ml: float
    behind_mm: float
    """How far their middle lies behind the middle of all voxels of the mask."""


@dataclass(frozen=True, eq=False)
class Case:
    """One patient's image and mask on one grid; see the contract at the top of this module."""

    patient: str
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    """Millimetres between voxel centres: slice, row, column."""
    origin: tuple[float, float, float]
    """The centre of voxel (0, 0, 0) in millimetres, LPS: x, y, z, in SimpleITK's order."""
    direction: tuple[float, ...]
    """Nine direction cosines in SimpleITK's order: row by row, for the axes columns, rows, slices."""
    values: tuple[tuple[float, int], ...] = ()
    """The values above and below 0 in the mask's file, ascending, each with its number of voxels there."""
    parts: tuple[Part, ...] = ()
    """What the values are like, where there are several, but few; in the same order."""
    zones: NDArray[np.uint8] | None = None
    """The zone of each voxel of the mask (`common.target.Zone.label`), 0 outside; None where the site file names no
    zones, or a zone is not drawn in this patient."""
    remarks: tuple[str, ...] = ()
    """What was taken from the site file's statements in reading, and what the files' tags make doubtful, one sentence
    each."""


@dataclass(frozen=True)
class Folders:
    """The arguments of a layout's `find`: the site's folders, listed, and the site file's pattern for DICOM series."""

    images: Folder
    masks: Folder | None = None
    """The folder of the labels, where labels lie apart from the images."""
    series: str = ""
    """Regular expression for the SeriesDescription of a DICOM image; if empty, description and tags decide."""
    stated: Statement = NOTHING_STATED
    """The site's statements about its files."""


Finder = Callable[[Folders], Found]
Detect = Callable[[Folder], Path | None]


@dataclass(frozen=True)
class Layout:
    """One layout, as `layout` registers it."""

    name: str
    find: Finder
    detect: Detect
    """Returns the path by which the layout is recognised; None where the folder has another layout."""
    looks_for: str
    """The kinds of files and their places, in a few words."""
    masks_apart: bool
    """Whether the masks lie in a folder of their own, which site.toml names."""
    yields: bool = False
    """Whether the layout is not recognised in a folder that another layout claims too."""


_registry: dict[str, Layout] = {}


def layout(
    name: str, *, detect: Detect, looks_for: str, masks_apart: bool = False, yields: bool = False
) -> Callable[[Finder], Finder]:
    """Register the decorated function, which lists a site's patients, under the layout's name in site.toml.

    Args:
        name: the layout's name.
        detect: recognises the layout; see the top of this module.
        looks_for: the kinds of files and their places, in a few words.
        masks_apart: whether the masks lie in a folder of their own, which site.toml names.
        yields: whether the layout is not recognised in a folder that another layout claims too.
    """

    def register(find: Finder) -> Finder:
        _registry[name] = Layout(name, find, detect, looks_for, masks_apart, yields)
        return find

    return register


@functools.cache
def known() -> Mapping[str, Layout]:
    """Return all layouts by name; the first call imports every module of this folder, and those of installed packages.

    Raises:
        RelayError: a package's layout cannot be imported, or has the name of one of relay's own.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    own = dict(_registry)
    for entry in entry_points(group=PLUGINS):
        package = entry.dist.name if entry.dist is not None else entry.value
        try:
            entry.load()
        except Exception as error:
            raise RelayError(
                f"The layout {entry.name} of the package {package} cannot be imported"
                f" ({type(error).__name__}: {error}); mend the package, or remove it."
            ) from None
        if taken := [name for name, known_before in own.items() if _registry[name] is not known_before]:
            _registry.update(own)
            raise RelayError(f"The package {package} calls a layout {taken[0]}, as one of relay's own; rename it.")
    return dict(sorted(_registry.items()))


def recognise(images: Path, masks: Path | None = None) -> str:
    """Return the name of the layout in which a folder's patients lie, from names alone.

    Args:
        images: the folder of the images.
        masks: the folder of the labels, for a layout with labels apart from the images.

    Raises:
        RelayError: no layout claims the folder, or several do; the error's sentence names the remedy.
    """
    try:
        return _recognise(_listed("images", images), masks)
    except RelayError as error:
        raise RelayError(writable(str(error))) from None


def find(site: SiteConfig) -> Found:
    """List a site's patients from names and headers alone, and recognise the layout where site.toml names none.

    Visits of one person are marked (`visits.py`). A patient with a `Problem` is never among the sources. A site may
    have problems and no sources.

    Raises:
        RelayError: a folder is missing, no patient lies in the folder at all, the layout is not recognised, or the
            site is pooled.
    """
    if site.pooled:
        raise RelayError("The pooled site has no patients of its own; list those of its members.")
    from client.data.layouts import visits  # imported here, since it imports `Source`

    try:
        images = _listed("images", site.images)
        masks = None if site.masks is None else _listed("masks", site.masks)
        name = _recognise(images, site.masks) if site.layout == AUTO else site.layout
        found = known()[name].find(Folders(images, masks, site.series, site.statement()))
    except RelayError as error:
        raise RelayError(writable(f"Site {site.name}: {error}")) from None
    problems = [*found.problems, *(problem for one in (images, masks) if one is not None for problem in _troubles(one))]
    if not found.sources and not problems:
        raise RelayError(
            f'Site {site.name}: no patient lies in {site.images} as layout "{name}" expects'
            f' ({known()[name].looks_for}); correct "images" or "layout" in the site file.'
        )
    places: dict[str, list[str]] = defaultdict(list)
    for source in found.sources:
        places[writable(source.patient)].append(str(source.image[0]))
    problems += [
        Problem(patient, f'Several images are of patient "{patient}" ({", ".join(sorted(images))}); keep one of them.')
        for patient, images in places.items()
        if len(images) > 1
    ]
    sentences = {writable(problem.patient): writable(problem.sentence) for problem in reversed(problems)}
    sources = (replace(source, patient=writable(source.patient), stated=site.statement()) for source in found.sources)
    usable = sorted((s for s in sources if s.patient not in sentences), key=lambda s: s.patient)
    try:
        persons, remarks = visits.grouped(usable, site.patient)
    except RelayError as error:
        raise RelayError(writable(f"Site {site.name}: {error}")) from None
    return Found(
        sources=persons,
        problems=tuple(Problem(patient, sentences[patient]) for patient in sorted(sentences)),
        notes=tuple(map(writable, (*found.notes, *remarks))),
        layout=name,
    )


def read(source: Source) -> Case:
    """Read one patient's image and mask onto one grid.

    Raises:
        BadPatient: the patient cannot be used; the error's sentence says why, and may name files.
    """
    # imported here: SimpleITK is loaded only where images are read
    from client.data.layouts.volumes import read_case

    return read_case(source)


def writable(text: str) -> str:
    """Return a text for a terminal, log or page, with "?" in the place of each unprintable character.

    File names may contain line breaks and bytes outside UTF-8.
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _recognise(folder: Folder, masks: Path | None) -> str:
    here = f"The folder {folder.path}"
    detected = _detected(folder, masks_apart=masks is not None)
    if len(detected) == 1 and masks is None:
        detected |= _aside(folder, *detected)
    if len(detected) == 1:
        return next(iter(detected))
    if detected:
        names = listed(f'"{name}" ({path.relative_to(folder.path)})' for name, path in detected.items())
        raise RelayError(f'{here} mixes layouts, {names}; give each a folder of its own, or say which with "layout".')
    other = ", ".join(f'"{name}"' for name in _detected(folder, masks_apart=masks is None))
    if other and masks is not None:
        raise RelayError(f'{here} looks like layout {other}, whose masks lie beside the images; remove "masks".')
    inside = [f'"{inner.name}" ({name})' for inner in folder.folders for name in _detected(inner, masks_apart=False)]
    if inside:
        more = f" and {len(inside) - 6} more" if len(inside) > 6 else ""
        instead = f', or, if it is layout {other}, say with "masks" where its labels lie' if other else ""
        raise RelayError(f"{here} is no site's, but holds {', '.join(inside[:6])}{more}; give one of these{instead}.")
    if other:
        raise RelayError(
            f'{here} looks like layout {other}, whose labels lie in a folder of their own; say where with "masks".'
        )
    wanted = "; ".join(f"{one.looks_for} ({name})" for name, one in known().items())
    raise RelayError(
        f"{here} has none of the known layouts (looked for: {wanted}); "
        'correct "images", or say which it is with "layout".'
    )


def _detected(folder: Folder, *, masks_apart: bool) -> dict[str, Path]:
    """Return the layouts of one kind (masks apart or not) that claim a folder, each with the path of recognition."""
    of_this_kind = [one for one in known().values() if one.masks_apart == masks_apart]
    found = {one.name: path for one in of_this_kind if not one.yields and (path := one.detect(folder)) is not None}
    yielding = (one for one in of_this_kind if one.yields and not found)
    return found or {one.name: path for one in yielding if (path := one.detect(folder)) is not None}


def _aside(folder: Folder, name: str) -> dict[str, Path]:
    """Return other layouts in the subfolders where the recognised layout detects nothing and which it would skip."""
    idle = [inner for inner in folder.folders if known()[name].detect(inner) is None]
    return {
        other: path
        for inner in idle
        for other, path in _detected(inner, masks_apart=False).items()
        if other != name and not known()[other].yields
    }


def _listed(key: str, path: Path) -> Folder:
    if not os.path.isdir(path):
        raise RelayError(f'There is no folder {path}; correct "{key}" in the site file.')
    if not is_text(path):
        raise RelayError(f"The name of the folder {writable(str(path))} is no UTF-8; rename it.")
    folder = list_folder(path)
    for place, sentence in folder.troubles:
        if place == path:
            raise RelayError(sentence)
    return folder


def _troubles(folder: Folder) -> list[Problem]:
    return [
        Problem(place.relative_to(folder.path).as_posix(), sentence)
        for inner in folder.tree()
        for place, sentence in inner.troubles
    ]
