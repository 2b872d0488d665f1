"""Tiny hospitals for tests. They reach the code as a real one does: through files in a real layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from client.governance.approval import approve
from client.site_config import load_site
from common.config.study import Study
from deploy.phantom.dicom import Frame, write_label, write_series
from deploy.simulation.local_grid import LocalGrid
from server.progress.events import Event
from server.study_run import run_study

REPO = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("RELAY_SHARED", REPO.parent / "shared")) / "data"

LOOKS = {"A": (400.0, 1.0), "B": (90.0, -0.5), "C": (1500.0, 0.6)}
"""A site's brightness and how much brighter or darker its glands are."""

SMALL: dict[str, Any] = {
    "sites": ("A", "B", "C"),
    "model": {"architecture": "Unet", "encoder": "mobilenet_v2", "encoder_weights": "none"},
    "preprocessing": {"pixels": 32, "spacing_mm": 2.0, "n4": {"enabled": False}},
    "postprocessing": {"clean_up": False},
    "split": {"folds": 2},
    "training": {"epochs": 2, "batch": 8, "learning_rate": 3e-3, "slices": "chosen"},
    "methods": {
        "baseline": False,
        "longer_baseline": False,
        "sequential": {"routes": "none"},
        "federated": (),
        "pooled": False,
        "pooled_then_target": False,
        "forgetting": False,
    },
}
"""A study that runs no method yet: a test adds those that it is about."""


def small_study(**changes: Any) -> Study:
    """`SMALL` with changes; a part's keys are changed one by one."""
    content = dict(SMALL)
    for part, value in changes.items():
        content[part] = {**content.get(part, {}), **value} if isinstance(value, dict) else value
    return Study.model_validate(content)


