"""A site's description of its patients before the first training: the numbers of patients and slices."""

from __future__ import annotations

import os
from dataclasses import asdict
from statistics import fmean

import torch

from client import progress
from client.data.site_key import site_key, split_key
from client.data.slice_counts import samples_an_epoch
from client.governance.released_sets import PatientSets, sets_behind_description
from client.preprocessing.cohort import Cohort, gather, persons_of
from client.preprocessing.pipeline import Prepared, Record, fingerprint, prepare
from client.site_config import SiteConfig
from client.training.device import choose_device
from common.config.study import Study
from common.digest import keyed_digest
from common.plan.stage_key import ExecutionEnvironment
from common.protocol.messages import Description


def describe_patients(site: SiteConfig, study: Study) -> tuple[Description, PatientSets]:
    """Prepare the site's patients, for one leg at most, and count them once all are prepared.

    Of patients left out or cut off, a number that would tell of fewer patients than the site's file allows is 0.

    Returns:
        The description, and the sets of patients behind its numbers; none while patients are being prepared.

    Raises:
        RelayError: the data are unusable, or there are too few patients for the study's folds.
    """
    cores = min(filter(None, (int(os.environ.get("RELAY_CORES", "0")), site.cores)), default=None)
    seconds = study.training.leg_minutes * 60
    prepared = prepare(
        site,
        study.preprocessing,
        target=study.model.segments,
        seconds=seconds,
        progress=progress.notify,
        cores=cores,
    )
    if prepared.done < prepared.total:
        # In steps of the minimum: the exact number found would tell later how many of them were left out.
        fewest = site.minimum_patients
        found, done = max(prepared.total // fewest * fewest, min(prepared.total, fewest)), prepared.done
        prepared_so_far = max(0, min(done // fewest * fewest, found - fewest))
        progress_alone = Description(study=study.digest, site=site.name, patients_found=found, prepared=prepared_so_far)
        return progress_alone, PatientSets()
    cohort = gather(prepared.records, site, study.split)
    folds = range(study.split.folds)
    cut, zoned = (sum(getattr(record, kind) for record in cohort.records.values()) for kind in ("cut", "zoned"))
    left_out = prepared.left_out if prepared.left_out >= site.minimum_patients else 0
    description = Description.model_validate(
        {
            "study": study.digest,
            "site": site.name,
            "patients_found": len(cohort.records) + left_out,
            "prepared": len(cohort.records) + left_out,
            "left_out": left_out,
            "patients": len(cohort.records),
            "test_patients": len(cohort.test()),
            "slices": count_selected(list(cohort.records.values())),
            "test_slices": count_selected(cohort.test()),
            "below": sum(record.below for record in cohort.records.values()),
            "cut_patients": cut if is_enough(site, cut, len(cohort.records)) else 0,
            "zoned_patients": (zoned if is_enough(site, zoned, len(cohort.records)) else 0)
            if study.model.segments.zones
            else None,
            "ceiling": round(fmean(record.ceiling for record in cohort.records.values()), 3),
            "train_slices": train_slices(cohort, study),
            "train_patients": tuple(len(cohort.train(fold)) for fold in folds),
            "validation_patients": tuple(len(cohort.validation(fold)) for fold in folds),
            **asdict(execution_environment(site, study, prepared)),
        }
    )
    return description, sets_behind_description(cohort.split, persons_of(cohort))


def is_enough(site: SiteConfig, some: int, of: int) -> bool:
    """Return whether a site's file allows to tell that some of its patients have a property, and the others not."""
    return some >= site.minimum_patients and (some == of or of - some >= site.minimum_patients)


def execution_environment(site: SiteConfig, study: Study, prepared: Prepared) -> ExecutionEnvironment:
    """Return the site's properties that determine a result besides the study: data, torch, device and precision."""
    device = choose_device(site.device, study.training.precision)
    return ExecutionEnvironment(
        fingerprint=_fingerprint(site, prepared),
        torch=torch.__version__,
        device=device.kind,
        precision=device.precision,
    )


def _fingerprint(site: SiteConfig, prepared: Prepared) -> str:
    """Return the fingerprint of the data, and of a secret by which they are divided."""
    data, key = fingerprint(prepared.records, site_key(site)), site_key(site)
    divided_by = [split_key(plain) for plain in (site.member_sites() or (site,))]
    return keyed_digest(key, b"".join([data.encode(), *divided_by])) if any(divided_by) else data


def train_slices(cohort: Cohort, study: Study) -> tuple[int, ...]:
    """Return the number of slices, or of boxes, that an epoch trains on, for each fold."""
    return tuple(trained_slices(cohort.train(fold), study) for fold in range(study.split.folds))


def trained_slices(records: list[Record], study: Study) -> int:
    """Return the number of slices, or of boxes, that an epoch trains on."""
    return samples_an_epoch((record.counts for record in records), study)


def count_selected(records: list[Record]) -> int:
    """Return the number of selected slices of some patients."""
    return sum(record.selected for record in records)
