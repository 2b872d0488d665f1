"""Tell what gains a study could show before the study runs, from the patients counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.splits import split
from common.config.study import Study
from common.statistics.intervals import FEWEST
from common.statistics.paired import LEVEL
from common.statistics.power import POWER, patients_for, smallest_gain
from common.text import count, percent
from server.report.networks import best_network
from server.report.verdicts import measured_sd
from server.results.reading import read_results

DEVIATION = 2.0
"""The standard deviation of paired differences where none was measured, in Dice points."""
POINT = 1.0
"""The gain, in Dice points, for which the number of patients is told."""


@dataclass(frozen=True)
class Patients:
    """The patients of a site."""

    all: int
    test: int
    """Patients held out in a repeat, or in a rotation of a repeat."""


@dataclass(frozen=True)
class TargetPower:
    """What a study could show at a target; None where the site's patients are not known."""

    target: str
    patients: int | None
    test_patients: int | None
    """Patients held out in any repeat of the study; for several repeats the expected number."""
    sd: float
    """The standard deviation of paired differences, in Dice points."""
    measured: bool
    """Whether the deviation was measured in an earlier study."""
    smallest_gain: float | None
    """The smallest true gain that is shown with 80 % power, in Dice points; None with fewer than two test patients."""
    patients_for_one_point: int
    """Test patients with whom a true gain of one point is shown with 80 % power; six at least, as the report needs."""
    repeats_for_one_point: int | None
    """Repeats that are expected to hold out so many patients; None where the site has fewer."""


def patients_elsewhere(patients: int, study: Study, site: str) -> Patients:
    """Return the patients of a site elsewhere, divided as a plain study, from `Study.variants`, divides them.

    Raises:
        RelayError: there are too few patients for the study's folds.
    """
    divided = split(map(str, range(patients)), study.split, site=site)
    return Patients(patients, len(divided.test))


def measured_in(folder: Path | None) -> dict[str, float]:
    """Return by target the standard deviation of paired differences in a result folder; empty without a folder.

    Raises:
        RelayError: the folder holds no results.json, or results.json cannot be read.
    """
    if folder is None:
        return {}
    results = read_results(folder)
    return measured_sd(results.of_model(best_network(results)) if len(results.models) > 1 else results)


def power_lines(
    study: Study, targets: Sequence[str], patients: Mapping[str, Patients], *, sd: float, measured: Mapping[str, float]
) -> list[TargetPower]:
    """Return what the study could show at each target; nothing for a study without test patients.

    Args:
        study: the study.
        targets: the sites at which methods are compared.
        patients: the patients of each site, where known.
        sd: the standard deviation of paired differences where none was measured, in Dice points, above 0.
        measured: measured deviations, by target.
    """
    if study.methods.scored_on != "test":
        return []
    lines = []
    for target in targets:
        deviation = measured.get(target) or sd  # all differences alike say nothing of other patients
        need, known = max(FEWEST, patients_for(POINT, deviation)), patients.get(target)
        if known and len(study.split.turns) > 1:
            known = Patients(known.all, known.all)  # every patient is tested, whatever the split
        tested = _held_out(known, study.repeats) if known else None
        lines.append(
            TargetPower(
                target=target,
                patients=known.all if known else None,
                test_patients=tested,
                sd=deviation,
                measured=bool(measured.get(target)),
                smallest_gain=smallest_gain(tested, deviation) if tested is not None else None,
                patients_for_one_point=need,
                repeats_for_one_point=_repeats_for(need, known) if known else None,
            )
        )
    return lines


def _held_out(patients: Patients, repeats: int) -> int:
    """Return the expected number of patients held out in any of some repeats, which draw independently."""
    return round(patients.all * (1 - (1 - patients.test / patients.all) ** repeats))


def _repeats_for(need: int, patients: Patients) -> int | None:
    """Return the repeats that are expected to hold out so many patients; None where the site has fewer."""
    if need > patients.all:
        return None
    # The expected number is rounded: nothing is certain to hold out the last patient.
    if patients.test == patients.all:
        return 1
    kept = min(1.0, (patients.all - need + 0.5) / patients.all)
    return max(1, math.ceil(math.log(kept) / math.log(1 - patients.test / patients.all) - 1e-9))


def power_text(study: Study, lines: Sequence[TargetPower]) -> Iterator[str]:
    """Yield what the study could show, in lines for people."""
    if not lines:
        yield "No test patient is looked at, so the study can show no gain; it only chooses."
        return
    yield (
        f"Smallest gain that the study could show with {percent(POWER, 0)} power (paired test over the test patients of"
        f" a target, two-sided {percent(LEVEL, 0)}):"
    )
    for line in lines:
        yield f"{line.target}: {_line_text(line, study.repeats)}."
    few = [line for line in lines if line.test_patients is not None and line.test_patients < FEWEST]
    if few:
        yield (
            f"With fewer than {FEWEST} test patients the report shows no interval, and the letter advises the"
            f" hospital's own model ({', '.join(line.target for line in few)})."
        )


def _line_text(line: TargetPower, repeats: int) -> str:
    how = f"standard deviation of differences {line.sd:.2g} points, {'measured' if line.measured else 'assumed'}"
    need = f"one point takes {count(line.patients_for_one_point, 'test patient')}"
    if line.patients is None or line.test_patients is None:
        return f"the patients are not known, add --patients {line.target}=N; {need} ({how})"
    tested = count(line.test_patients, "test patient") + (f" in {repeats} repeats" if repeats > 1 else "")
    if line.repeats_for_one_point is None:
        need += f", and the site has {line.patients}"
    elif line.repeats_for_one_point > 1:
        need += f", about {line.repeats_for_one_point} repeats"
    if line.smallest_gain is None:
        return f"none, with {tested}; {need} ({how})"
    return f"{line.smallest_gain:.1f} Dice points, with {tested}; {need} ({how})"
