"""Mutated patients beside sound ones at a hospital: found, read, looked at, prepared, and described."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
from flwr.common.serde import message_to_proto

from client import data_check
from client.data import layouts
from client.data.layouts import Case
from client.governance.approval import approve
from client.preprocessing.pipeline import load, prepare
from client.site_config import SiteConfig, load_site
from common.errors import BadPatient, RelayError
from common.protocol.codec import from_record, to_record
from common.protocol.messages import DESCRIBE, Describe, Description
from common.protocol.refusals import Refusal
from deploy.simulation.local_grid import enter_run
from tests.fuzz.child import Watched, tell, unkind
from tests.fuzz.patients import FORMATS, mutated, name_of, sound
from tests.fuzz.plain import write
from tests.fuzz.planted import WARD, found_in
from tests.support.hospitals import small_study, write_site
from tests.support.site_calls import call

SOUND = 4
STUDY = small_study(preprocessing={"pixels": 32, "spacing_mm": 2.0, "minimum_mask_pixels": 20})
ALLOWED = (Refusal.DATA_UNUSABLE,)


def run(kind: str, seeds: list[int], folder: Path, watched: Watched) -> None:
    here = folder / WARD
    site = at(kind, here)
    files = {name: content for seed in seeds for name, content in mutated(kind, seed).items()}
    write(files, here)
    try:
        _find_and_read(site, seeds, watched)
        with watched.only(RelayError, seeds=seeds, what="check-up"):
            checked = data_check.check(site, minimum_pixels=20)
            sentences = [*(one.sentence for one in checked.findings), *(one.sentence for one in checked.problems)]
            _sentences(sentences, seeds)
        _describe(site, seeds, watched, str(folder))
    finally:
        if len(seeds) > 1:  # a single one is left to be looked at
            for name in files:
                if name != "images/dataset.json":
                    (here / name).unlink(missing_ok=True)
                    with contextlib.suppress(OSError):
                        os.removedirs((here / name).parent)  # as far as they are empty


def at(kind: str, here: Path) -> SiteConfig:
    """A site with sound patients and nobody else."""
    path = here / "site.toml"
    if not path.exists():
        for number in range(SOUND):
            write(sound(kind, number), here)
        masks = {"masks": "labels"} if FORMATS[kind].masks else {}
        write_site(here, "A", layout=FORMATS[kind].layout, **masks)
    approve(load_site(path), STUDY)  # anew, since the data changed with the mutated patients
    os.environ["RELAY_SITE"] = str(path)
    enter_run(1)
    return load_site(path)


def _find_and_read(site: SiteConfig, seeds: list[int], watched: Watched) -> None:
    with watched.only(RelayError, seeds=seeds, what="find"):
        found = layouts.find(site)
        _sentences([*(one.sentence for one in found.problems), *found.notes], seeds)
        watched.outcomes["refused"] += len(found.problems)
        numbers = {name_of(seed): seed for seed in seeds}
        names = [_plain(source.patient) for source in found.sources]
        if any(f"sound {number}" not in names for number in range(SOUND)):
            tell(fault=f"a sound patient is lost: {names} {found.problems}", seeds=seeds)
        for source in found.sources:
            name = _plain(source.patient)
            own = [numbers[name]] if name in numbers else seeds
            with watched.only(BadPatient, seeds=own, what="read"):
                case = layouts.read(source)
                watched.outcomes["read"] += not name.startswith("sound ")
                if (wrong := _insane(case)) is not None:
                    tell(fault=f"a case that is none: {wrong}", seeds=own)


def _plain(patient: str) -> str:
    """A patient's name without the folder that some layouts name it with."""
    return patient.rpartition("/")[2]


def _insane(case: Case) -> str | None:
    """What of the contract in `client.data.layouts` a case does not keep."""
    if case.image.dtype != np.float32 or case.mask.dtype != bool or case.image.shape != case.mask.shape:
        return "types and shapes"
    if case.image.ndim != 3 or min(case.image.shape) < 3 or case.image.size > 10**8:
        return f"shape {case.image.shape}"
    if not np.isfinite(case.image).all() or case.image.min() == case.image.max():
        return "values"
    if not case.mask.any():
        return "no mask"
    numbers = [*case.spacing, *case.origin, *case.direction]
    if not np.isfinite(numbers).all() or not all(0.001 < step < 1000 for step in case.spacing):
        return f"geometry {numbers}"
    axes = np.array(case.direction).reshape(3, 3)
    return None if np.allclose(axes.T @ axes, np.eye(3), atol=1e-2) else f"axes {case.direction}"


def _describe(site: SiteConfig, seeds: list[int], watched: Watched, folder: str) -> None:
    """What would leave: the answer, or a refusal, as Flower packs it."""
    with watched.only(seeds=seeds, what="describe"):
        reply = call(DESCRIBE, to_record(Describe(study=STUDY.digest)))
        left = message_to_proto(reply).SerializeToString()
        told = found_in(left, also=(folder, str(site.folder), "images"))
        if told:
            tell(fault=f"this would leave the site: {told}", seeds=seeds)
        if reply.has_error():
            watched.outcomes[Refusal(reply.error.code).name] += 1
            if reply.error.code not in ALLOWED:
                log = (site.folder / "site.log").read_text(encoding="utf-8")
                tell(fault=f"describe: {Refusal(reply.error.code).name}: {log[-4000:]}", seeds=seeds)
            return
        description, _ = from_record(reply.content, Description)
        watched.outcomes["described"] += 1
        if not description.complete or description.patients < SOUND:
            tell(fault=f"the sound patients are not among those described: {description}", seeds=seeds)
    with watched.only(RelayError, seeds=seeds, what="prepare"):
        for record in prepare(site, STUDY.preprocessing).records:
            slices = load(record)
            if not np.isfinite(slices.image).all() or slices.image.shape[1:] != (32, 32):
                tell(fault=f"prepared slices that are none: {record.patient}", seeds=seeds)


def _sentences(sentences: list[str], seeds: list[int]) -> None:
    for sentence in sentences:
        if (wrong := unkind(sentence)) is not None:
            tell(fault=f"{wrong}: {sentence}", seeds=seeds)
