"""A site's description of its patients before the first training: the numbers of patients and slices."""

from __future__ import annotations

import os
from dataclasses import asdict
from statistics import fmean

import torch

from client import progress
from client.data.slice_counts import slices_an_epoch
from client.preprocessing.cohort import Cohort, gather
from client.preprocessing.pipeline import Prepared, Record, fingerprint, prepare, site_key
from client.site_config import SiteConfig
from client.training.device import choose_device
from common.config.study import Study
from common.plan.stage_key import ExecutionEnvironment
from common.protocol.messages import Description


def describe_patients(site: SiteConfig, study: Study) -> Description:
    """Prepare the site's patients, for one leg at most, and count them once all are prepared.

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
        return Description(study=study.digest, site=site.name, patients_found=prepared.total, prepared=prepared.done)
    cohort = gather(prepared.records, site, study.split)
    folds = range(study.split.folds)
    # A smaller number would single out patients, by two studies whose grids differ a little.
    cut, zoned = (sum(getattr(record, kind) for record in cohort.records.values()) for kind in ("cut", "zoned"))
    return Description.model_validate(
        {
            "study": study.digest,
            "site": site.name,
            "patients_found": prepared.total,
            "prepared": prepared.done,
            "left_out": prepared.left_out,
            "patients": len(cohort.records),
            "test_patients": len(cohort.test()),
            "slices": count_selected(list(cohort.records.values())),
            "test_slices": count_selected(cohort.test()),
            "below": sum(record.below for record in cohort.records.values()),
            "cut_patients": cut if cut >= site.minimum_patients else 0,
            "zoned_patients": (zoned if zoned >= site.minimum_patients else 0) if study.model.segments.zones else None,
            "ceiling": round(fmean(record.ceiling for record in cohort.records.values()), 3),
            "train_slices": train_slices(cohort, study),
            "train_patients": tuple(len(cohort.train(fold)) for fold in folds),
            "validation_patients": tuple(len(cohort.validation(fold)) for fold in folds),
            **asdict(execution_environment(site, study, prepared)),
        }
    )


def execution_environment(site: SiteConfig, study: Study, prepared: Prepared) -> ExecutionEnvironment:
    """Return the site's properties that determine a result besides the study: data, torch, device and precision."""
    device = choose_device(site.device, study.training.precision)
    return ExecutionEnvironment(
        fingerprint=fingerprint(prepared.records, site_key(site)),
        torch=torch.__version__,
        device=device.kind,
        precision=device.precision,
    )


def train_slices(cohort: Cohort, study: Study) -> tuple[int, ...]:
    """Return the number of slices that an epoch trains on, for each fold."""
    return tuple(trained_slices(cohort.train(fold), study) for fold in range(study.split.folds))


def trained_slices(records: list[Record], study: Study) -> int:
    """Return the number of slices that an epoch trains on."""
    return slices_an_epoch((record.counts for record in records), study.training)


def count_selected(records: list[Record]) -> int:
    """Return the number of selected slices of some patients."""
    return sum(record.selected for record in records)
