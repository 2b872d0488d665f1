"""The data check of a site: lists the patients and finds faults in the data before a training uses the data.

All results are for people at the site: patients are named, and nothing is sent. The counts of
`client.data_check.counts` may be shared. `findings.Kind` lists the kinds of faults, and `evidence` says how a mask is
compared with its image. Faults that cannot be seen are explained at `evidence.HIDDEN` and counted in each `Looked`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data import layouts
from client.data.layouts import Problem, Source
from client.data_check.evidence import FEWEST_PATIENTS, Verdict, judge
from client.data_check.findings import BY_OUTLINE, Finding, Kind, Looked
from client.data_check.others import compare, duplicates
from client.data_check.outline import View, view
from client.data_check.patient import ZONES, Patient, fingerprint, measure, oddities
from client.data_check.swaps import elsewhere, laid_over
from client.data_check.trials import Outlined, outlined
from client.data_check.verdicts import looked, outline_findings, together_sentence
from client.data_check.zones import exchanged_zones, missing_zones, values_seen
from client.site_config import SiteConfig
from common.config.study import PreprocessingConfig
from common.errors import BadPatient
from common.text import count, listed

__all__ = ["Checkup", "Examination", "Finding", "Kind", "Looked", "Patient", "check", "examine"]

_READING = threading.Lock()
"""GDCM keeps state for the whole process, and reads DICOM one file after the other anyway."""


@dataclass(frozen=True)
class Checkup:
    """The results of a data check without the pictures."""

    site: str
    layout: str
    minimum_pixels: int
    patients: tuple[Patient, ...]
    """Usable patients, sorted by name."""
    problems: tuple[Problem, ...]
    """Unusable patients, sorted by name."""
    findings: tuple[Finding, ...]
    """The possible faults, by kind and then by patient; an unusable patient may be among them."""
    looked: tuple[Looked, ...]
    """An entry for each kind of fault, in the order of `Kind`."""
    notes: tuple[str, ...]
    """Remarks on the site as a whole, one sentence each."""
    whole_site: bool
    """Whether most of the masks would fit better after the same move."""
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of patients with the same scan."""

    def about(self, patient: str) -> tuple[Finding, ...]:
        """Return the findings on a patient."""
        return tuple(finding for finding in self.findings if finding.patient == patient)

    @property
    def suspicious(self) -> frozenset[str]:
        """Return the patients with a finding."""
        return frozenset(finding.patient for finding in self.findings)


@dataclass(frozen=True, eq=False)
class Examination:
    """The results of a data check together with the pictures."""

    checkup: Checkup
    views: Mapping[str, View]
    """By patient."""
    suggested: Mapping[str, NDArray[np.bool_]]
    """By patient: the better fitting mask, in the box of the patient's view."""


@dataclass(frozen=True, eq=False)
class _Examined:
    patient: Patient
    oddities: list[Finding]
    view: View
    outlined: Outlined | None
    fingerprint: NDArray[np.float32]


def check(
    site: SiteConfig,
    *,
    minimum_pixels: int = 200,
    grid: PreprocessingConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checkup:
    """Check a site's data as `examine` does, and return the results without the pictures.

    Args:
        site: a plain site.
        minimum_pixels: a slice counts where its mask holds more pixels than this.
        grid: a study's grid, beyond which no gland should reach; None: any grid.
        progress: called after each patient with the number of patients done and the number in all.

    Raises:
        RelayError: a folder is missing, or no patient lies in the folder at all.
    """
    return examine(site, minimum_pixels=minimum_pixels, grid=grid, progress=progress).checkup


def examine(
    site: SiteConfig,
    *,
    minimum_pixels: int = 200,
    grid: PreprocessingConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Examination:
    """Read every patient of a site once, patients side by side, and compare the patients with each other.

    Args:
        site: a plain site; the pooled site's members are checked one by one.
        minimum_pixels: a slice counts where its mask holds more pixels than this.
        grid: a study's grid, beyond which no gland should reach; None: any grid.
        progress: called after each patient with the number of patients done and the number in all.

    Raises:
        RelayError: a folder is missing, or no patient lies in the folder at all.
    """
    found = layouts.find(site)
    cores = site.cores or os.cpu_count() or 1
    known, unread = _examine_all(found.sources, minimum_pixels, grid, cores, progress)
    patients = [one.patient for one in known]
    views = {one.patient.patient: one.view for one in known}
    prints = {one.patient.patient: one.fingerprint for one in known}
    tried = {one.patient.patient: one.outlined for one in known if one.outlined is not None}
    verdict = judge(list(tried.values()))
    swapped = elsewhere(tried, views, verdict)
    same = duplicates(patients, prints)
    findings = _with_owners(
        [
            *(oddity for one in known for oddity in one.oddities),
            *compare(patients, same),
            *outline_findings(tried, verdict, swapped),
        ],
        [source for source in found.sources if source.patient in unread],
        found.sources,
        views,
    )
    order = list(Kind)
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.patient))
    problems = [*found.problems, *(Problem(name, sentence) for name, sentence in unread.items())]
    suggested = {name: verdict.moved[name].move.of(views[name].mask) for name in verdict.moved if name not in swapped}
    for name, better in swapped.items():
        suggested[better.owner] = laid_over(views[name], views[better.owner])
    checkup = Checkup(
        site=site.name,
        layout=found.layout,
        minimum_pixels=minimum_pixels,
        patients=tuple(patients),
        problems=tuple(sorted(problems, key=lambda problem: problem.patient)),
        findings=tuple(findings),
        looked=(
            *_looked(len(patients), len(problems), findings),
            *looked(tried, views, verdict, findings),
        ),
        notes=(
            *found.notes,
            *_values_note(patients, site),
            *_notes(verdict, len(patients)),
            *values_seen(patients, site.statement()),
        ),
        whole_site=verdict.together is not None,
        duplicates=same,
    )
    return Examination(checkup, views, suggested)


