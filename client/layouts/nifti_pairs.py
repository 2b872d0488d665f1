"""Pairs of NIfTI files in one folder, as the multi-site sets (MS-Net, SAML, FedDG) name them.

Case00.nii.gz beside Case00_segmentation.nii.gz; BMC writes _Segmentation. Also without .gz.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from client.layouts import Found, Problem, Source, layout
from client.site import SiteConfig

NAME = re.compile(r"(?P<stem>.+?)(?P<mask>_segmentation)?\.nii(\.gz)?", re.IGNORECASE)


@layout("nifti-pairs")
def find(site: SiteConfig) -> Found:
    """Pair files by name, upper or lower case alike."""
    images: dict[str, list[Path]] = defaultdict(list)
    masks: dict[str, list[Path]] = defaultdict(list)
    stems: dict[str, str] = {}
    for path in sorted(site.images.iterdir()):
        match = NAME.fullmatch(path.name)
        if match is None or path.name.startswith(".") or not path.is_file():
            continue
        key = match["stem"].lower()
        (masks if match["mask"] else images)[key].append(path)
        if not match["mask"] or key not in stems:
            stems[key] = match["stem"]
    sources, problems = [], []
    for key, stem in stems.items():
        pair = [*images[key], *masks[key]]
        if not masks[key]:
            problems.append(Problem(stem, f"The image {pair[0]} has no mask; add {stem}_segmentation.nii.gz."))
        elif not images[key]:
            problems.append(Problem(stem, f"The mask {pair[0]} has no image; add {stem}.nii.gz."))
        elif len(pair) > 2:
            names = ", ".join(path.name for path in pair)
            problems.append(
                Problem(stem, f"Several files in {site.images} are of this patient ({names}); keep a pair.")
            )
        else:
            sources.append(Source(stem, (pair[0],), (pair[1],)))
    return Found(tuple(sources), tuple(problems))
