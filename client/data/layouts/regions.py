"""The choice of the gland among the segments of DICOM segmentations and the contours of RTSTRUCT files.

A hospital's files name organs, zones, lesions and margins. A region is taken without the site's word only where its
name or code says that it is the whole prostate, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import RelayError
from common.text import either, listed, quoted

WHOLE = re.compile(r"prostat|whole[-_ ]?gland|(?<![a-z])(wg|gland)(?![a-z])", re.IGNORECASE)
"""What the name of the whole gland contains."""
PARTS = re.compile(
    r"(?<![a-z])(pz|tz|cz|cg|afs|[pcg]tv\w*|sv|dil|minus|plus|bed|base|apex|ring|mass)(?![a-z])|[-+]\s*\d+\s*mm|\+"
    r"|peripheral|transition|central|zone|stroma|seminal|vesicle|urethra|bladder|rect(um|al)|lesion|tumou?r|cancer"
    r"|carcinoma|neoplas|malign|metasta|target|biops|margin|expan|avoid|boost|overlap|exclu|nodul|suspic|index|prosthe"
    r"|prostatectom",
    re.IGNORECASE,
)
"""What the name of a zone, a lesion, another organ or a planning volume contains."""
CODES = ("41216001", "T-92000", "T-9200B", "9600")
"""The codes of the prostate: SNOMED CT, its older form SRT, and the Foundational Model of Anatomy."""
SHOWN = 8


@dataclass(frozen=True)
class Region:
    """A segment of a DICOM segmentation, or a region of interest of an RTSTRUCT."""

    file: Path
    number: int
    """SegmentNumber or ROINumber."""
    name: str
    """SegmentLabel or ROIName."""
    meaning: str = ""
    """The meaning of its code, such as "Prostate"; empty where the file has none."""
    code: str = ""


def choose(found: Sequence[Region], wanted: Sequence[str]) -> tuple[Region, ...]:
    """Return the regions that are the gland: one for each name that the site states, or else the whole prostate.

    Args:
        found: the regions that refer to a patient's image.
        wanted: the site's names, each a name, a code, or a regular expression; empty to judge by name and code.

    Raises:
        RelayError: none fits, or several do.
    """
    if not wanted:
        whole = [region for region in found if is_whole(region)]
        if len(whole) != 1:
            few = "none is the whole prostate" if not whole else "several are the whole prostate"
            raise RelayError(
                f"Of the segments and contours {_names(found)}, {few} by name and code; say which is the gland with"
                f' "roi" in the site file, such as roi = "{_example(whole or found)}".'
            )
        return (whole[0],)
    chosen: list[Region] = []
    for pattern in wanted:
        meant = _meant(found, pattern)
        if len(meant) != 1:
            few = f'none is "{pattern}"' if not meant else f'"{pattern}" means several, {_names(meant)}'
            raise RelayError(f'Of the segments and contours {_names(found)}, {few}; change "roi" in the site file.')
        if meant[0] not in chosen:
            chosen.append(meant[0])
    if len({region.file for region in chosen}) > 1:
        raise RelayError(
            f'The segments and contours {_names(chosen)}, which "roi" in the site file names, lie in several files;'
            " export them into one."
        )
    return tuple(chosen)


def choose_zones(
    found: Sequence[Region], named: Sequence[Sequence[str]], wanted: Sequence[str]
) -> tuple[tuple[Region, ...], ...]:
    """Return the regions of each zone; of a patient without any zone, those of the whole gland alone.

    Args:
        found: the regions that refer to a patient's image, or those of one file.
        named: the site's names of each zone, each a name, a code, or a regular expression; a zone may lack some.
        wanted: the site's names of the gland, for a patient without zones; see `choose`.

    Raises:
        RelayError: one zone is there and another is not, a name means several regions, two zones are one region, the
            zones lie in several files, or there is no zone and no gland.
    """
    zones = tuple(tuple(dict.fromkeys(_each(found, names))) for names in named)
    if not any(zones):
        return (tuple(found) if len(found) == 1 and not wanted else choose(found, wanted),)
    chosen = [region for zone in zones for region in zone]
    if not all(zones):
        lacking = next(names for names, zone in zip(named, zones, strict=True) if not zone)
        raise RelayError(
            f"Of the segments and contours {_names(found)}, {_names(chosen)} is one zone, and none is"
            f' {either(map(quoted, lacking))}, the other; draw it, or change "labels" in the site file.'
        )
    if len(set(chosen)) < len(chosen):
        raise RelayError(
            f'Two zones are the same segment or contour among {_names(chosen)}; change "labels" in the site file.'
        )
    if len({region.file for region in chosen}) > 1:
        raise RelayError(
            f'The segments and contours {_names(chosen)}, which "labels" in the site file names, lie in several files;'
            " export them into one."
        )
    return zones


def _each(found: Sequence[Region], names: Sequence[str]) -> Iterator[Region]:
    """Yield the region that each name means; nothing for a name without a region."""
    for name in names:
        meant = _meant(found, name)
        if len(meant) > 1:
            raise RelayError(
                f'Of the segments and contours {_names(found)}, "{name}" means several, {_names(meant)}; change'
                ' "labels" in the site file.'
            )
        yield from meant


def is_whole(region: Region) -> bool:
    """Return whether a region is the whole prostate by its name and its code."""
    if PARTS.search(region.name) or PARTS.search(region.meaning):
        return False
    return region.code in CODES or any(WHOLE.search(text) for text in (region.name, region.meaning))


def _meant(found: Sequence[Region], pattern: str) -> list[Region]:
    """Return the regions that a pattern means: by the whole name or code, by a part of it, or by the file too."""
    rules: tuple[Callable[[Region], bool], ...] = (
        lambda one: pattern.casefold() in (one.name.casefold(), one.code.casefold()),
        lambda one: any(re.search(pattern, text, re.IGNORECASE) for text in (one.name, one.meaning)),
        lambda one: bool(re.search(pattern, _identity(one), re.IGNORECASE)),
    )
    meant: list[Region] = []
    for rule in rules:
        meant = [region for region in found if rule(region)]
        if len(meant) == 1:
            return meant
    return meant or [region for region in found if rules[1](region)]


def _identity(region: Region) -> str:
    return f"{region.name}; {region.meaning}; {region.code}; {region.file.parent.name}/{region.file.name};"


def _example(found: Sequence[Region]) -> str:
    """Return a pattern that means one region alone, for a sentence."""
    first = found[0] if found else Region(Path(), 0, "prostate")
    if sum(region.name.casefold() == first.name.casefold() for region in found) > 1:
        return f"{re.escape(first.name)};.*{re.escape(first.file.name)}"
    return first.name


def _names(found: Sequence[Region]) -> str:
    if not found:
        return "(there is none)"
    several = len({region.file for region in found}) > 1

    def name(one: Region) -> str:
        code = f" ({one.meaning or one.code})" if one.code and one.meaning.casefold() != one.name.casefold() else ""
        return f'"{one.name}"{code}' + (f" in {one.file.parent.name}/{one.file.name}" if several else "")

    shown = [name(one) for one in found[:SHOWN]]
    return listed([*shown, f"{len(found) - SHOWN} more"] if len(found) > SHOWN else shown)
