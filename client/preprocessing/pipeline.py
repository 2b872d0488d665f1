"""From a patient's files to slices on the study's grid, stored in the site's private folder by content.

The steps: read, correct the bias field on the native volume (N4), select slices by the native mask, resample each slice
to the study's grid. Standardisation is part of training, since the statistics depend on the fold.

Two levels are stored. The corrected volume depends on the image files and N4's parameters; the final slices depend on
the corrected volume, the mask files and the study's grid. So a changed mask or grid costs no N4, and a changed image is
processed again for that patient alone.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.data import layouts
from client.data.layouts import Case
from client.data.layouts.size import raise_if_short
from client.data.slice_counts import SliceCounts
from client.preprocessing import cache, resampling
from client.preprocessing.bias_field import correct_bias_field
from client.preprocessing.grid_loss import CUT, grid_loss
from client.preprocessing.inventory import PROBLEMS_HOLD, READER_VERSION, PreparationTask, tasks_of
from client.site_config import SiteConfig
from common.config.study import N4Config, PreprocessingConfig
from common.digest import digest_of_json, keyed_digest
from common.errors import BadData, BadPatient, Damaged, RelayError
from common.target import GLAND, ZONES, Target
from common.text import listed, percent

_READING = threading.Lock()
"""GDCM keeps state for the whole process, and reads DICOM one file after the other anyway."""


@dataclass(frozen=True)
class Record:
    """One patient's prepared file on disk. A record never leaves the site."""

    patient: str
    site: str
    path: Path
    slices: int
    selected: int
    """The number of slices whose native mask has more pixels than the study's minimum."""
    below: int
    """The number of slices with some mask, but not more pixels than the minimum."""
    digest: str
    """sha256 over all inputs of the prepared file: content of image and mask files, parameters, versions."""
    beyond: float
    """The share of the gland's voxels beyond the study's grid, 0 to 1."""
    ceiling: float
    """Dice of the mask, taken to the study's grid and back, with the mask itself."""
    image_digest: str
    """sha256 over the native voxels as read, whatever the file's format or header."""
    person: str = ""
    """The person whose visits include this patient, see `client.data.layouts.Source`; empty for a single visit."""
    zoned: bool = False
    """Whether the zones are drawn and prepared; never so for a study of the gland."""
    remarks: str = ""
    """What was taken from the site file's statements, and what the files' tags make doubtful, in sentences."""

    @property
    def cut(self) -> bool:
        """Whether the study's grid cuts off a part of the gland worth telling."""
        return self.beyond > CUT

    @property
    def counts(self) -> SliceCounts:
        """The patient's slices."""
        return SliceCounts(self.selected, self.below, self.slices - self.selected - self.below)


@dataclass(frozen=True)
class Prepared:
    """The progress of a site's preparation. Where `done` < `total`, `prepare` must be called again."""

    records: tuple[Record, ...]
    """Sorted by patient."""
    total: int
    done: int
    left_out: int
    """The number of unusable patients; the site's own log names them."""


@dataclass(frozen=True, eq=False)
class PatientSlices:
    """One patient on the study's grid."""

    image: NDArray[np.float32]
    """(slices, pixels, pixels), bias field corrected, not standardised; 0 beyond the native image."""
    mask: NDArray[np.bool_]
    """(slices, pixels, pixels)"""
    selected: NDArray[np.bool_]
    """(slices,)"""
    native_mask: NDArray[np.bool_]
    """(slices, rows, columns)"""
    native_spacing: tuple[float, float, float]
    """Millimetres: slice, row, column."""
    spacing_mm: float
    """Millimetres a pixel of the study's grid."""
    zones: NDArray[np.uint8] | None = None
    """The zone of each pixel of `mask` (`common.target.Zone.label`), 0 outside; None where the study is of the gland,
    or the zones are not drawn in this patient."""
    native_zones: NDArray[np.uint8] | None = None
    """The same for `native_mask`."""


@dataclass(frozen=True)
class _State:
    """The results so far, by patient."""

    pooled: bool
    """Whether names begin with their member's name."""
    preprocessing: PreprocessingConfig
    homes: dict[str, SiteConfig] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """The reason why a patient cannot be used."""

    @property
    def done(self) -> int:
        return len(self.records) + len(self.problems)


