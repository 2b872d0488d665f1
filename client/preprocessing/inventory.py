"""The patients of a site, and the keys under which the cache stores the patients' results.

A key is a digest of all inputs of its result, so a result is made again exactly when an input changes. While no data
file changes, neither headers nor images are read again to work out a key.
"""

from __future__ import annotations

import importlib.metadata
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.data import layouts
from client.data.layouts import Found, Problem, Source, Statement
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.config.study import PreprocessingConfig
from common.digest import digest_of_json
from common.target import GLAND, Target

FOUND_VERSION = 2
"""Must be raised whenever a layout lists a site's patients in another way than before."""
CORRECTED_VERSION = 2
"""Must be raised whenever a corrected volume comes out differently than before; part of every key."""
SLICES_VERSION = 2

READER_VERSION = "2"
"""Must be raised whenever the reader refuses or reads files otherwise than before while the keys of sound files stay:
patients prepared by an earlier reader are read once more, and their bias field is fitted again where voxels differ."""

PROBLEMS_HOLD = 3600.0
"""Seconds during which a problem of unchanged files is believed: a fault of a network drive may pass."""


@dataclass(frozen=True)
class PreparationTask:
    """A patient, and the files with the patient's results."""

    home: SiteConfig
    name: str
    source: Source
    corrected: Path
    slices: Path
    digest: str
    zoned: bool = False
    """Whether the patient's zones are prepared as well, where they are drawn."""


def tasks_of(
    home: SiteConfig, preprocessing: PreprocessingConfig, prefix: str, target: Target = GLAND
) -> tuple[list[PreparationTask], list[Problem]]:
    """Return a site's patients with their cache keys, and its problems; images of unchanged files are not read.

    Args:
        home: a plain site.
        preprocessing: the study's settings.
        prefix: is put before each patient's name in the tasks.
        target: what the study segments; a study of the gland has the same keys whether the site names zones or values.
    """
    folder = home.private() / "cache"
    index = folder / "index.json"
    known = cache.read_json(index)
    place = [
        FOUND_VERSION,
        home.series,
        home.patient,
        str(home.images),
        str(home.masks),
        *([home.roi] if home.roi else []),
    ]
    snapshot = cache.snapshot([home.images, *([home.masks] if home.masks else [])], without=home.folder)
    found, entry = _find(home, known.get("found"), f"{digest_of_json(place)}:{snapshot}")
    files = known.get("files")
    digests = cache.ContentDigests(files if isinstance(files, dict) else {})
    itk = importlib.metadata.version("SimpleITK")
    # Settings without an effect on the result must not change the key.
    n4 = preprocessing.n4.model_dump() if preprocessing.n4.enabled else None
    slicing = preprocessing.model_dump(exclude={"n4", "standardise"})
    tasks, problems = [], list(found.problems)
    for source in found.sources:
        try:
            image, mask = digests.of(source.image), digests.of(source.mask)
        except OSError as error:
            problems.append(Problem(source.patient, f"{error.filename} cannot be read ({error.strerror})."))
            continue
        geometry, values = _statements(source.stated)
        corrected = digest_of_json([CORRECTED_VERSION, found.layout, image, source.channel, n4, itk, *geometry])
        zones = source.stated.zones if target.zones else ()
        slices = digest_of_json([SLICES_VERSION, corrected, mask, slicing, *values, *([zones] if zones else [])])
        tasks.append(
            PreparationTask(
                home=home,
                name=f"{prefix}{source.patient}",
                source=source,
                corrected=folder / "corrected" / f"{corrected}.safetensors",
                slices=folder / "slices" / f"{slices}.safetensors",
                digest=slices,
                zoned=bool(zones),
            )
        )
    if digests.changed or entry != known.get("found"):
        cache.write_json(index, {"found": entry, "files": digests.used})
    return tasks, problems


def _statements(stated: Statement) -> tuple[list[Any], list[Any]]:
    """Return the site's statements on geometry and on masks, for the keys; empty lists where nothing is stated."""
    geometry = [stated.spacing_mm, stated.orientation]
    values = [stated.labels, stated.mask_threshold]
    regions: list[Any] = [*([stated.roi] if stated.roi else []), *([stated.zone_names] if stated.zone_names else [])]
    return geometry if geometry != [None, ""] else [], (values if values != [(), None] else []) + regions


def _find(home: SiteConfig, known: Any, key: str) -> tuple[Found, dict[str, Any]]:
    """Return what `layouts.find` returns, from the index where no file has changed: headers take a millisecond a file.

    An entry for a recognised layout also holds once the site file names the layout.

    Returns:
        The patients and problems, and the entry for the index.
    """
    with suppress(LookupError, TypeError, ValueError):  # a damaged entry counts as missing
        if known["key"] == key and home.layout in (known["asked"], known["layout"]):
            sources = tuple(
                Source(patient, tuple(map(Path, image)), tuple(map(Path, mask)), channel, home.statement(), person)
                for patient, image, mask, channel, person in known["sources"]
            )
            problems = tuple(Problem(patient, sentence) for patient, sentence in known["problems"])
            if not problems or 0 <= time.time() - known["at"] < PROBLEMS_HOLD:
                return Found(sources, problems, tuple(known["notes"]), known["layout"]), known
    found = layouts.find(home)
    entry: dict[str, Any] = {
        "key": key,
        "at": time.time(),
        "asked": home.layout,
        "layout": found.layout,
        "sources": [
            [
                source.patient,
                [str(path) for path in source.image],
                [str(path) for path in source.mask],
                source.channel,
                source.person,
            ]
            for source in found.sources
        ],
        "problems": [[problem.patient, problem.sentence] for problem in found.problems],
        "notes": list(found.notes),
    }
    return found, entry
