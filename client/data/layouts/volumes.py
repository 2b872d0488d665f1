"""Reading one patient's image and mask onto one grid: the second half of the contract in `client.data.layouts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from client.data.layouts import (
    NOTHING_STATED,
    Case,
    Part,
    Source,
    Statement,
    dicom,
    dicom_labels,
    geometry,
    mask_values,
    metaimage,
    nifti,
    nrrd,
    segmentation,
    slicer,
    writable,
)
from client.data.layouts.size import check_steps, check_voxels, raise_if_short
from common.errors import BadPatient, RelayError
from common.target import ZONES
from common.text import count, percent

# ITK reports harmless oddities of headers on stderr, with the names of the files.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

VOLUME_FILES = (".nrrd", *nifti.ENDINGS, *metaimage.ENDINGS)

INSIDE = 0.9
"""The least share of a mask's voxels that must lie inside the image."""
SAME_LATTICE = 1e-4
"""The relative difference of two grids' spacings and directions up to which the grids count as equal."""


def read_case(source: Source) -> Case:
    """Read one patient; see `client.data.layouts.read`.

    Raises:
        BadPatient: the image or mask cannot be used.
    """
    stated = source.stated
    try:
        image = read_image(source.image, channel=source.channel, stated=stated)
        mask, values, parts = _read_mask(
            source.mask, step=image.GetSpacing()[2], stated=stated, image=image, files=source.image
        )
        with _header_errors(place(source.mask)):
            mask = on_grid(mask, image, place=place(source.mask))
        missing = _lacking(source.image, source.channel, stated)
    except RelayError as error:
        raise BadPatient(source.patient, writable(str(error))) from None
    x, y, z = image.GetSpacing()
    said = geometry.remark(missing, stated)
    series = not is_volume_file(source.image[0]) and len(source.image) > 1
    remarks = (*([said] if said else []), *(dicom.doubts(source.image) if series else ()))
    drawn = sitk.GetArrayFromImage(mask)
    zoned = bool(stated.zones) and all((drawn == zone.label).any() for zone in ZONES.zones)
    return Case(
        patient=source.patient,
        image=sitk.GetArrayFromImage(image),
        mask=drawn.astype(bool),
        spacing=(z, y, x),
        origin=image.GetOrigin(),
        direction=image.GetDirection(),
        values=values,
        parts=parts,
        zones=drawn if zoned else None,
        remarks=remarks,
    )


def read_image(files: Sequence[Path], *, channel: int | None = None, stated: Statement = NOTHING_STATED) -> sitk.Image:
    """Return an axial volume as float32 in LPS order, finite and not constant.

    Args:
        files: one volume file, or all files of one DICOM series.
        channel: the number of the volume in a file of four axes, counted from 0; None for a file of three axes.
        stated: the site's statements, used where the files lack geometry.

    Raises:
        RelayError: the files cannot be read, or hold no such volume.
    """
    return upright(read_as_it_lies(files, channel=channel, stated=stated), place(files), stated)


def read_as_it_lies(
    files: Sequence[Path], *, channel: int | None = None, stated: Statement = NOTHING_STATED
) -> sitk.Image:
    """Return an axial volume on its own grid, with the axes and values of its file or series.

    Args:
        files: one volume file, or all files of one DICOM series.
        channel: the number of the volume in a file of four axes, counted from 0; None for a file of three axes.
        stated: the site's statements, used where the files lack geometry.

    Raises:
        RelayError: the files cannot be read, or neither they nor the site states their geometry.
    """
    _there(files)
    with _header_errors(place(files)):
        if not is_volume_file(files[0]):
            return dicom.read_image(files, stated)
        image = read_volume(files[0], channel)
        missing = geometry.lacking(files[0], image)
        if geometry.is_blank(image) and stated == NOTHING_STATED:
            return image  # `upright` tells it, after what else is wrong with the image
        geometry.check(place(files), missing, stated)
        return geometry.restated(image, missing, stated) if missing else image