def prepare(
    site: SiteConfig,
    preprocessing: PreprocessingConfig,
    *,
    target: Target = GLAND,
    seconds: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
    cores: int | None = None,
) -> Prepared:
    """Prepare a site's patients, as many as `seconds` allow; patients prepared earlier cost nothing.

    Patients of a pooled site are its members' patients, named "member/patient"; each is stored at its member.

    Args:
        site: a plain or the pooled site.
        preprocessing: the study's settings.
        target: what the study segments: for zones, masks keep the zones that the site file names.
        seconds: the time after which no further patient is begun; one batch of patients is always begun.
        progress: is called with the number of patients done and the number in all.
        cores: the number of volumes processed side by side; by default the site's own setting.

    Raises:
        RelayError: no patient is usable, a patient is unusable where the site's file says stop, two members hold the
            same patient, or the disk is full.
    """
    began = time.monotonic()
    state = _State(site.pooled, preprocessing)
    pending: list[PreparationTask] = []
    for home in site.member_sites() if site.pooled else (site,):
        prefix = f"{home.name}/" if site.pooled else ""
        tasks, problems = tasks_of(home, preprocessing, prefix, target)
        for problem in problems:
            state.homes[f"{prefix}{problem.patient}"] = home
            state.problems[f"{prefix}{problem.patient}"] = problem.sentence
        for task in tasks:
            state.homes[task.name] = home
            record = _record(task)
            if record is not None:
                state.records[task.name] = record
            elif sentence := _known_problem(task):
                state.problems[task.name] = sentence
            else:
                pending.append(task)
    total = len(state.homes)

    def report_progress() -> None:
        if progress is not None:
            progress(state.done, total)

    _stop_if_asked(state)
    report_progress()
    if pending:
        side_by_side = cores or site.cores or os.cpu_count() or 1
        _work(pending, preprocessing, state, report_progress, cores=side_by_side, until=began + seconds)
    done = state.done
    _leave_out_unusable(state, preprocessing)
    _stop_if_asked(state)
    _log(state)
    if done == total and not state.records:
        raise BadData(
            f"Site {site.name} has no usable patient: all {total} are left out;"
            f" {_logs(state)} says why, patient by patient."
        )
    records = tuple(state.records[name] for name in sorted(state.records))
    return Prepared(records=records, total=total, done=done, left_out=len(state.problems))


def load(record: Record) -> PatientSlices:
    """Read a prepared patient.

    Raises:
        RelayError: the file is gone or damaged; a damaged file is removed, and the next run prepares the patient again.
    """
    found = cache.read_tensors(record.path)
    if found is None:
        record.path.unlink(missing_ok=True)
        raise Damaged(f"The prepared slices {record.path} are gone or damaged; start again, and they are made again.")
    arrays, metadata = found
    depth, row, column = (float(value) for value in arrays["native_spacing"])
    return PatientSlices(
        image=arrays["image"],
        mask=arrays["mask"],
        selected=arrays["selected"],
        native_mask=arrays["native_mask"],
        native_spacing=(depth, row, column),
        spacing_mm=float(metadata["spacing_mm"]),
        zones=arrays.get("zones"),
        native_zones=arrays.get("native_zones"),
    )


def to_native(probabilities: NDArray[np.float32], slices: PatientSlices) -> NDArray[np.float32]:
    """Resample probabilities from the study's grid to the patient's native grid, linearly.

    Args:
        probabilities: (slices, pixels, pixels).
        slices: the patient.

    Returns:
        (slices, rows, columns); 0 where the native image reaches beyond the study's grid.
    """
    return off_grid(probabilities, slices.spacing_mm, slices.native_mask.shape[1:], slices.native_spacing[1:])


def onto_grid(image: NDArray[np.float32], plane: resampling.Plane, part: PreprocessingConfig) -> NDArray[np.float32]:
    """Resample slices to the study's grid.

    Args:
        image: (slices, rows, columns).
        plane: millimetres a pixel of the image: row, column.
        part: the study's settings.

    Returns:
        (slices, pixels, pixels).
    """
    return resampling.resample(image, plane, (part.pixels, part.pixels), (part.spacing_mm, part.spacing_mm))


def off_grid(
    probabilities: NDArray[np.float32], spacing_mm: float, shape: tuple[int, int], plane: resampling.Plane
) -> NDArray[np.float32]:
    """Resample slices from the study's grid to another grid.

    Args:
        probabilities: (slices, pixels, pixels).
        spacing_mm: millimetres a pixel of the study's grid.
        shape: rows and columns of the other grid.
        plane: millimetres a pixel of the other grid: row, column.

    Returns:
        (slices, rows, columns).
    """
    return resampling.resample(probabilities.astype(np.float32, copy=False), (spacing_mm, spacing_mm), shape, plane)


def fingerprint(records: Iterable[Record], key: bytes) -> str:
    """Return an HMAC-SHA256, in hex, over the names and data of the patients, and over the persons with several visits.

    Args:
        records: the patients.
        key: the site's secret, which stays at the site, so that nobody can test guesses of patients' names or files.
    """
    known = list(records)
    pairs = sorted((record.patient, record.digest) for record in known)
    # Which patients are visits of one person decides on the split, and so on every result.
    visits = sorted((record.patient, record.person) for record in known if record.person)
    return keyed_digest(key, json.dumps([pairs, visits] if visits else pairs).encode())


