"""Define the three hospitals: which patients their scanners see, on which grids, and how their files lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.phantom.anatomy import Anatomy, Rectum, surround
from deploy.phantom.dicom import Frame, uid, write_label, write_series
from deploy.phantom.gland import CENTRAL, PERIPHERAL, Grid, draw_gland, outline
from deploy.phantom.masks import RealGland, digest, shape_of, tissue_zones
from deploy.phantom.scanner import Scanner, acquire

__all__ = ["HOSPITALS", "Hospital", "write_patient"]


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """Hold the facts of a site."""

    scanner: Scanner
    volume: tuple[float, float, float, float]
    """Volume of the gland in ml: mean, standard deviation, smallest, largest."""
    squash: float
    height: float
    """Extents of a gland of 50 ml: `squash` is front-to-back, `height` feet-to-head, each over left-to-right."""
    grids: tuple[tuple[int, int, int, float, float], ...]
    """Slices, rows, columns, pixel spacing in mm and slice spacing in mm of each grid; the first is the most
    frequent."""
    centre: tuple[float, float, float]
    """Where the gland's centre lies on the grid, as fractions of the grid's extent: slices, rows, columns."""
    tilt: float
    """Standard deviation of the slices' tilt about the left-right axis, in radians."""
    rectum: tuple[tuple[Rectum, float], ...]
    """The contents of the rectum, each with its probability."""
    site_file: str
    """The site's site.toml, without the keys common to all sites."""


_LABELS = f"labels = {{ PZ = {PERIPHERAL}, CG = {CENTRAL} }}\n"
"""Site C's masks are of the whole gland alone."""

HOSPITALS: dict[str, Hospital] = {
    "A": Hospital(
        scanner=Scanner(
            manufacturer="SIEMENS", model="Skyra", field=3.0, repetition=5660, echo=104, coil="surface",
            noise=0.013, blur=0.38, scale=900, largest=4095,
        ),
        volume=(74, 52, 17, 313),
        squash=0.82,
        height=0.88,
        grids=(
            (20, 320, 320, 0.625, 3.6), (19, 384, 384, 0.5, 3.0), (15, 320, 320, 0.6, 4.0),
            (24, 320, 320, 0.625, 3.6),
        ),
        centre=(0.50, 0.485, 0.51),
        tilt=0.15,
        rectum=(("stool", 0.5), ("gas", 0.25), ("collapsed", 0.25)),
        site_file=f'layout = "nci-isbi"\nimages = "A/Prostate-3T"\nmasks = "A/labels"\n{_LABELS}',
    ),
    "B": Hospital(
        scanner=Scanner(
            manufacturer="Philips Medical Systems", model="Achieva", field=1.5, repetition=4000, echo=120,
            coil="endorectal", noise=0.022, blur=0.36, scale=420, largest=4095,
        ),
        volume=(45, 27, 19, 119),
        squash=0.70,
        height=0.74,
        grids=(
            (32, 400, 400, 0.4, 3.0), (34, 400, 400, 0.4, 3.0), (30, 400, 400, 0.4, 3.0),
            (36, 400, 400, 0.4, 3.0),
        ),
        centre=(0.43, 0.44, 0.505),
        tilt=0.08,
        rectum=(("balloon", 1.0),),
        site_file=(
            'layout = "nci-isbi"\nimages = "B/PROSTATE-DIAGNOSIS"\nmasks = "B/labels"\n'
            f'series = "T2W_TSE_AX"\n{_LABELS}'
        ),
    ),
    "C": Hospital(
        scanner=Scanner(
            manufacturer="SIEMENS", model="TrioTim", field=3.0, repetition=3600, echo=143, coil="body",
            noise=0.012, blur=0.50, scale=600, largest=4095,
        ),
        volume=(50, 25, 18, 130),
        squash=0.80,
        height=0.70,
        grids=(
            (56, 308, 384, 0.73, 1.25), (64, 308, 384, 0.68, 1.25), (60, 308, 384, 0.79, 1.25),
            (48, 308, 384, 0.76, 1.25),
        ),
        centre=(0.48, 0.49, 0.50),
        tilt=0.0,
        rectum=(("stool", 0.45), ("gas", 0.2), ("collapsed", 0.35)),
        site_file='layout = "i2cvb"\nimages = "C"\n',
    ),
}  # fmt: skip