def patient(
    seed: int, *, look: tuple[float, float] = LOOKS["A"], slices: int = 9, side: int = 56
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A body with a gland: image and mask, (slices, side, side). The mask has both zones, and empty ends."""
    random = np.random.default_rng(seed)
    brightness, contrast = look
    rows, columns = np.mgrid[:side, :side].astype(float)
    middle = side / 2 + random.uniform(-4, 4, 2)
    radius = random.uniform(10, 13)
    image = np.empty((slices, side, side))
    mask = np.zeros((slices, side, side), np.uint8)
    for k in range(slices):
        height = (k - (slices - 1) / 2) / (slices / 2 - 0.5)
        here = radius * np.sqrt(max(0.0, 1 - height**2))
        distance = np.hypot(rows - middle[0], (columns - middle[1]) / 1.15)
        image[k] = 1 + 0.2 * np.sin(rows / 5 + k) + contrast * (distance < here) + random.normal(0, 0.1, (side, side))
        mask[k][distance < here] = 1
        mask[k][distance < here / 2] = 2
    return np.clip(brightness * (image + 1), 0, 30000).astype(np.int16), mask


def write_pair(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """`name`.nii.gz and its mask, of 1 × 1 × 3 mm."""
    for array, ending in ((image, ""), (mask, "_segmentation")):
        _write(folder / f"{name}{ending}.nii.gz", _volume(array))


def write_dicom_patient(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any], **tags: str) -> None:
    """A patient as NCI-ISBI lays it out: `folder`/images as DICOM, `folder`/labels as NRRD. Tags are "0010_0010"."""
    frame = Frame((1.0, 1.0, 3.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    headers = _headers(name, "image") | {key.replace("_", "|"): value for key, value in tags.items()}
    names = [f"{k:03}.dcm" for k in range(len(image))]
    write_series(
        folder / "images" / name / "study" / "series", image.astype(np.uint16), frame, tags=headers, names=names
    )
    write_label(folder / "labels" / f"{name}.nrrd", mask, frame)


def write_i2cvb_patient(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """A patient as I2CVB lays it out: `folder`/images/<name>/T2W and GT/prostate, all DICOM."""
    frame = Frame((1.0, 1.0, 3.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    names = [f"{k:03}.dcm" for k in range(len(image))]
    for inside, array in (("T2W", image), ("GT/prostate", (mask > 0) * 255)):
        place = folder / "images" / name / inside
        write_series(place, array.astype(np.uint16), frame, tags=_headers("anonymous", f"{name}{inside}"), names=names)


def write_labelled_patient(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """A patient as an archive exports it: `folder`/images with a DICOM series, and a segmentation that refers to it."""
    from tests.support.dicom_labels import segment_series  # which imports pydicom

    frame = Frame((1.0, 1.0, 3.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    place = folder / "images" / name
    names = [f"{k:03}.dcm" for k in range(len(image))]
    write_series(place, image.astype(np.uint16), frame, tags=_headers(name, "image"), names=names)
    segment_series(folder / "images" / "drawn" / f"{name}.dcm", place, mask)


def write_picai_patient(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """A patient as PI-CAI lays it out: `folder`/images/<name>/<name>_t2w.mha, the gland in a folder of labels."""
    _write(folder / "images" / name / f"{name}_t2w.mha", _volume(image))
    _write(folder / "labels" / "anatomical_delineations" / "whole_gland" / "AI" / f"{name}.nii.gz", _volume(mask))


def write_promise12_patient(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """A patient as PROMISE12 lays it out: `folder`/images/training_data/<name>.mhd, with the voxels in .raw files."""
    for array, ending in ((image, ""), (mask, "_segmentation")):
        _write(folder / "images" / "training_data" / f"{name}{ending}.mhd", _volume(array))


def write_decathlon_patient(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """A patient as the Decathlon's Task05 lays it out: T2 and ADC in one file, the label in another."""
    volumes = [_volume(array) for array in (image, image[::-1] // 2)]
    _write(folder / "images" / "imagesTr" / f"{name}.nii.gz", sitk.JoinSeries(volumes))
    _write(folder / "images" / "labelsTr" / f"{name}.nii.gz", _volume(mask))
    (folder / "images" / "dataset.json").write_text('{"modality": {"0": "T2", "1": "ADC"}}', encoding="utf-8")


def write_prostate158_patient(folder: Path, name: str, image: NDArray[Any], mask: NDArray[Any]) -> None:
    """A patient as Prostate158 lays it out: a folder with T2, ADC and the outlines of two readers."""
    files = {"t2": image, "adc": image // 2, "t2_anatomy_reader1": mask, "t2_anatomy_reader2": mask[::-1]}
    for stem, array in files.items():
        _write(folder / "images" / "train" / name / f"{stem}.nii.gz", _volume(array))


def _volume(array: NDArray[Any]) -> sitk.Image:
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing((1.0, 1.0, 3.0))
    return volume


def _write(path: Path, volume: sitk.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume, str(path))


def _headers(name: str, what: str) -> dict[str, str]:
    number = int.from_bytes(f"{name}{what}".encode(), "big") % 10**12
    return {
        "0008|103e": "T2W_TSE_AX",
        "0010|0010": name,
        "0010|0020": name,
        "0020|000d": f"1.2.{number}",
        "0020|000e": f"1.2.3.{number}",
        "0020|0052": f"1.2.4.{number}",
    }


def write_site(beside: Path, name: str, **keys: Any) -> Path:
    """`beside`/site.toml of a site with pairs in `beside`/images, unless `keys` say otherwise."""
    content = {
        "name": name,
        "layout": "nifti-pairs",
        "images": "images",
        "folder": "private",
        "device": "cpu",
        "cores": 1,
        "patient_scores": True,
    } | keys
    beside.mkdir(parents=True, exist_ok=True)
    path = beside / "site.toml"
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in content.items()), encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(inner)}' for key, inner in value.items())} }}"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def write_hospitals(folder: Path, patients: Mapping[str, int], *, slices: int = 9) -> dict[str, Path]:
    """Hospitals of NIfTI pairs, each with a look of its own. Returns their site files by name."""
    sites = {}
    for number, (name, count) in enumerate(patients.items()):
        for k in range(count):
            image, mask = patient(1000 * number + k, look=LOOKS.get(name, LOOKS["A"]), slices=slices)
            write_pair(folder / name / "images", f"Case{k:02}", image, mask)
        sites[name] = write_site(folder / name, name)
    return sites


def write_pooled(folder: Path, sites: Mapping[str, Path]) -> Path:
    """The site file of all data together."""
    path = folder / "pooled" / "site.toml"
    path.parent.mkdir(parents=True)
    members = ", ".join(repr(str(site)) for site in sites.values())
    path.write_text(
        f'name = "pooled"\nmembers = [{members}]\nfolder = "private"\ndevice = "cpu"\npatient_scores = true\n',
        encoding="utf-8",
    )
    return path


def approve_everywhere(sites: Mapping[str, Path], study: Study) -> None:
    for path in sites.values():
        approve(load_site(path), study)


def forget_stages(sites: Mapping[str, Path], *, scores: bool = True) -> None:
    """As if the sites had never worked out a stage nor got anything of one; their data stay prepared, their keys
    the same.

    Args:
        scores: also what they have on record of every scoring.
    """
    for path in sites.values():
        for name in ("stages", *(["scores"] if scores else []), "received"):
            shutil.rmtree(load_site(path).private() / name, ignore_errors=True)


def run_on_grid(
    study: Study,
    sites: Mapping[str, Path],
    out: Path,
    *,
    at_once: int = 1,
    beside: Path = REPO,
    grid: type[LocalGrid] = LocalGrid,
    keep_weights: bool = False,
) -> tuple[dict[str, Any], list[Event]]:
    """Approve and run a study on the embedded grid; returns what results.json holds, and all events."""
    approve_everywhere(sites, study)
    events: list[Event] = []
    with grid(sites, at_once=at_once) as running:
        results = run_study(running, study, out, beside=beside, observe=events.append, keep_weights=keep_weights)
    return results, events