def _lacking(files: Sequence[Path], channel: int | None, stated: Statement) -> tuple[str, ...]:
    """Return what an image's files do not state and the site does; nothing is read where the site states nothing."""
    if stated.spacing_mm is None and not stated.orientation:
        return ()
    if is_volume_file(files[0]):
        return geometry.lacking(files[0], read_volume(files[0], channel))
    return dicom.lacking(files, stated)


def upright(raw: sitk.Image, place: str, stated: Statement = NOTHING_STATED) -> sitk.Image:
    """Return a volume as float32 in LPS order, checked for unusable content.

    Args:
        raw: the volume with the axes and values of its file or series.
        place: the name of its file or folder in an error's sentence.
        stated: the site's statements.

    Raises:
        RelayError: the image is not axial, no volume, constant, holds NaN or infinity, or has no geometry.
    """
    check_steps(place, raw.GetSpacing())
    with _header_errors(place):
        image = sitk.DICOMOrient(sitk.Cast(raw, sitk.sitkFloat32), "LPS")
    x, y, z = image.GetSpacing()
    # Voxels of a thin-sliced axial volume are longest in both directions of the slices, others in one.
    if max(x, y) > 1.5 * z and max(x, y) > 1.5 * min(x, y):
        raise RelayError(f"{place} is not axial (its slices are thickest across the body); give the axial T2.")
    if min(image.GetSize()) < 3:
        raise RelayError(f"{place} is no volume: it has {count(image.GetSize()[2], 'slice')}; give the whole series.")
    values = sitk.GetArrayViewFromImage(image)
    wrong = int(values.size - np.isfinite(values).sum())
    if wrong:
        raise RelayError(f"{place} holds {wrong} values that are no numbers (NaN or infinite); export it again.")
    if values.min() == values.max():
        raise RelayError(f"{place} is the same value ({values.min():g}) everywhere; export it again.")
    if geometry.is_blank(raw):
        geometry.check(place, (geometry.SPACING, geometry.ORIENTATION), stated)
    return image


def read_mask(files: Sequence[Path], *, step: float = 0.0, stated: Statement = NOTHING_STATED) -> sitk.Image:
    """Return a mask on its own grid in LPS order: uint8, above 0 wherever the value is gland, with zones' labels.

    Args:
        files: one volume file, or all files of one DICOM series.
        step: the image's distance between slices in mm, used for a DICOM series of masks, which may lack slices.
        stated: the site's statements on the values of masks and on missing geometry.

    Raises:
        RelayError: the mask cannot be read, holds values that are no labels, or holds no gland.
    """
    return _read_mask(files, step=step, stated=stated)[0]


def _read_mask(
    masks: Sequence[Path],
    *,
    step: float,
    stated: Statement,
    image: sitk.Image | None = None,
    files: Sequence[Path] = (),
) -> tuple[sitk.Image, mask_values.Counts, tuple[Part, ...]]:
    """Return a mask as `read_mask` does, with its values and their parts; contours need their image and its files."""
    _there(masks)
    with _header_errors(place(masks)):
        labelled = not is_volume_file(masks[0]) and len(masks) == 1 and dicom_labels.is_label(masks[0])
        if stated.zone_names and not labelled:
            raise RelayError(
                f'{masks[0]} holds values, and "labels" in the site file gives the zones names; give the values of each'
                " zone, such as labels = { PZ = 1, CG = 2 }."
            )
        if is_volume_file(masks[0]):
            raw = _read_labels(masks[0], stated)
            # A mask that states no orientation must lie as its image does, which `on_grid` checks.
            if missing := geometry.stated_of(geometry.lacking(masks[0], raw), stated):
                raw = geometry.restated(raw, missing, stated)
        elif labelled:
            if stated.zones and not stated.zone_names:
                raise RelayError(
                    f"{masks[0]} is a DICOM segmentation or an RTSTRUCT, whose segments have names in place of values;"
                    ' name the zones in the site file, such as labels = { PZ = "Peripheral zone", CG = "Central gland"'
                    " }."
                )
            raw = segmentation.read_label(masks[0], step=step, stated=stated, image=image, files=files)
        else:
            raw = dicom.read_mask(masks, step=step, stated=stated)
        check_steps(place(masks), raw.GetSpacing())
        counts = mask_values.counts(sitk.GetArrayViewFromImage(raw))
        parts = mask_values.parts(raw, counts)
        mask = sitk.DICOMOrient(mask_values.gland(raw, counts, place(masks), stated), "LPS")
    if not sitk.GetArrayViewFromImage(mask).any():
        listed = mask_values.words(counts)
        what = f"no label above 0 but {listed}" if listed and not stated.labels else "no label above 0"
        if stated.labels:
            wanted = ", ".join(map(str, stated.labels))
            what = f'none of the labels {wanted}, but {listed or "0 alone"}; correct "labels" in the site file'
        raise RelayError(f"The mask {place(masks)} is empty ({what}); draw it, or remove the patient.")
    return mask, counts, parts


