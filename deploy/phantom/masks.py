"""Read real glands: an expert's masks as the anatomy of synthetic patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from client.data.layouts.volumes import is_volume_file, read_volume
from common.digest import digest_of
from common.errors import RelayError
from deploy.phantom.dicom import Frame
from deploy.phantom.gland import CENTRAL, PERIPHERAL, GlandShape, Grid, outline

__all__ = ["RealGland", "digest", "mask_folders", "read_glands", "shape_of", "tissue_zones"]

SMALLEST = (3, 32, 32)
"""The fewest slices, rows and columns of a mask; with fewer, no reader takes the patient for a volume."""
SLIP = 0.01
"""A share: a connected piece below this share of the largest piece is a slip of the brush, and gets no tissue."""


@dataclass(frozen=True, eq=False)
class RealGland:
    """Hold a mask on its own grid, in LPS order: slices from feet to head, rows from front to back."""

    label: NDArray[np.uint8]
    """0, 1 and 2 as the expert drew them, (slices, rows, columns), cut to the bounding box: a folder of whole masks
    takes much memory."""
    box: tuple[slice, ...]
    """Where `label` lies on the grid."""
    shape: tuple[int, int, int]
    frame: Frame

    def whole(self) -> NDArray[np.uint8]:
        """Return the mask on the whole grid, (slices, rows, columns)."""
        labels = np.zeros(self.shape, np.uint8)
        labels[self.box] = self.label
        return labels

    def grid(self) -> Grid:
        """Return the mask's grid, in the frame whose zero is the gland's middle."""
        pieces = _pieces(self.label)
        spacing = self.frame.spacing[::-1]
        corner = [
            -step * (side.start + (filled[0] + filled[-1]) / 2)
            for step, side, filled in zip(
                spacing,
                self.box,
                (np.flatnonzero(pieces.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))),
                strict=True,
            )
        ]
        return Grid(shape=self.shape, spacing=spacing, corner=(corner[0], corner[1], corner[2]))


def mask_folders(given: Sequence[str]) -> dict[str, Path]:
    """Read the values of --anatomy, each "HOSPITAL=DIR".

    Args:
        given: the values.

    Returns:
        Hospital to folder of masks.

    Raises:
        RelayError: a value has another form, or a hospital is given twice.
    """
    folders: dict[str, Path] = {}
    for entry in given:
        site, equals, folder = entry.partition("=")
        if not (site and equals and folder):
            raise RelayError(f'--anatomy wants HOSPITAL=DIR, such as A=Prostate-3T, and got "{entry}".')
        if site in folders:
            raise RelayError(
                f"--anatomy names {site} twice ({folders[site]} and {folder}); give each hospital one folder."
            )
        folders[site] = Path(folder)
    return folders


def read_glands(folders: Mapping[str, Path], patients: Mapping[str, int]) -> dict[str, list[RealGland]]:
    """Read, for each site, as many masks as the site has patients, in the order of the files' names.

    Args:
        folders: site to folder of masks; sub-folders are not searched.
        patients: site to number of patients.

    Raises:
        RelayError: a folder is missing or holds fewer masks than patients, a mask is no gland, or two masks are the
            same.
    """
    glands: dict[str, list[RealGland]] = {}
    seen: dict[str, Path] = {}
    for site, folder in folders.items():
        glands[site] = []
        for path in _mask_files(folder, site, patients[site]):
            gland = read_gland(path)
            key = digest([gland])
            if key in seen:
                raise RelayError(
                    f"Two patients would have the same gland, of {seen[key]} and {path}; give each hospital masks of"
                    " its own, each once."
                )
            seen[key] = path
            glands[site].append(gland)
    return glands


def _mask_files(folder: Path, site: str, patients: int) -> list[Path]:
    if not folder.is_dir():
        raise RelayError(f"There is no folder {folder}; name the folder of the masks for hospital {site}.")
    files = sorted(path for path in folder.iterdir() if is_volume_file(path) and not path.name.startswith("."))
    if len(files) < patients:
        raise RelayError(
            f"Hospital {site} shall have {patients} patients, and the masks in {folder} (NRRD, NIfTI or MetaImage, one"
            f" a patient) number {len(files)}; ask for no more patients than masks, or name another folder."
        )
    return files[:patients]


def read_gland(path: Path) -> RealGland:
    """Read a label volume: 1 is the peripheral zone and 2 the central gland; a single label is the whole gland.

    Args:
        path: the volume.

    Raises:
        RelayError: the volume cannot be read, is empty, holds other values, or is not axial.
    """
    image = sitk.DICOMOrient(read_volume(path), "LPS")
    values = sitk.GetArrayViewFromImage(image)
    known = np.isin(values, (0, PERIPHERAL, CENTRAL))
    if not known.all():
        raise RelayError(
            f"{path} holds the value {values[~known][0]:g}, and an anatomy's mask 0, 1 (peripheral zone) and 2"
            " (central gland) alone; convert it, or take it out of the folder."
        )
    columns, rows, slices = image.GetSize()
    across, down, step = image.GetSpacing()
    if max(across, down) > 1.5 * step:
        raise RelayError(f"{path} is not axial (its slices are thickest across the body); give a mask of the axial T2.")
    if any(side < least for side, least in zip((slices, rows, columns), SMALLEST, strict=True)):
        raise RelayError(
            f"{path} has {slices} slices of {rows} × {columns} voxels, and an anatomy needs at least"
            f" {SMALLEST[0]} of {SMALLEST[1]} × {SMALLEST[2]}; give the whole volume, or take it out of the folder."
        )
    labels = values.astype(np.uint8)
    boxes = ndimage.find_objects((labels > 0).astype(np.uint8))
    if not boxes:
        raise RelayError(f"The mask {path} is empty (no label above 0); draw it, or take it out of the folder.")
    frame = Frame(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return RealGland(labels[boxes[0]].copy(), boxes[0], labels.shape, frame)


def digest(glands: Sequence[RealGland]) -> str:
    """Return the sha256 of masks in their order: of grids and labels, however the files are named or compressed."""
    return digest_of(
        piece
        for gland in glands
        for piece in (repr((gland.shape, gland.frame, gland.box)).encode(), gland.label.tobytes())
    )


def tissue_zones(gland: RealGland) -> NDArray[np.uint8]:
    """Return the gland's zones as shown in the image.

    These zones are the mask's zones without slips of the brush: stray voxels do not count as gland, and holes do. Where
    the mask has a single label, the zones are made up.

    Args:
        gland: the mask.

    Returns:
        0, PERIPHERAL or CENTRAL for each voxel, (slices, rows, columns).
    """
    label = gland.label * _pieces(gland.label)
    inside = np.stack([ndimage.binary_fill_holes(plane) for plane in label > 0])
    if len(np.unique(label[label > 0])) == 1:
        label = _inner_zones(inside)
    else:
        nearest = ndimage.distance_transform_edt(
            label == 0, gland.frame.spacing[::-1], return_distances=False, return_indices=True
        )
        label = np.where(inside, label[tuple(nearest)], 0)
    return replace(gland, label=label.astype(np.uint8)).whole()


def shape_of(zones: NDArray[np.uint8], grid: Grid) -> GlandShape:
    """Measure a real gland, its back at the contact with the rectum: behind the gland's middle, not behind its horns.

    Args:
        zones: the gland's zones, (slices, rows, columns).
        grid: the grid of `zones`.
    """
    shape = outline(zones, grid)
    filled = np.flatnonzero(zones.any(axis=(1, 2)))
    x, y, z = (grid.axis(axis).astype(np.float64) for axis in (2, 1, 0))
    backs = []
    for index in filled:
        middle = np.abs(x - shape.centre[index]) <= max(shape.half_width[index] / 3, grid.spacing[2])
        plane = zones[index][:, middle] > 0
        plane = plane[:, plane.any(axis=0)]
        last = plane.shape[0] - 1 - plane[::-1].argmax(axis=0)
        backs.append(float(np.median(y[last])) if last.size else float(shape.back[index]))
    return replace(shape, back=np.interp(z, z[filled], backs))


def _pieces(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which voxels of a label belong to the gland: all connected pieces except slips of the brush (`SLIP`)."""
    pieces, _ = ndimage.label(label > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= SLIP * sizes.max())[pieces]
    return kept


def _inner_zones(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Make up the zones of a gland of which only the surface is known.

    The central gland is the outline shrunk towards its front, and thins out towards the apex.

    Args:
        inside: the gland, (slices, rows, columns).
    """
    zones = inside.astype(np.uint8) * PERIPHERAL
    filled = np.flatnonzero(inside.any(axis=(1, 2)))
    for index in filled:
        level = (index - filled[0] + 0.5) / (filled[-1] - filled[0] + 1)
        present = 0.85 * float(np.clip((level - 0.05) / 0.3, 0, 1)) ** 0.5
        if present < 0.1:
            continue
        rows, columns = np.flatnonzero(inside[index].any(1)), np.flatnonzero(inside[index].any(0))
        fixed = np.array([rows[0], (columns[0] + columns[-1]) / 2])
        scale = 1 / np.array([0.9 * present, present])
        shrunk = ndimage.affine_transform(inside[index].astype(np.uint8), scale, offset=fixed - scale * fixed, order=0)
        zones[index][(shrunk > 0) & inside[index]] = CENTRAL
    return zones
