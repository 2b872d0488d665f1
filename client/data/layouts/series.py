"""The choice of a patient's axial T2 among the DICOM series found, by the series' own tags and by the site's pattern.

The description is free text, and is believed where it says T2 and the tags do not contradict. Where it does not say so,
or several series do, the tags decide: modality, image type, echo time, diffusion.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import RelayError
from common.text import count, listed

T2_ECHO_MS = (60.0, 250.0)
"""The echo times in ms of a T2 of the prostate; 80 to 140 are usual."""
T1_ECHO_MS = 40.0
"""The echo time in ms below which an image shows no T2 contrast."""
OTHER_WORDS = ("ADC", "PROJECTION", "LOCALIZER", "SUBTRACTION", "DIFFUSION", "T2 MAP", "T2MAP", "T2_MAP")
"""Words of ImageType, in upper case, that no T2 has."""
SHOWN = 4


@dataclass(frozen=True)
class Series:
    """All files found of a DICOM series, sorted by path, with the tags of the first file."""

    patient: str
    description: str
    axial: bool
    files: tuple[Path, ...]
    uid: str = ""
    number: str = ""
    date: str = ""
    """SeriesDate or StudyDate, as YYYYMMDD."""
    modality: str = ""
    image_type: tuple[str, ...] = ()
    echo_ms: float | None = None
    """EchoTime; None where the file states none."""
    diffusion: bool = False
    """Whether the series is echo-planar or has a b-value above 0."""
    study: str = ""
    """StudyInstanceUID."""
    instances: frozenset[str] = frozenset()
    """The SOP instance UIDs of its files."""


@dataclass(frozen=True)
class Choice:
    """The chosen series, and why it was chosen where its description alone did not say so."""

    series: Series
    reason: str = ""


def choose(candidates: Sequence[Series], pattern: str, *, place: str, key: str = '"series" in the site file') -> Choice:
    """Return the axial T2 series among one patient's series.

    Args:
        candidates: the patient's series, at least one.
        pattern: the site's `series`; empty to judge by description and tags.
        place: the folder of the series, for the error's sentence.
        key: the name of the pattern where the user writes it.

    Raises:
        RelayError: no series fits, or several do.
    """
    fitting = [series for series in candidates if series.modality in ("", "MR", "OT")]
    if not fitting:
        kinds = listed(sorted({series.modality for series in candidates}))
        raise RelayError(f"None of the series in {place} is an MR image (Modality {kinds}); add the axial T2 series.")
    fitting = [series for series in fitting if series.axial]
    if not fitting:
        raise RelayError(f"None of the series in {place} is axial ({_names(candidates)}); add the axial T2 series.")
    if pattern:
        return _by_pattern(fitting, pattern, place, key, candidates)
    calling = [series for series in fitting if "t2" in series.description.lower()]
    reason = ""
    if not calling:
        silent = [series for series in fitting if not series.description]
        calling = silent or [series for series in fitting if _shows_t2(series)]
        reason = "" if silent else "no description says T2, and the echo time is that of a T2"
        if not calling:
            raise RelayError(
                f"No axial series in {place} calls itself a T2 or has the echo time of one ({_names(candidates)});"
                f" add the axial T2 series, or say which it is with {key}."
            )
    left, why = _narrowed(calling)
    if len(left) > 1:
        raise _several(left, place, key)
    (found,) = left
    if found.echo_ms is not None and 0 < found.echo_ms < T1_ECHO_MS:
        raise RelayError(
            f'The series "{found.description}" in {place} has an EchoTime of {found.echo_ms:g} ms, which no T2 has; add'
            f" the axial T2 series, or say that it is meant with {key}."
        )
    if found.diffusion or _is_other(found):
        raise RelayError(
            f'The series "{found.description}" in {place} is a diffusion image or a map by its tags; add'
            f" the axial T2 series, or say that it is meant with {key}."
        )
    return Choice(found, "; ".join(filter(None, (reason, why))))


def reasons(choices: Mapping[str, Choice]) -> tuple[str, ...]:
    """Return sentences on series that were chosen by more than their description, one for each reason.

    Args:
        choices: by patient.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name, choice in choices.items():
        if choice.reason:
            alike[choice.reason].append(name)
    found = []
    for reason, names in sorted(alike.items()):
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        whose = f"{', '.join(sorted(names)[:SHOWN])}{more}" if more else listed(sorted(names))
        found.append(f"The T2 series of {whose} was chosen by its tags: {reason}.")
    return tuple(found)


