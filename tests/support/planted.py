"""Faults planted in the mask files of a hospital: read and written with SimpleITK alone, in its own layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def mirrored(mask: Mask) -> Mask:
    return mask[:, :, ::-1]


def reversed_(mask: Mask) -> Mask:
    return mask[::-1]


def up(mask: Mask) -> Mask:
    """By one slice towards the head; the topmost is lost."""
    return np.concatenate([np.zeros_like(mask[:1]), mask[:-1]])


def down(mask: Mask) -> Mask:
    return np.concatenate([mask[1:], np.zeros_like(mask[:1])])


def careless(mask: Mask, spacing: tuple[float, float, float], *, off: float, seed: int) -> Mask:
    """The outline as somebody else would draw it: moved smoothly, by a deviation of `off` mm, and ends cut at times."""
    rng = np.random.default_rng(seed)
    smooth = (6 / spacing[0], 12 / spacing[1], 12 / spacing[2])
    field = ndimage.gaussian_filter(rng.normal(size=(2, *mask.shape)), (0, *smooth))
    field *= off / field.std(axis=(1, 2, 3), keepdims=True)
    field += rng.normal(0, off / 2, (2, 1, 1, 1))
    rows, columns = np.mgrid[: mask.shape[1], : mask.shape[2]]
    drawn = np.zeros_like(mask)
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        places = [rows + field[0, index] / spacing[1], columns + field[1, index] / spacing[2]]
        drawn[index] = ndimage.map_coordinates(mask[index].astype(np.float32), places, order=1) > 0.5
    filled = np.flatnonzero(drawn.any(axis=(1, 2)))
    for end in (filled[0], filled[-1]):
        if rng.random() < 0.4:
            drawn[end] = False
    return drawn


def dice(one: Mask, other: Mask) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def copy_of(hospitals: Path, folder: Path, site: str) -> Path:
    """A hospital of its own, with the images linked; returns its site file."""
    shutil.copytree(hospitals / site, folder / site, copy_function=os.link)
    name = f"site-{site.lower()}.toml"
    shutil.copy(hospitals / name, folder / name)
    return folder / name


def patients(folder: Path, site: str) -> list[str]:
    """All patients of a synthetic hospital, by name: that of the folder of their images."""
    place = folder / site if site == "C" else next(path for path in (folder / site).iterdir() if path.name != "labels")
    return sorted(path.name for path in place.iterdir() if path.is_dir())


def read(folder: Path, site: str, patient: str) -> Mask:
    """The mask on the image's grid: slices from feet to head, rows from front to back, columns from right to left."""
    if site == "C":
        files = _slices(folder / site / patient / "GT" / "prostate")
        image = _slices(folder / site / patient / "T2W")
        shape = next(iter(image.values()))[1].shape
        empty = np.zeros(shape, bool)
        return np.stack([files[height][1] > 0 if height in files else empty for height in image])
    label = sitk.ReadImage(str(_label(folder, site, patient)))
    return sitk.GetArrayFromImage(_on(label, _geometry(folder, site, patient))) > 0


def write(folder: Path, site: str, patient: str, mask: Mask) -> None:
    """Put another mask in the place of a patient's, with the headers that are there."""
    if site == "C":
        files = _slices(folder / site / patient / "GT" / "prostate")
        heights = list(_slices(folder / site / patient / "T2W"))
        for height, slice_ in zip(heights, mask, strict=True):
            if height not in files:
                assert not slice_.any(), "the slice that is missing would have a mask"
                continue
            path, old = files[height]
            header = sitk.ReadImage(str(path))
            piece = sitk.GetImageFromArray(np.where(slice_, 255, 0).astype(old.dtype)[None])
            piece.CopyInformation(header)
            for key in header.GetMetaDataKeys():
                piece.SetMetaData(key, header.GetMetaData(key))
            path.unlink()  # it is linked to the untouched hospital's
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(path))
            writer.Execute(piece)
        return
    label = sitk.GetImageFromArray(mask.astype(np.uint8))
    label.CopyInformation(_geometry(folder, site, patient))
    path = _label(folder, site, patient)
    path.unlink()
    sitk.WriteImage(label, str(path), useCompression=True)


def change(folder: Path, site: str, patient: str, fault: Callable[[Mask], Mask]) -> None:
    write(folder, site, patient, fault(read(folder, site, patient)))


def exchange_masks(folder: Path, site: str, one: str, other: str) -> None:
    """Two patients' masks, each under the headers of the other: their grids have one shape."""
    first, second = read(folder, site, one), read(folder, site, other)
    write(folder, site, one, second)
    write(folder, site, other, first)


def exchange_files(folder: Path, site: str, one: str, other: str) -> None:
    """Two patients' mask files, headers and all."""
    if site == "C":
        paths = [folder / site / patient / "GT" for patient in (one, other)]
    else:
        paths = [_label(folder, site, patient) for patient in (one, other)]
    aside = paths[0].with_name("aside")
    paths[0].rename(aside)
    paths[1].rename(paths[0])
    aside.rename(paths[1])


def _label(folder: Path, site: str, patient: str) -> Path:
    (path,) = (folder / site / "labels").glob(f"{patient}*.nrrd")
    return path


def _geometry(folder: Path, site: str, patient: str) -> sitk.Image:
    """The axial series of a patient."""
    (place,) = (folder / site).glob(f"*/{patient}")
    for series in sorted(path for path in place.glob("*/*") if path.is_dir()):
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
        volume = sitk.ReadImage(names)
        if abs(volume.GetDirection()[8]) > 0.7:
            return volume
    raise AssertionError(f"{patient} has no axial series")


def _on(label: sitk.Image, image: sitk.Image) -> sitk.Image:
    return sitk.Resample(label, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)


def _slices(folder: Path) -> dict[float, tuple[Path, NDArray[np.generic]]]:
    """A file a slice, from feet to head, by its height in millimetres."""
    found = {}
    for path in folder.glob("*.dcm"):
        piece = sitk.ReadImage(str(path))
        found[round(piece.GetOrigin()[2], 2)] = path, sitk.GetArrayFromImage(piece)[0]
    return dict(sorted(found.items()))