# The patients' numbers in I2CVB.
_DIJON = (1036, 1041, 387, 410, 416, 430, 513, 634, 755, 778, 782, 799, 804, 836, 870, 996, 261, 384, 1035)


def _volume(hospital: Hospital, rng: np.random.Generator) -> float:
    mean, deviation, smallest, largest = hospital.volume
    spread = float(np.sqrt(np.log(1 + (deviation / mean) ** 2)))
    while True:
        volume = float(np.exp(rng.normal(np.log(mean) - spread**2 / 2, spread)))
        if smallest <= volume <= largest:
            return volume


def _grid(hospital: Hospital, volume: float, rng: np.random.Generator) -> Grid:
    """Choose among the hospital's grids tall enough for a gland of this volume; the tallest grid where none is.

    Args:
        hospital: the hospital.
        volume: of the gland, in ml.
        rng: the source of the choice and of the gland's place on the grid.
    """
    needed = 1.24 * (volume * 1000 * hospital.height**2 / hospital.squash) ** (1 / 3) + 6
    fitting = [grid for grid in hospital.grids if grid[0] * grid[4] >= needed]
    odds = np.array([0.55, 0.2, 0.15, 0.1][: len(fitting)])
    selected = (
        fitting[int(rng.choice(len(fitting), p=odds / odds.sum()))]
        if fitting
        else max(hospital.grids, key=lambda grid: grid[0] * grid[4])
    )
    slices, rows, columns, pixel, thickness = selected
    part = np.array(hospital.centre) + rng.normal(0, (0.02, 0.025, 0.012))
    extent = np.array([(slices - 1) * thickness, rows * pixel, columns * pixel])
    corner = -extent * part
    return Grid(
        shape=(slices, rows, columns),
        spacing=(thickness, pixel, pixel),
        corner=(float(corner[0]), float(corner[1]), float(corner[2])),
    )


def _frame(grid: Grid, tilt: float, rng: np.random.Generator) -> Frame:
    cosine, sine = float(np.cos(tilt)), float(np.sin(tilt))
    direction = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    gland = rng.normal(0, (4, 12, 40))
    origin = gland + direction @ np.array(grid.corner[::-1])
    return Frame(
        spacing=(grid.spacing[2], grid.spacing[1], grid.spacing[0]),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(float(value) for value in direction.ravel()),
    )


def _tags(
    root: tuple[object, ...], about: str, scanner: Scanner, *, patient: str, series: str, number: int
) -> dict[str, str]:
    return {
        "0008|0005": "ISO_IR 100",
        "0008|0008": "ORIGINAL\\PRIMARY\\M\\NORM",
        "0008|0012": "20130101",
        "0008|0013": "120000",
        "0008|0020": "20130101",
        "0008|0030": "120000",
        "0008|0070": scanner.manufacturer,
        "0008|1030": about,
        "0008|103e": series,
        "0008|1090": scanner.model,
        "0010|0010": patient,
        "0010|0020": patient,
        "0010|0040": "M",
        "0018|0015": "PROSTATE",
        "0018|0020": "SE",
        "0018|0080": f"{scanner.repetition:g}",
        "0018|0081": f"{scanner.echo:g}",
        "0018|0087": f"{scanner.field:g}",
        "0018|5100": "FFS" if scanner.manufacturer == "SIEMENS" else "HFS",
        "0020|000d": uid(*root, "study"),
        "0020|000e": uid(*root, "series", number),
        "0020|0011": str(number),
        "0020|0052": uid(*root, "frame"),
    }