def _by_pattern(fitting: Sequence[Series], pattern: str, place: str, key: str, candidates: Sequence[Series]) -> Choice:
    """Return the series that a pattern means: by description, and where that does not decide, by the other names."""
    meant = [series for series in fitting if re.search(pattern, series.description, re.IGNORECASE)]
    if len(meant) != 1:
        # A description that all of them have must not count again.
        first = (lambda one: "") if meant else (lambda one: f"{one.description}; ")
        texts = {one: f"{first(one)}{_identity(one, place)};" for one in meant or fitting}
        narrower = [one for one, text in texts.items() if re.search(pattern, text, re.IGNORECASE)]
        meant = narrower or meant
    if not meant:
        raise RelayError(f'No axial series in {place} matches "{pattern}" ({_names(candidates)}); change {key}.')
    left, why = _narrowed(meant)
    if len(left) > 1:
        raise _several(left, place, key, pattern)
    return Choice(left[0], why)


def _narrowed(series: Sequence[Series]) -> tuple[list[Series], str]:
    """Return the series left of several after their tags were compared, and what decided."""
    left, why = list(series), []
    rules: tuple[tuple[str, Callable[[Series], bool]], ...] = (
        ("of several, one has a description", lambda one: bool(one.description)),
        (
            "of several, one is neither a diffusion image nor a map",
            lambda one: not one.diffusion and not _is_other(one),
        ),
        ("of several, one is an original image", lambda one: "DERIVED" not in one.image_type),
        ("of several, one has the echo time of a T2", _shows_t2),
    )
    for said, rule in rules:
        kept = [one for one in left if rule(one)]
        if len(left) > 1 and kept and len(kept) < len(left):
            left = kept
            why.append(said)
    return left, "; ".join(why[1:] if why[:1] == [rules[0][0]] else why)


def _shows_t2(series: Series) -> bool:
    least, most = T2_ECHO_MS
    echo = series.echo_ms
    return echo is not None and least <= echo <= most and not series.diffusion and not _is_other(series)


def _is_other(series: Series) -> bool:
    return any(word in OTHER_WORDS for word in series.image_type)


def _several(left: Sequence[Series], place: str, key: str, pattern: str = "t2") -> RelayError:
    """Return the error about several series, with a pattern that the user can write: by the first name that differs."""
    texts = {series.description for series in left}
    if len(texts) == len(left):
        what, how = _names(left), "a regular expression for the SeriesDescription"
    else:
        shown = [f'"{one.description or "no description"}", {_identity(one, place)}' for one in left[:SHOWN]]
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        what = "; ".join(shown) + more
        how = f"by description, number, date, folder or UID, such as '{pattern}|{_suggestion(left, place)}'"
    return RelayError(f"{len(left)} series in {place} could be meant ({what}); say which with {key}, {how}.")


def _other_names(series: Series, place: str) -> dict[str, str]:
    """Return the names of a series besides its description: number, date, folder, UID."""
    folder = series.files[0].parent if series.files else Path()
    shown = str(folder.relative_to(place) if folder.is_relative_to(place) else folder)
    named = {"date": series.date, "number": series.number, "folder": shown, "UID": series.uid}
    return {name: value for name, value in named.items() if value not in ("", ".")}


def _identity(series: Series, place: str) -> str:
    return "; ".join(f"{name} {value}" for name, value in _other_names(series, place).items())


def _suggestion(left: Sequence[Series], place: str) -> str:
    """Return a pattern for the last of several series: by the first name in which it differs from all others."""
    *others, last = (_other_names(one, place) for one in left)
    for name, value in last.items():
        if all(other.get(name) != value for other in others):
            return f"{name} {re.escape(value)};"
    return "UID"


def _names(series: Sequence[Series]) -> str:
    def name(one: Series) -> str:
        echo = f", EchoTime {one.echo_ms:g} ms" if one.echo_ms else ""
        return f'"{one.description or "no description"}"{echo}'

    shown = sorted(map(name, series))
    return ", ".join(shown[: 3 * SHOWN]) + (f" and {count(len(shown) - 3 * SHOWN, 'other')}" if len(shown) > 12 else "")
