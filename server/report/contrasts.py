"""The planned comparison: the route selected by validation, against every other method.

The family of tests is fixed before any result is known: at each target and in each repeat, the route with the best
validation Dice against the selected fold of each other method. Each opponent has a single test, over the test patients
of all targets together, corrected for the number of opponents. Other routes are not opponents, since validation
compared them in its selection; neither are unadapted sources, of which each target has several.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from common.scores import DICE, Score
from common.seeds import seed_of
from common.statistics.hierarchical import Posterior, posterior
from common.statistics.intervals import FEWEST, FEWEST_A_SITE, Repeat, Strata, interval, slice_mean
from common.statistics.paired import LEVEL, better, difference, holm, sign_flip_p, smallest_p, standardised
from common.text import listed
from server.report.table import Comparison
from server.results.schema import Results, Row

ROUNDING = 0.01
"""Dice points by which a row's Dice may differ from the mean of its patients' Dice."""


@dataclass(frozen=True)
class Effect:
    """The difference between the selected route and an opponent, in Dice points."""

    difference: float | None
    """The route's Dice minus the opponent's."""
    ci95: tuple[float, float] | None = None
    better: int = 0
    """Patients for whom the route is better."""
    patients: int = 0
    """Patients with scores of their own; 0 if a hospital does not permit scores of single patients."""
    same_sign: tuple[int, int] | None = None
    """The number of repeats with a difference above zero, and of all repeats; None for a single repeat."""


@dataclass(frozen=True)
class Contrast:
    """The selected routes against an opponent."""

    opponent: str
    at: tuple[tuple[str, Effect], ...]
    """The effect at each target."""
    together: Effect
    """The effect in the mean over the targets."""
    standardised: float | None
    """The effect size d_z; see `common.statistics.paired.standardised`."""
    smallest: float
    """The smallest possible p for this number of patients."""
    p: float | None = None
    """The p before correction; None where no test is shown."""
    corrected: float | None = None
    """The p corrected by Holm's method; None where no test is shown."""
    few_rounds: bool = False
    """Whether the opponent is an average of too few rounds for a test (`server.report.table.FEWEST_ROUNDS`)."""
    posterior: Posterior | None = None
    """How probable a difference that matters is; None without scores of single patients, or with too few of them."""

    def where(self, target: str) -> Effect | None:
        """Return the effect at a target, or None."""
        return dict(self.at).get(target)


@dataclass(frozen=True)
class Family:
    """All contrasts of a network."""

    contrasts: tuple[Contrast, ...]
    problems: tuple[str, ...]
    """Why some targets are not compared, a sentence each."""
    without_scores: tuple[str, ...]
    """Hospitals at which scores of single patients are not permitted."""
    tests: bool
    """Whether tests are shown."""
    why_none: str
    """Why no tests are shown; empty if tests are shown."""
    attainable: float
    """The smallest possible corrected p for the family's patients."""
    repeats: int
    margin: float = 1.0
    """Differences up to this many points are practically none."""

    @property
    def shown(self) -> bool:
        """Whether the page has a section on the family."""
        return bool(self.contrasts or self.problems)


def family(results: Results, table: Comparison, *, testing: bool = True) -> Family:
    """Return all contrasts of a network.

    Args:
        results: the results of the network.
        table: the comparison of the network.
        testing: whether to test, and to tell how probable differences are; False for a network not selected by
            validation, whose effects are only described.
    """
    problems = dict(not_compared(results))
    repeats = len(results.repeats)
    seed = _study_seed(results)
    headline = {(row.target, row.repeat): row for row in results.headlines}
    contrasts = []
    for line in table.lines:
        cells = [cell for cell in line.cells if cell]
        kind = cells[0].row.kind
        if kind.routed or not kind.adapted:
            continue
        pairs: dict[str, list[tuple[Row, Row]]] = {}
        for cell in cells:
            target = cell.row.target
            # A row with absent sites does not represent its method.
            rows = [row for row in cell.rows if (target, row.repeat) in headline and not row.absent]
            found = [(headline[target, row.repeat], row) for row in rows]
            if (
                found
                and target not in problems
                and all(r.value(results.score) is not None for pair in found for r in pair)
            ):
                pairs[target] = found
        if pairs:
            margin = results.margin if testing else None
            made = _contrast(line.label, pairs, score=results.score, seed=seed, repeats=repeats, margin=margin)
            contrasts.append(replace(made, p=None, few_rounds=True) if any(c.has_few_rounds for c in cells) else made)
    without = tuple(
        target
        for target in table.targets
        if any(row.cases(results.score) is None for row in results.rows if row.target == target)
    )
    tested = _tested(contrasts, problems, without if contrasts else (), testing=testing, repeats=repeats)
    return replace(tested, margin=results.margin)