def _values_note(patients: Sequence[Patient], site: SiteConfig) -> tuple[str, ...]:
    """Return a sentence on the values in the site's masks, where they are neither a single value nor the two zones."""
    stated = site.statement()
    values = sorted({value for patient in patients for value, _ in patient.values})
    if (len(values) < 2 or set(values) == ZONES) and not stated.masks:
        return ()
    if stated.zones and set(values) <= set(stated.labels):
        return ()
    shown = listed(f"{value:.4g}" for value in values[:8]) + (" …" if len(values) > 8 else "")
    which = "every value above 0"
    if stated.labels:
        which = f'{listed(map(str, stated.labels))} ("labels" in the site file)'
    elif stated.mask_threshold is not None:
        which = f'what is above {stated.mask_threshold:g} ("mask_threshold" in the site file)'
    return (f"Beside 0 the masks hold {shown}; taken as gland is {which}.",)


def _notes(verdict: Verdict, patients: int) -> tuple[str, ...]:
    """Return sentences about the site as a whole."""
    notes = []
    if verdict.together:
        notes.append(together_sentence(verdict.together, verdict.moved.values(), patients))
    if 0 < patients < FEWEST_PATIENTS:
        notes.append(f"With {count(patients, 'patient')}, spacing, brightness and place are not compared.")
    if patients and not verdict.likeness:
        notes.append(
            f"With outlines of fewer than {FEWEST_PATIENTS} patients, masks are held against the edges of their own"
            " images alone: most faults of masks stay unseen."
        )
    return tuple(notes)


def _examine_all(
    sources: tuple[Source, ...],
    minimum_pixels: int,
    grid: PreprocessingConfig | None,
    cores: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[_Examined], dict[str, str]]:
    """Return all readable patients, sorted by name, and for each unreadable patient the sentence with the reason."""
    examined: dict[str, _Examined] = {}
    unread: dict[str, str] = {}
    waiting = iter(sources)
    running: dict[Future[_Examined], str] = {}
    with ThreadPoolExecutor(max_workers=cores) as pool:

        def begin() -> None:
            source = next(waiting, None)
            if source is not None:
                running[pool.submit(_examine, source, minimum_pixels, grid)] = source.patient

        for _ in range(cores):
            begin()
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    examined[name] = future.result()
                except BadPatient as error:
                    unread[name] = str(error)
                begin()
                if progress:
                    progress(len(examined) + len(unread), len(sources))
    return [examined[source.patient] for source in sources if source.patient in examined], unread


def _examine(source: Source, minimum_pixels: int, grid: PreprocessingConfig | None) -> _Examined:
    from client.data_check import headers  # imported here: SimpleITK is loaded only where images are read

    with _READING:
        case = layouts.read(source)
        stored, mask_stored = headers.axes(source.image), headers.axes(source.mask)
    patient = measure(case, minimum_pixels=minimum_pixels, stored=stored, mask_stored=mask_stored)
    patient = replace(patient, remarks=(*patient.remarks, *missing_zones(patient, source.stated)))
    image = view(case)
    return _Examined(
        patient=patient,
        oddities=[
            *oddities(case, patient, minimum_pixels=minimum_pixels, grid=grid, values_stated=source.stated.masks),
            *exchanged_zones(patient, source.stated),
        ],
        view=image,
        outlined=outlined(case, image),
        fingerprint=fingerprint(case.image),
    )


def _with_owners(
    findings: list[Finding], unread: list[Source], sources: tuple[Source, ...], views: Mapping[str, View]
) -> list[Finding]:
    """Replace the finding of a misplaced mask by a finding with the owner of the mask's grid, where known.

    Args:
        findings: all findings so far.
        unread: patients whose image and mask could not be read onto one grid.
        sources: all patients.
        views: usable patients' images, by patient.
    """
    from client.data_check import headers

    misplaced = {finding.patient for finding in findings if finding.kind is Kind.MISPLACED}
    suspects = [*unread, *(source for source in sources if source.patient in misplaced)]
    with _READING:
        owners = headers.owners(suspects, sources, views)
    swapped = [
        Finding(
            Kind.MISPLACED,
            name,
            f"The mask lies exactly on the image of {owner} and not on its own: its file may be under a wrong name.",
        )
        for name, owner in owners.items()
    ]
    return [one for one in findings if one.kind is not Kind.MISPLACED or one.patient not in owners] + swapped


def _looked(patients: int, problems: int, findings: list[Finding]) -> list[Looked]:
    """Return the numbers of patients checked and found for each kind of fault that needs no outline."""
    counts = [Looked(Kind.UNUSABLE, patients + problems, problems)]
    for kind in Kind:
        if kind is Kind.UNUSABLE or kind in BY_OUTLINE:
            continue
        alone = patients < FEWEST_PATIENTS and kind in (Kind.SPACING, Kind.INTENSITY)
        found = {finding.patient for finding in findings if finding.kind is kind}
        counts.append(Looked(kind, 0 if alone else patients, len(found)))
    return counts
