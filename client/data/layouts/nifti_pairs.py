"""Pairs of NIfTI files in one folder, in the naming of the multi-site data sets (MS-Net, SAML, FedDG).

Case00.nii.gz is beside Case00_segmentation.nii.gz (BMC writes _Segmentation), also without .gz. Each of the six folders
of these data sets is a site whose patients come from another public data set. The images were resampled, so the shared
patients do not show in the voxels.
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
"""The original data set of the patients in each folder of the multi-site data sets."""


def detect(folder: Folder) -> Path | None:
    """Return the first mask directly in the folder."""
    return pairs.first_mask(folder.files, NAME)


@layout("nifti-pairs", detect=detect, looks_for="NAME.nii.gz beside NAME_segmentation.nii.gz")
def find(folders: Folders) -> Found:
    """Pair files by name, ignoring case."""
    folder = folders.images
    found = pairs.pair(folder, NAME)
    origin = SAME_PATIENTS.get(alike(folder.name))
    if origin is None:
        return found
    note = f"If this is {folder.name} of the multi-site sets, its patients are those of {origin}: have one in a study."
    return replace(found, notes=(note,))