def _read_labels(path: Path, stated: Statement) -> sitk.Image:
    """Return a mask's file as it lies; of a segmentation of several layers, the layers as one label map."""
    if not path.name.lower().endswith(".nrrd"):
        return read_volume(path)
    nrrd.check(path)
    found = slicer.segments(path)
    return slicer.label_map(path, read_volume(path, layers=bool(found)), found, stated) if found else read_volume(path)


def on_grid(mask: sitk.Image, image: sitk.Image, *, place: str) -> sitk.Image:
    """Resample a mask onto the image's grid, by nearest neighbour in physical space.

    Args:
        mask: uint8, above 0 where gland is, on its own grid in LPS order.
        image: the image in LPS order.
        place: the name of the mask's file or folder in an error's sentence.

    Raises:
        RelayError: the mask lies outside the image, or between its slices.
    """
    share = _share_inside(mask, image)
    lost_header = mask.GetSize() == image.GetSize() and not _same_place(mask, image)
    if share < INSIDE or lost_header:
        same = ", though it has as many voxels: its header may be lost" if mask.GetSize() == image.GetSize() else ""
        raise RelayError(
            f"The mask {place} is on another grid ({percent(share, 0)} of it lies inside the image{same}); "
            "export it in the image's own space."
        )
    placed = sitk.Resample(_snapped(mask, image), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    if not sitk.GetArrayViewFromImage(placed).any():
        raise RelayError(f"The mask {place} falls between the image's slices; export it in the image's own space.")
    return placed


def _same_place(mask: sitk.Image, image: sitk.Image) -> bool:
    """Return whether two grids of one size lie in the same place, give or take a voxel; half a voxel is common."""
    if not np.allclose(mask.GetSpacing(), image.GetSpacing(), rtol=0.01):
        return False
    if not np.allclose(mask.GetDirection(), image.GetDirection(), atol=0.02):
        return False
    away = mask.TransformPhysicalPointToContinuousIndex(image.GetOrigin())
    return bool(np.max(np.abs(away)) <= 1.01)


def is_volume_file(path: Path) -> bool:
    """Return whether a file is a volume file by its ending, and not part of a DICOM series."""
    return path.name.lower().endswith(VOLUME_FILES)


def place(files: Sequence[Path]) -> str:
    """Return the files' name in an error's sentence: the path of a volume file, or the folder of a series."""
    return str(files[0] if is_volume_file(files[0]) else files[0].parent)


@contextmanager
def _header_errors(place: str) -> Iterator[None]:
    """Turn ITK's errors about header values into RelayError, and a shortage of memory into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        raise_if_short(str(error))
        raise RelayError(f"{place} has a header that makes no sense; export it again.") from None


def _there(files: Sequence[Path]) -> None:
    if not files:
        raise RelayError("The series is empty: it has no file; add its files, or remove the patient.")


def read_volume(path: Path, channel: int | None = None, *, layers: bool = False) -> sitk.Image:
    """Read one volume file with the axes and values of the file: three axes, one value in each voxel.

    Args:
        path: the file.
        channel: the number of the volume, from 0, in a file of several volumes.
        layers: whether a voxel may hold several values.

    Raises:
        RelayError: the file cannot be read, or holds no such volume.
        MemoryError: the file needs more memory than there is.
    """
    name = path.name.lower()
    # SimpleITK selects the reader by the file's ending, but does not know MetaImage's endings in upper case
    image_io = ""
    if name.endswith(nifti.ENDINGS):
        nifti.check(path, channel=channel)
    elif name.endswith(metaimage.ENDINGS):
        metaimage.check(path)
        image_io = "MetaImageIO"
    else:
        nrrd.check(path)
    voxels = 0
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO(image_io)
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        voxels = check_voxels(path, [*reader.GetSize(), reader.GetNumberOfComponents()])
        image = reader.Execute()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise RelayError(
                f"The axes in the header of {path} are not at right angles; export it again with an orthogonal grid."
            ) from None
        raise_if_short(str(error), voxels)
        raise RelayError(f"{path} cannot be read; it is damaged or of another format: copy it again.") from None
    volumes = image.GetSize()[3] if image.GetDimension() == 4 else 1
    if channel is not None and not (image.GetDimension() == 4 and channel < volumes):
        raise RelayError(
            f"{path} should hold several volumes, of which number {channel + 1} is the T2, and holds {volumes}; "
            "add the right file."
        )
    if image.GetDimension() == 4 and (channel is not None or volumes == 1):
        image = image[:, :, :, channel or 0]
    if image.GetDimension() != 3 or (image.GetNumberOfComponentsPerPixel() != 1 and not layers):
        raise RelayError(f"{path} is no plain volume of three dimensions; give one value a voxel, three axes.")
    if name.endswith(nifti.ENDINGS):
        nifti.check_placement(path)
    return image


def _snapped(mask: sitk.Image, image: sitk.Image) -> sitk.Image:
    """Move a mask onto the image's lattice, by less than a voxel, if both have the same spacing and direction.

    Masks are often half a voxel off (corner against centre). Nearest neighbour would then decide by rounding errors,
    voxel by voxel, and fray the outline. This function rounds once for the whole mask.
    """
    if not (
        np.allclose(mask.GetSpacing(), image.GetSpacing(), rtol=SAME_LATTICE, atol=0)
        and np.allclose(mask.GetDirection(), image.GetDirection(), rtol=0, atol=SAME_LATTICE)
    ):
        return mask
    offset = np.array(image.TransformPhysicalPointToContinuousIndex(mask.GetOrigin()))
    whole = np.sign(offset) * np.ceil(np.abs(offset) - 0.5 - 1e-3)  # a tie is rounded towards the image's own origin
    moved = sitk.Image(mask)
    moved.SetSpacing(image.GetSpacing())
    moved.SetDirection(image.GetDirection())
    moved.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(whole.tolist()))
    return moved


def _share_inside(mask: sitk.Image, image: sitk.Image) -> float:
    """Return the share of a mask's voxels above 0 whose centres lie inside the image, with one voxel's tolerance."""
    index = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1]
    points = index * np.array(mask.GetSpacing()) @ _matrix(mask).T + np.array(mask.GetOrigin())
    inside = (points - np.array(image.GetOrigin())) @ _matrix(image) / np.array(image.GetSpacing())
    size = np.array(image.GetSize())
    return float(np.all((inside >= -1) & (inside <= size), axis=1).mean())


def _matrix(image: sitk.Image) -> dicom.Vector:
    return np.array(image.GetDirection()).reshape(3, 3)
