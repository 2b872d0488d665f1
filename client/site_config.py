"""A hospital's own settings: the file site.toml, read into a `SiteConfig`.

The settings say where the patients' files lie and what the hospital allows. The settings are never sent.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from client.data import layouts
from client.data.layouts import Statement
from client.data.layouts.size import STEPS_MM
from common.config.toml import load_toml
from common.config.values import POOLED, SiteName, several
from common.errors import RelayError
from common.target import ZONES

__all__ = ["SiteConfig", "load_site"]

STATEMENTS = ("patient", "spacing_mm", "orientation", "labels", "mask_threshold", "roi")
OF_A_PLAIN_SITE = ("layout", "images", "masks", "series", "archive", *STATEMENTS)
FETCHED = "archive"
"""The folder in the private one where `relay site fetch` puts images, unless the file has `images`."""


class ArchiveConfig(BaseModel):
    """What `relay site fetch` asks the hospital's archive for: studies, and series in them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    modality: str = Field(default="MR", pattern=r"^[A-Z]{2,16}$")
    """The Modality of the image series."""
    description: str = "t2"
    """Regular expression for the SeriesDescription of the image series, upper or lower case alike."""
    study_dates: str = Field(default="", pattern=r"^(\d{8}|\d{8}-|-\d{8}|\d{8}-\d{8})?$")
    """A day or a span of StudyDate, such as 20200101-20231231; if empty, any day."""
    patients: tuple[str, ...] = ()
    """The PatientIDs; if empty, all patients."""
    unlabelled: bool = False
    """Whether studies without a segmentation or an RTSTRUCT are fetched too."""

    @field_validator("description")
    @classmethod
    def _description_is_a_pattern(cls, description: str) -> str:
        return _pattern(description, "T2.*AX")


Values = Annotated[tuple[int | str, ...], BeforeValidator(several), Field(min_length=1)]


class ZoneLabels(BaseModel):
    """What is each zone in the masks: a value or a list of values, or of segments and contours a name or names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    PZ: Values
    """The peripheral zone."""
    CG: Values
    """The central gland: transition zone, central zone and anterior stroma together."""

    @model_validator(mode="after")
    def _each_value_once(self) -> Self:
        both = (*self.PZ, *self.CG)
        if len(set(both)) < len(both):
            raise ValueError("a value stands twice; a voxel lies in one zone")
        if len({type(one) for one in both}) > 1:
            raise ValueError("one zone has a value and another a name; give both values, or both names")
        for name in self.names:
            for one in name:
                _pattern(one, "peripheral")
        return self

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """The names of each zone's segments or contours; empty where the zones are values."""
        found = tuple(tuple(one for one in zone if isinstance(one, str)) for zone in (self.PZ, self.CG))
        return found if all(found) else ()

    @property
    def values(self) -> tuple[tuple[int, ...], ...]:
        """The values of each zone; of zones that are named, the values that reading the names gives them."""
        if self.names:
            return tuple((zone.label,) for zone in ZONES.zones)
        return tuple(tuple(one for one in zone if isinstance(one, int)) for zone in (self.PZ, self.CG))


def _kind_of_labels(labels: Any) -> str:
    return "[zones]" if isinstance(labels, dict | ZoneLabels) else "[values]"


Labels = Annotated[
    Annotated[tuple[int, ...], Tag("[values]")] | Annotated[ZoneLabels, Tag("[zones]")], Discriminator(_kind_of_labels)
]