def controls(results: Results, table: Comparison) -> list[Contrast]:
    """Return the methods with more gradient steps than "longer", against the target alone with as many.

    The difference is the method's Dice minus the control's. No test is made: the family's tests are fixed beforehand.

    Args:
        results: the results of the network.
        table: the comparison of the network.
    """
    problems = dict(not_compared(results))
    own = {(row.method, row.target, row.repeat): row for row in results.rows if row.selected and not row.absent}
    found = []
    for line in table.lines:
        pairs: dict[str, list[tuple[Row, Row]]] = {}
        for cell in (cell for cell in line.cells if cell and cell.row.kind.control):
            target = cell.row.target
            of_repeats = [(row, own.get((row.kind.control, target, row.repeat))) for row in cell.rows if not row.absent]
            known = [(row, control) for row, control in of_repeats if control]
            scored = all(row.value(results.score) is not None for pair in known for row in pair)
            if known and scored and target not in problems:
                pairs[target] = known
        if pairs:
            contrast = _contrast(
                line.label,
                pairs,
                score=results.score,
                seed=_study_seed(results),
                repeats=len(results.repeats),
                margin=None,
            )
            found.append(replace(contrast, p=None))
    return found


def _contrast(
    opponent: str,
    pairs: dict[str, list[tuple[Row, Row]]],
    *,
    score: Score,
    seed: int,
    repeats: int,
    margin: float | None,
) -> Contrast:
    """Return the contrast with one opponent.

    Args:
        opponent: the name of the opponent.
        pairs: for each target and repeat, the row of the selected route and the row of the opponent.
        score: the Dice by which the study compares.
        seed: the study's seed.
        repeats: the number of repeats.
        margin: the study's `equivalence_margin`; None where the contrast is only described.
    """
    at, strata, means = [], {}, []
    for target, rows in pairs.items():
        gaps = [(one.value(score) or 0.0) - (other.value(score) or 0.0) for one, other in rows]
        sign = (sum(gap > 0 for gap in gaps), len(gaps)) if repeats > 1 else None
        means.append(statistics.fmean(gaps))
        found = differences(rows, score)
        if found is not None:
            strata[target] = found
            at.append((target, effect_of({target: found}, sign)))
        else:
            at.append((target, Effect(means[-1], same_sign=sign)))
    whole = len(strata) == len(pairs)
    return Contrast(
        opponent=opponent,
        at=tuple(at),
        together=effect_of(strata) if whole else Effect(statistics.fmean(means)),
        standardised=standardised(strata) if whole else None,
        smallest=smallest_p(better(strata)[1]) if whole else 1.0,
        p=sign_flip_p(strata, seed=seed_of(seed, opponent, "signs")) if whole else None,
        posterior=posterior(strata, margin=margin) if whole and margin is not None else None,
    )


def differences(pairs: Sequence[tuple[Row, Row]], score: Score) -> list[Repeat] | None:
    """Return the patients' differences between two rows, for each repeat.

    None where a hospital does not permit scores of single patients.

    Args:
        pairs: for each repeat, two rows of a target.
        score: the Dice by which the study compares.
    """
    if any(row.cases(score) is None for pair in pairs for row in pair):
        return None
    return [difference(_scores(one, score), _scores(other, score)) for one, other in pairs]


def effect_of(strata: Strata, sign: tuple[int, int] | None = None) -> Effect:
    """Return the effect with its interval, from the patients' differences by site."""
    wins, patients = better(strata)
    return Effect(slice_mean(strata), interval(strata, within=(-100.0, 100.0)), wins, patients, sign)


