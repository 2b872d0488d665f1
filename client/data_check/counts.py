"""The part of a data check that may be shown to others: counts of patients and of slices, and nothing else.

The file holds no patient's name or value, no path, no sentence and no date. Its whole content::

    {"what": "relay site check: counts", "version": 1,
     "sites": [{"site": "A",                       the site's name, which every study's coordinator knows
                "patients": {"usable": 30, "unusable": 1, "to_look_at": 2},
                "slices": {"minimum_pixels": 200, "above": 396, "at": 1, "below": 24},
                "faults": {"mirrored": {"compared": 30, "found": 1, "hidden": 5, "undecided": 0}, ...},
                "whole_site": false}]}             whether most masks seem to be wrong in one and the same way

`faults` has an entry for each `findings.Kind`, with the four counts of `findings.Looked`. Where a kind of fault is
found by comparing each patient with the others, and there are too few patients, "compared" is 0. A count may be small,
and a reader with knowledge of the site's patients may guess the patient behind a 1. So the site reads this file first
and passes the file on itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.data_check import Checkup
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.errors import RelayError

VERSION = 1


def write_counts(path: Path, checkups: Sequence[tuple[SiteConfig, Checkup]]) -> None:
    """Write the counts of sites to a file, whole or not at all, readable for its owner alone.

    Args:
        path: the file.
        checkups: each site with the results of its data check.

    Raises:
        RelayError: a site has fewer patients than its `minimum_patients`, or the file cannot be written.
    """
    for site, checkup in checkups:
        patients = len(checkup.patients) + len(checkup.problems)
        if patients < site.minimum_patients:
            raise RelayError(
                f"Site {site.name} has {patients} patients, and its file asks for at least {site.minimum_patients}"
                f' behind any number that leaves it ("minimum_patients"): no counts were written to {path}.'
            )
    content = {
        "what": "relay site check: counts",
        "version": VERSION,
        "sites": [counts(checkup) for _, checkup in checkups],
    }
    cache.write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def counts(checkup: Checkup) -> dict[str, Any]:
    """Return a site's entry of the file; see the top of this module."""
    unusable = {problem.patient for problem in checkup.problems}
    return {
        "site": checkup.site,
        "patients": {
            "usable": len(checkup.patients),
            "unusable": len(unusable),
            "to_look_at": len(checkup.suspicious - unusable),
        },
        "slices": {
            "minimum_pixels": checkup.minimum_pixels,
            "above": sum(patient.slices for patient in checkup.patients),
            "at": sum(patient.slices_at for patient in checkup.patients),
            "below": sum(patient.slices_below for patient in checkup.patients),
        },
        "faults": {
            looked.kind.value: {
                "compared": looked.compared,
                "found": looked.found,
                "hidden": looked.hidden,
                "undecided": looked.undecided,
            }
            for looked in checkup.looked
        },
        "whole_site": checkup.whole_site,
    }