class SiteConfig(BaseModel):
    """The settings of one site, with absolute paths once `load_site` has read them.

    A plain site has `images`. The site named "pooled", which exists in simulation alone, has `members` instead and no
    data of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    # `relay site init` writes the docstrings below into a new site.toml.
    name: SiteName
    """The hospital's name in studies: a letter, then letters, digits, - or _."""
    layout: str = layouts.AUTO
    """A layout's name, or "auto" to recognise the layout from the files."""
    images: Path = Path()
    """The folder of the images, which relay only reads."""
    masks: Path | None = None
    """The folder of the label files, for a layout with labels apart from the images."""
    folder: Path = Path()
    """Keys, caches, checkpoints, logs and local pages; closed to everybody else. By default .relay-<name> beside the
    file."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device for training and scoring."""
    cores: int = Field(default=0, ge=0)
    """Processor cores for preprocessing; 0 takes all."""
    bad_patients: Literal["leave-out", "stop"] = "leave-out"
    """Whether an unusable patient is left out, or stops the site."""
    series: str = ""
    """Regular expression for the SeriesDescription of a DICOM image, upper or lower case alike. Where descriptions do
    not decide, it is matched with texts such as "date 20200131; number 4; folder a; UID 1.2;"."""
    patient: str = ""
    """Regular expression that finds the person in a patient's name, such as ^(\\d+)_ for names PERSON_STUDY. Visits of
    one person are never divided between training, validation and test."""
    labels: Labels = ()
    """The values in the masks that are gland, such as [1, 2]; if empty, all values above 0. For studies of the two
    zones, the values of each, such as { PZ = 1, CG = 2 } (peripheral zone and central gland; NCI-ISBI's) or { PZ = 1,
    CG = [2, 3] }; together they are the gland. `relay site check` lists the values found. In DICOM segmentations and
    RTSTRUCT files zones have names or codes, each as in `roi`, such as { PZ = "Peripheral zone", CG = ["Transition
    zone", "Central zone"] }; a patient with neither zone has the whole gland, which `roi` may name."""
    mask_threshold: float | None = None
    """The value above which a voxel of a mask is gland, for masks that hold probabilities; without it, such masks are
    refused."""
    roi: str | tuple[str, ...] = ""
    """The segment of a DICOM segmentation, or the contours of an RTSTRUCT, that are gland: a name, a code or a regular
    expression, such as prostate, or a list of zones that make up the gland. If empty, the one segment or region that is
    the whole prostate by name or code."""
    spacing_mm: tuple[float, ...] = ()
    """The hospital's own statement for image files that state no spacing: mm from slice to slice, from row to row, from
    column to column. The site's log and the model card repeat it."""
    orientation: str = ""
    """The hospital's own statement for image files that state no orientation: where columns, rows and slices run to,
    such as LPS (left, posterior, superior)."""
    patient_scores: bool = False
    """Whether scores of single patients, under random case numbers, may leave the site."""
    minimum_patients: int = Field(default=1, ge=1)
    """The smallest number of patients behind any number that leaves the site."""
    proxy: str = ""
    """The hospital's proxy on the way to the coordinator, such as http://proxy.hospital.org:3128, with NAME:PASSWORD@
    before the host if it asks for them. If empty, the HTTPS_PROXY of the environment; "none" uses no proxy."""
    launch: str = ""
    """The beginning of the command that answers each order, where the graphics card is behind a scheduler, such as srun
    --gres=gpu:1; if empty, orders are answered on the machine of `relay site start`. If the last word is a Python's
    path, such as one in a container, that Python is run."""
    archive: ArchiveConfig | None = None
    """The query with which `relay site fetch` takes images and labels from a DICOMweb server. With it, images may be
    left out: the private folder then holds them."""
    scoring_floor: float = Field(default=0.0, ge=0, le=0.5)
    """The least median volume Dice (of an even number, the lower middle value) over the site's validation patients of a
    model whose scores leave the site. The figures of a scoring below it leave as 0, marked as such: weights made to
    draw a single known patient would otherwise tell who is scored. It takes three validation patients in each fold. 0:
    no floor."""
    split_key: Literal["public", "site"] = "public"
    """The key of the division into training, validation and test patients. "site": this site's secret, so that nobody
    who knows the patients' names can work out who is in which; with another secret, such as on another machine, the
    same patients are divided otherwise. "public": a key that everybody has, so that a study on one machine can be
    repeated anywhere."""
    members: tuple[Path, ...] = ()
    """The site files of the sites united in the pooled site."""

    @field_validator("layout")
    @classmethod
    def _layout_is_known(cls, layout: str) -> str:
        choices = (layouts.AUTO, *layouts.known())
        if layout not in choices:
            raise ValueError(f'there is no layout "{layout}"; choose among {", ".join(choices)}')
        return layout

    @field_validator("series")
    @classmethod
    def _series_is_a_pattern(cls, series: str) -> str:
        return _pattern(series, "T2.*AX")

    @field_validator("patient")
    @classmethod
    def _patient_is_a_pattern(cls, patient: str) -> str:
        try:
            groups = re.compile(patient).groups
        except re.error as error:
            raise ValueError(f"this is no regular expression ({error}); write one such as ^(\\d+)_") from None
        if patient and groups != 1:
            raise ValueError(
                f"this has {groups} groups; put the person's part in the one pair of brackets, as ^(\\d+)_"
            )
        return patient

    @field_validator("launch")
    @classmethod
    def _launch_is_words(cls, launch: str) -> str:
        try:
            shlex.split(launch)
        except ValueError as error:
            raise ValueError(f"these are no words of a shell ({error}); write some such as srun --gres=gpu:1") from None
        return launch.strip()

    @field_validator("roi")
    @classmethod
    def _roi_is_a_pattern(cls, roi: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (roi,) if isinstance(roi, str) else roi:
            _pattern(name, "prostate")
        return roi

    @field_validator("labels")
    @classmethod
    def _labels_are_not_the_background(cls, labels: Labels) -> Labels:
        if 0 in _values(labels):
            raise ValueError("0 is the background of every mask; leave it out")
        return labels

    @field_validator("spacing_mm")
    @classmethod
    def _spacing_is_possible(cls, spacing: tuple[float, ...]) -> tuple[float, ...]:
        if spacing and (len(spacing) != 3 or not all(STEPS_MM[0] <= step <= STEPS_MM[1] for step in spacing)):
            raise ValueError("three distances in mm are needed, of slices, rows and columns, such as [3.0, 0.5, 0.5]")
        return spacing

    @field_validator("orientation")
    @classmethod
    def _orientation_has_three_axes(cls, orientation: str) -> str:
        axes = sorted(min(pair) for letter in orientation for pair in ("LR", "PA", "SI") if letter in pair)
        if orientation and (len(orientation) != 3 or axes != ["A", "I", "L"]):
            raise ValueError("three letters are needed, one each of L or R, P or A, S or I, such as LPS")
        return orientation

    @model_validator(mode="after")
    def _keys_belong_together(self) -> Self:
        given = self.model_fields_set
        if self.pooled:
            if not self.members:
                raise ValueError(f'a site named "{POOLED}" unites others; list their files under "members"')
            extra = sorted(given.intersection(OF_A_PLAIN_SITE))
            if extra:
                raise ValueError(f'the pooled site has no data of its own; remove "{extra[0]}"')
            return self
        if "members" in given:
            raise ValueError(f'only a site named "{POOLED}" has "members"; rename it, or remove the key')
        if self.patient_scores and self.minimum_patients > 1:
            raise ValueError(
                f'"patient_scores" lets scores of one patient leave, but "minimum_patients" is {self.minimum_patients};'
                ' set "patient_scores" to false, or "minimum_patients" to 1'
            )
        if self.labels and self.mask_threshold is not None:
            raise ValueError('"labels" and "mask_threshold" exclude each other; masks hold labels or probabilities')
        if "images" not in given and self.archive is None:
            raise ValueError('the key "images" is missing; add it')
        if self.layout == layouts.AUTO:
            return self
        apart = layouts.known()[self.layout].masks_apart
        if apart and self.masks is None:
            raise ValueError(f'the key "masks" is missing; add it, since layout "{self.layout}" keeps labels apart')
        if self.masks is not None and not apart:
            raise ValueError(f'layout "{self.layout}" keeps its masks beside the images; remove the key "masks"')
        return self

    @property
    def pooled(self) -> bool:
        """Return whether this is the pooled site of a simulation."""
        return self.name == POOLED

    def statement(self) -> Statement:
        """Return what the file states about image files and masks."""
        depth, row, column = self.spacing_mm or (0.0, 0.0, 0.0)
        return Statement(
            spacing_mm=(depth, row, column) if self.spacing_mm else None,
            orientation=self.orientation,
            labels=tuple(sorted(set(_values(self.labels)))),
            zones=self.labels.values if isinstance(self.labels, ZoneLabels) else (),
            zone_names=self.labels.names if isinstance(self.labels, ZoneLabels) else (),
            mask_threshold=self.mask_threshold,
            roi=self.roi if isinstance(self.roi, tuple) else tuple(filter(None, (self.roi,))),
        )

    def member_sites(self) -> tuple[SiteConfig, ...]:
        """Return the sites united in the pooled site, in the order of the file; empty for a plain site.

        Raises:
            RelayError: a member's file is wrong, a member is pooled itself, or two members have the same name.
        """
        sites = tuple(_load(path) for path in self.members)
        for path, site in zip(self.members, sites, strict=True):
            if site.pooled:
                raise RelayError(f"The member {path} is a pooled site itself; list plain sites alone.")
        names = [site.name for site in sites]
        for name in names:
            if names.count(name) > 1:
                raise RelayError(f'Two members of the pooled site are named "{name}"; give each its own name.')
        return sites

    def private(self) -> Path:
        """Return the site's private folder, created if need be and closed to other users (mode 0700).

        Raises:
            RelayError: the folder cannot be created, or its mode cannot be changed.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkdir does not change the mode of a folder that exists already.
            if stat.S_IMODE(self.folder.stat().st_mode) & 0o077:
                os.chmod(self.folder, 0o700)
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise RelayError(
                f'The private folder {self.folder} cannot be made ({reason}); change "folder" in the file.'
            ) from None
        return self.folder


def load_site(path: Path) -> SiteConfig:
    """Read a site.toml and resolve its paths relative to the folder of the file.

    `client.data.layouts.find` checks later whether the data folders exist, since a drive may be mounted later.

    Raises:
        RelayError: the file is missing or not TOML, a key is unknown, a value has a wrong type or is not allowed, or
            the members are wrong.
    """
    site = _load(path)
    site.member_sites()  # reports a wrong member now and not hours into a study
    return site


def _load(path: Path) -> SiteConfig:
    raw = load_toml(path, SiteConfig, "site file")
    beside = path.absolute().parent

    def resolve(entry: Path) -> Path:
        wrong = next((letter for letter in str(entry) if ord(letter) < 32), None)
        if wrong is not None:
            raise RelayError(
                f"In the site file {path}, a path holds the character of number {ord(wrong)}; write it again, with / or"
                " in single quotes: in double quotes a backslash begins a special character."
            )
        return Path(os.path.normpath(beside / entry.expanduser()))

    folder = raw.folder if "folder" in raw.model_fields_set else Path(f".relay-{raw.name}")
    changes: dict[str, object] = {"folder": resolve(folder), "members": tuple(map(resolve, raw.members))}
    if not raw.pooled:
        fetched = raw.archive is not None and "images" not in raw.model_fields_set
        changes["images"] = resolve(folder) / FETCHED if fetched else resolve(raw.images)
        changes["masks"] = resolve(raw.masks) if raw.masks else None
    site = raw.model_copy(update=changes)
    for held in (beside, *([] if site.pooled else [site.images]), *([site.masks] if site.masks else [])):
        # The private folder is closed to others and may be emptied, so neither data nor the site file may lie in it.
        if held.is_relative_to(site.folder) and not (site.archive and held == site.folder / FETCHED):
            raise RelayError(f'In the site file {path}, "folder" holds {held}; give it a folder of its own.')
    return site


def _values(labels: Labels) -> tuple[int, ...]:
    return tuple(itertools.chain(*labels.values)) if isinstance(labels, ZoneLabels) else labels


def _pattern(text: str, example: str) -> str:
    """Return a regular expression as it is.

    Raises:
        ValueError: it is none.
    """
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"this is no regular expression ({error}); write one such as {example}") from None
    return text