def _tested(
    contrasts: list[Contrast], problems: dict[str, str], without: tuple[str, ...], *, testing: bool, repeats: int
) -> Family:
    """Return the family with corrected p values, or without p values and with the reason."""
    opponents = [contrast for contrast in contrasts if not contrast.few_rounds]
    attainable = min(1.0, len(opponents) * max((contrast.smallest for contrast in opponents), default=1.0))
    if not testing:
        why = "No test is shown: this is not the network that validation chose."
    elif without:
        one = len(without) == 1
        why = f"No test is shown: {listed(without)} {'lets' if one else 'let'} no figures of single patients leave."
    elif attainable > LEVEL:
        why = (
            f"No test is shown: with these patients no corrected p could fall below {LEVEL:g},"
            " whatever the methods had done."
        )
    else:
        why = ""
    if why or not opponents:
        stripped = tuple(replace(contrast, p=None) for contrast in contrasts)
        return Family(stripped, tuple(problems.values()), without, False, why, attainable, repeats)
    values = holm([contrast.p if contrast.p is not None else 1.0 for contrast in opponents])
    corrected = {contrast.opponent: value for contrast, value in zip(opponents, values, strict=True)}
    return Family(
        tuple(replace(contrast, corrected=corrected.get(contrast.opponent)) for contrast in contrasts),
        tuple(problems.values()),
        without,
        True,
        "",
        attainable,
        repeats,
    )


def _scores(row: Row, score: Score) -> Repeat:
    """Return the Dice and the weight of a row's test patients, by case number."""
    return {case: (value, weight) for case, (value, weight) in (row.cases(score) or {}).items() if value is not None}


def not_compared(results: Results) -> Iterable[tuple[str, str]]:
    """Yield each target whose rows cannot be compared, and the reason.

    Rows must have been scored on the same slices of the same patients, and the Dice of a row's patients must add up to
    the row's Dice.
    """
    by_target: dict[str, list[Row]] = defaultdict(list)
    score = results.score
    for row in results.rows:
        if row.value(score) is not None:
            by_target[row.target].append(row)
    for target, rows in by_target.items():
        counted: dict[tuple[int, int], set[tuple[int | None, int | None]]] = defaultdict(set)
        cases: dict[tuple[int, int], set[tuple[tuple[str, int], ...]]] = defaultdict(set)
        of_patient: dict[str, set[int]] = defaultdict(set)
        for row in rows:
            counted[row.repeat].add((row.patients, row.slices))
            slices = row.case_slices or {}
            values = row.case_dice if score is DICE else row.case_dice_volume
            if values is None:
                continue
            if values.keys() != slices.keys() or None in values.values():
                yield target, f"{target} is not compared: a patient's Dice or slices are missing in its rows."
                break
            cases[row.repeat].add(tuple(sorted(slices.items())))
            for case, number in slices.items():
                of_patient[case].add(number)
            mean = slice_mean({target: [_scores(row, score)]})
            if mean is not None and abs(mean - (row.value(score) or 0.0)) > ROUNDING:
                yield target, f"{target} is not compared: its patients' figures do not add up to the row's Dice."
                break
        else:
            if any(len(found) > 1 for found in counted.values()) or any(len(found) > 1 for found in cases.values()):
                why = "its rows were not scored on the same slices of the same patients"
                yield target, f"{target} is not compared: {why}."
            elif any(len(found) > 1 for found in of_patient.values()):
                yield target, f"{target} is not compared: a patient's slices differ between repeats."


def _study_seed(results: Results) -> int:
    seed = results.study.get("seed")
    return seed if isinstance(seed, int) else 0


def own_interval(results: Results, rows: tuple[Row, ...]) -> tuple[float, float] | None:
    """Return the confidence interval of a method's Dice at a target, over all its repeats, in per cent."""
    if any(row.cases(results.score) is None for row in rows):
        return rows[0].ci95 if len(rows) == 1 else None
    target = rows[0].target
    return interval({target: [_scores(row, results.score) for row in rows]}, within=(0.0, 100.0))


def why_no_interval(family: Family) -> str:
    """Return why some effects of a family have no interval; empty if every effect has an interval."""
    effects = [(target, effect) for contrast in family.contrasts for target, effect in contrast.at]
    few = dict.fromkeys(target for target, e in effects if e.patients and e.patients < FEWEST)
    reasons = []
    if few:
        reasons.append(f"it needs {FEWEST} patients ({', '.join(few)}), over several hospitals {FEWEST_A_SITE} at each")
    if family.without_scores:
        reasons.append(f"it needs the figures of single patients ({', '.join(family.without_scores)})")
    return "; ".join(reasons)
