"""Pairs of NIfTI files in one folder, as the multi-site sets (MS-Net, SAML, FedDG) name them.

Case00.nii.gz beside Case00_segmentation.nii.gz; BMC writes _Segmentation. Also without .gz. Each of the six
folders of those sets is a site, and made of patients of another public set; since they were resampled, that
does not show in the voxels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.data.layouts import Folder, Folders, Found, layout, nifti, pairs
from client.data.layouts.folder import alike

NAME = pairs.pattern(*nifti.ENDINGS)

SAME_PATIENTS = {
    "runmc": "NCI-ISBI's Prostate-3T",
    "bmc": "NCI-ISBI's PROSTATE-DIAGNOSIS",
    "i2cvb": "I2CVB",
    "ucl": "PROMISE12",
    "bidmc": "PROMISE12",
    "hk": "PROMISE12",
}
"""The set whose patients a folder of the multi-site sets holds."""


def detect(folder: Folder) -> Path | None:
    return pairs.first_mask(folder.files, NAME)


@layout("nifti-pairs", detect=detect, looks_for="NAME.nii.gz beside NAME_segmentation.nii.gz")
def find(folders: Folders) -> Found:
    """Pair files by name, upper or lower case alike."""
    folder = folders.images
    found = pairs.pair(folder, NAME)
    origin = SAME_PATIENTS.get(alike(folder.name))
    if origin is None:
        return found
    note = f"If this is {folder.name} of the multi-site sets, its patients are those of {origin}: have one in a study."
    return replace(found, notes=(note,))