def _coronal(
    anatomy: Anatomy, grid: Grid, frame: Frame, scanner: Scanner, rng: np.random.Generator
) -> tuple[NDArray[np.uint16], Frame, Scanner]:
    """Scan a coronal T1 series of the same pelvis.

    Returns:
        Pixel values (slices back to front, rows head to feet, columns), where they lie in the patient, and the
        sequence.
    """
    rows = np.linspace(0.2, 0.8, 10)
    picks = (rows * grid.shape[1]).astype(int)[::-1]
    heights = np.arange(grid.shape[0] * 2)[::-1] // 2
    step = float(picks[0] - picks[1]) * grid.spacing[1]

    tissue = np.ascontiguousarray(anatomy.tissue[:, picks, ::2][heights].transpose(1, 0, 2))
    factor = np.ascontiguousarray(anatomy.factor[:, picks, ::2][heights].transpose(1, 0, 2))
    up = np.array(frame.direction).reshape(3, 3)
    index = np.array([0, float(picks[0]), grid.shape[0] - 0.75])
    origin = np.array(frame.origin) + up @ (index * np.array(frame.spacing))
    direction = np.column_stack([up[:, 0], -up[:, 2], -up[:, 1]])
    spin = Scanner(
        manufacturer=scanner.manufacturer, model=scanner.model, field=scanner.field, repetition=600, echo=12,
        coil="body", noise=0.02, blur=0.6, scale=1200, largest=4095,
    )  # fmt: skip
    flat = Grid(
        shape=(len(picks), len(heights), tissue.shape[2]),
        spacing=(step, grid.spacing[0] / 2, grid.spacing[2] * 2),
        corner=(-step * len(picks) / 2, -grid.spacing[0] * grid.shape[0] / 2, grid.corner[2]),
    )
    slab = Anatomy(tissue=tissue, factor=factor, coil=anatomy.coil)
    place = Frame(
        spacing=(flat.spacing[2], flat.spacing[1], flat.spacing[0]),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(float(value) for value in direction.ravel()),
    )
    return acquire(slab, flat, spin, rng), place, spin


def write_patient(folder: Path, site: str, index: int, seed: int, gland: RealGland | None = None) -> None:
    """Make a patient of a site, and write the patient's files.

    The files depend on seed, site, index and gland alone, so an additional patient changes the files of no other
    patient.

    Args:
        folder: the site's folder.
        site: the site's name, a key of `HOSPITALS`.
        index: the patient's number at the site, from 0.
        seed: the seed of all hospitals.
        gland: a real gland with its grid, in place of a drawn gland; the real gland's label is written unchanged.
    """
    hospital = HOSPITALS[site]
    rng = np.random.default_rng([seed, ord(site), index])
    root: tuple[object, ...] = ("relay phantom", seed, site, index)
    if gland:
        grid, zones, label = gland.grid(), tissue_zones(gland), gland.whole()
        shape, about = shape_of(zones, grid), "Synthetic phantom of a real gland"
        root = (*root, digest([gland]))
    else:
        volume = _volume(hospital, rng)
        grid = _grid(hospital, volume, rng)
        zones = label = draw_gland(grid, rng, volume=volume, squash=hospital.squash, height=hospital.height)
        shape, about = outline(zones, grid), "Synthetic phantom"
    contents, odds = zip(*hospital.rectum, strict=True)
    rectum = contents[int(rng.choice(len(contents), p=odds))]
    anatomy = surround(zones, shape, grid, rng, rectum=rectum)
    image = acquire(anatomy, grid, hospital.scanner, rng)
    if gland:
        frame = gland.frame
    else:
        frame = _frame(grid, abs(float(rng.normal(0, hospital.tilt))) if hospital.tilt else 0.0, rng)
    tags = partial(_tags, root, about)
    if site == "C":
        _write_i2cvb(folder, index, tags, image, label, frame, odd=not gland)
        return

    name, collection = ("Prostate3T", "Prostate-3T") if site == "A" else ("ProstateDx", "PROSTATE-DIAGNOSIS")
    patient = f"{name}-01-{index + 1:04d}"
    count = len(image)
    # the files' numbers count from the head down at site A, and from the feet up at site B
    names = [f"{count - 1 - number if site == 'A' else number:06d}.dcm" for number in range(count)]
    series = "t2_tse_tra" if site == "A" else "T2W_TSE_AX"
    header = tags(hospital.scanner, patient=patient, series=series, number=4)
    study = folder / collection / patient / header["0020|000d"]
    write_series(study / header["0020|000e"], image, frame, tags=header, names=names)
    if site == "B":
        side, place, spin = _coronal(anatomy, grid, frame, hospital.scanner, rng)
        header = tags(spin, patient=patient, series="T1W_TSE_COR", number=2)
        names = [f"{number:06d}.dcm" for number in range(len(side))]
        write_series(study / header["0020|000e"], side, place, tags=header, names=names)
    if not gland:
        label, frame = _oddly_drawn(site, index, label, frame)
    # the labels of the real data set have suffixes and two number types
    suffix = {("A", 1): "_truth", ("B", 1): "_correctedLabels"}.get((site, index), "")
    signed = site == "A" and index % 4 != 3
    path = folder / "labels" / f"{patient}{suffix}.nrrd"
    write_label(path, label.astype(np.int16) if signed else label, frame)