def _work(
    pending: Sequence[PreparationTask],
    preprocessing: PreprocessingConfig,
    state: _State,
    report_progress: Callable[[], None],
    *,
    cores: int,
    until: float,
) -> None:
    """Prepare patients side by side, one thread each: SimpleITK releases Python's global lock while it works.

    Args:
        pending: the patients to prepare.
        preprocessing: the study's settings.
        state: is updated with each patient's record or problem.
        report_progress: is called after each patient.
        cores: the number of threads.
        until: the value of `time.monotonic()` after which no further patient is begun.
    """
    import SimpleITK as sitk

    # Patients are prepared side by side, a thread each.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    waiting = iter(pending)
    running: dict[Future[Record], PreparationTask] = {}
    with ThreadPoolExecutor(max_workers=cores) as pool:

        def begin() -> None:
            task = next(waiting, None)
            if task is not None:
                running[pool.submit(_prepare_one, task, preprocessing)] = task

        for _ in range(cores):
            begin()
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    state.records[task.name] = future.result()
                except BadPatient as error:
                    state.problems[task.name] = str(error)
                    cache.write_json(_problem_path(task), {"sentence": str(error), "at": time.time()})
                    _stop_if_asked(state)
                report_progress()
                if time.monotonic() < until:
                    begin()


def _prepare_one(task: PreparationTask, preprocessing: PreprocessingConfig) -> Record:
    """Prepare one patient's slices on the study's grid.

    Raises:
        BadPatient: the patient cannot be used.
        RelayError: the disk is full.
    """
    with _READING:
        case = layouts.read(task.source)
    voxels = cache.digest_of_voxels(case.image)
    corrected = _corrected(task, case, preprocessing.n4, voxels) if preprocessing.n4.enabled else case.image
    area = np.count_nonzero(case.mask, axis=(1, 2))
    selected = area > preprocessing.minimum_mask_pixels
    native = case.spacing[1:]
    shape = (preprocessing.pixels, preprocessing.pixels)
    spacing = (preprocessing.spacing_mm, preprocessing.spacing_mm)
    lost = grid_loss(case.mask, native, preprocessing)
    mask = resampling.resample_mask(case.mask, native, shape, spacing)
    zones: dict[str, NDArray[np.uint8]] = {}
    if task.zoned and case.zones is not None:
        larger = resampling.larger_zone(
            [onto_grid((case.zones == zone.label).astype(np.float32), native, preprocessing) for zone in ZONES.zones]
        )
        zones = {"zones": larger * mask, "native_zones": case.zones}
    cache.write_tensors(
        task.slices,
        {
            "image": onto_grid(corrected, native, preprocessing),
            "mask": mask,
            "selected": selected,
            "native_mask": case.mask,
            "native_spacing": np.array(case.spacing, dtype=np.float64),
            **zones,
        },
        {
            "slices": str(len(area)),
            "selected": str(int(selected.sum())),
            "below": str(int(((area > 0) & ~selected).sum())),
            "spacing_mm": repr(preprocessing.spacing_mm),
            "voxels": voxels,
            "reader": READER_VERSION,
            "beyond": repr(lost.beyond),
            "ceiling": repr(lost.ceiling),
            **({"zoned": "yes"} if zones else {}),
            **({"remarks": " ".join(case.remarks)} if case.remarks else {}),
        },
    )
    record = _record(task)
    if record is None:
        raise RelayError(f"{task.slices} cannot be read back; check the disk.")
    return record


def _corrected(task: PreparationTask, case: Case, n4: N4Config, voxels: str) -> NDArray[np.float32]:
    """Return the corrected volume, if possible from the cache; one process at a time works on a volume.

    Args:
        task: the patient's keys.
        case: the patient as read.
        n4: the study's settings.
        voxels: the digest of the case's image; a volume that was read otherwise is corrected anew.
    """
    with cache.exclusive_lock(task.corrected):
        found = cache.read_tensors(task.corrected)
        if found is not None and found[0]["image"].shape == case.image.shape:
            # Volumes of earlier versions say nothing; the slices made from them do.
            slices = cache.read_metadata(task.slices) or {}
            if found[1].get("voxels", slices.get("voxels")) == voxels:
                return found[0]["image"]
        try:
            corrected = correct_bias_field(case.image, n4)
        except RuntimeError as error:
            raise_if_short(str(error))
            reason = str(error).strip().splitlines()[-1]
            raise BadPatient(
                task.source.patient,
                f"N4 finds no bias field for {task.source.image[0]} ({reason}); look at the image,"
                " or leave the patient out.",
            ) from None
        cache.write_tensors(task.corrected, {"image": corrected}, {"voxels": voxels})
        return corrected