def _oddly_drawn(site: str, index: int, zones: NDArray[np.uint8], frame: Frame) -> tuple[NDArray[np.uint8], Frame]:
    """Give drawn zones the oddities of the real NCI-ISBI labels: a missing zone, fewer slices.

    Real masks have oddities of their own.
    """
    if (site, index) == ("A", 4):
        zones = np.where(zones > 0, CENTRAL, 0).astype(np.uint8)
    if (site, index) == ("B", 2):  # the label covers the gland's slices and three more on either side
        filled = np.flatnonzero(zones.any(axis=(1, 2)))
        first, last = max(filled[0] - 3, 0), min(filled[-1] + 3, len(zones) - 1)
        zones = zones[first : last + 1]
        normal = np.array(frame.direction[2::3])
        origin = np.array(frame.origin) + normal * frame.spacing[2] * first
        frame = Frame(frame.spacing, (float(origin[0]), float(origin[1]), float(origin[2])), frame.direction)
    return zones, frame


def _write_i2cvb(
    folder: Path,
    index: int,
    tags: Callable[..., dict[str, str]],
    image: NDArray[np.uint16],
    zones: NDArray[np.uint8],
    frame: Frame,
    *,
    odd: bool,
) -> None:
    """Write a patient of site C in the layout of I2CVB.

    Args:
        folder: the site's folder.
        index: the patient's number at the site, from 0.
        tags: makes the DICOM tags of a series.
        image: pixel values, (slices, rows, columns).
        zones: the gland's zones, (slices, rows, columns).
        frame: where the arrays lie in the patient.
        odd: whether patient 3 gets an oddity of the real data set: a missing mask slice.
    """
    scanner = HOSPITALS["C"].scanner
    patient = f"Patient {_DIJON[index] if index < len(_DIJON) else 2000 + index}"
    count = len(image)
    header = tags(scanner, patient=patient, series="T2W_TSE_AX_3D", number=5)
    names = [f"{number:04d}.dcm" for number in range(count)]
    write_series(folder / patient / "T2W", image, frame, tags=header, names=names)
    mask = np.where(zones > 0, 255 if index % 2 == 0 else 1023, 0).astype(np.uint16)
    header = tags(scanner, patient=patient, series="GT prostate", number=50)
    if odd and index == 3:  # the missing slice lies beyond the gland
        mask = mask[:-1]
    # the masks' files are numbered against the images' order, so that only positions pair them
    names = [f"{count - 1 - number:04d}.dcm" for number in range(len(mask))]
    write_series(folder / patient / "GT" / "prostate", mask, frame, tags=header, names=names)