def _record(task: PreparationTask) -> Record | None:
    """Return the record of a patient's prepared file; None where it is missing, damaged, or of an earlier reader."""
    metadata = cache.read_metadata(task.slices)
    if metadata is None or metadata.get("reader") != READER_VERSION:
        return None
    try:
        return Record(
            patient=task.name,
            site=task.home.name,
            path=task.slices,
            slices=int(metadata["slices"]),
            selected=int(metadata["selected"]),
            below=int(metadata["below"]),
            digest=task.digest,
            beyond=float(metadata["beyond"]),
            ceiling=float(metadata["ceiling"]),
            image_digest=metadata["voxels"],
            person=task.source.person,
            zoned="zoned" in metadata,
            remarks=metadata.get("remarks", ""),
        )
    except (KeyError, ValueError):
        return None


def _problem_path(task: PreparationTask) -> Path:
    return task.slices.with_suffix(".problem.json")


def _known_problem(task: PreparationTask) -> str:
    """Return why this patient's files could not be used a short while ago; empty where no problem is known."""
    known = cache.read_json(_problem_path(task))
    fresh = 0 <= time.time() - known.get("at", -math.inf) < PROBLEMS_HOLD
    return str(known["sentence"]) if fresh and "sentence" in known else ""


def _leave_out_unusable(state: _State, preprocessing: PreprocessingConfig) -> None:
    """Turn patients without a selected slice, and a second patient with the same image, into problems.

    The same image under two names would put one patient into both training and test.
    """
    owners: dict[str, str] = {}
    for name in sorted(state.records):
        record = state.records[name]
        if record.selected == 0:
            del state.records[name]
            state.problems[name] = (
                f"no slice's mask has more than {preprocessing.minimum_mask_pixels} pixels; look at the mask,"
                " or set minimum_mask_pixels in the study's [preprocessing] lower."
            )
            continue
        owner = owners.setdefault(record.image_digest, name)
        if owner == name:
            continue
        sentence = f"it has the very same image as {owner}; keep one of them."
        if state.homes[owner] is not state.homes[name]:
            state.problems[name] = sentence
            _log(state)
            raise RelayError(
                f"The members {state.homes[owner].name} and {state.homes[name].name} hold the same patient's"
                " images, which would put it into training and test;"
                f" {_log_path(state.homes[name])} says which."
            )
        del state.records[name]
        state.problems[name] = sentence


def _stop_if_asked(state: _State) -> None:
    for name, sentence in state.problems.items():
        home = state.homes[name]
        if home.bad_patients == "stop":
            _log(state)
            raise RelayError(
                f'Site {home.name} stops at a bad patient, as bad_patients = "stop" in its file asks for;'
                f" patient {name}: {sentence}"
            )


def _log(state: _State) -> None:
    """Name in each site's own log the patients left out, and the patients whose gland reaches beyond the grid.

    A line is written once for as long as the list of these preprocessing settings stays the same.
    """

    def own_name(name: str) -> str:
        return name.removeprefix(f"{state.homes[name].name}/") if state.pooled else name

    said = {
        name: f"left out: {own_name(name)}: {' '.join(sentence.split())}" for name, sentence in state.problems.items()
    }
    for name, record in state.records.items():
        if record.remarks:
            said[f"{name}\0remarks"] = f"to know: {own_name(name)}: {record.remarks}"
        if record.cut:
            share = percent(record.beyond, 1)
            lies = f"{share} of the gland lies beyond the study's grid and cannot be segmented."
            said[name] = f"cut: {own_name(name)}: {lies}"
    settings = digest_of_json(state.preprocessing.model_dump(mode="json"))
    for home in {home.folder: home for home in state.homes.values()}.values():
        lines = sorted(line for name, line in said.items() if state.homes[name.partition("\0")[0]] is home)
        logged_path = home.private() / "cache" / "left_out.json"
        known = cache.read_json(logged_path)
        logged = known.get(settings, [])
        if lines == logged:
            continue
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            with open(
                _log_path(home), "a", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)
            ) as file:
                file.writelines(f"{now} {line}\n" for line in lines if line not in logged)
        except OSError as error:
            raise RelayError(f"{_log_path(home)} cannot be written ({error.strerror}); free it.") from None
        cache.write_json(logged_path, {**known, settings: lines})


def _log_path(home: SiteConfig) -> Path:
    return home.folder / "site.log"


def _logs(state: _State) -> str:
    return listed(sorted({str(_log_path(home)) for home in state.homes.values()}))
