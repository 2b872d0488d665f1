"""The letter of one page on whether the study brought this hospital a better model. The letter stays at the hospital.

The rule was fixed before any figure was known, and is stated in the letter. Validation chooses the study's model and,
among the models trained at this hospital alone, the hospital's own. The hospital's test patients judge between the two,
patient by patient. The letter says that taking part helped only if the interval of the difference lies wholly above
zero, and the mean volume Dice is not lower either. In every other case the letter advises the hospital's own model,
which has not been shown to be worse and needs no other hospital.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.delivery.model_card import (
    NO_DEVICE,
    Card,
    CurveBin,
    Figure,
    Reference,
    Scores,
    figure_text,
    name_of,
    number,
    rotation_text,
    weights_files,
    zones_text,
)
from client.delivery.model_card_text import SYNTHETIC, environment, score_cells
from client.delivery.store import Arrival, Outcome
from client.evaluation.calibration import MARGIN_MM
from common.plan import method_of
from common.scores import DICE, DISTANCES, OVERLAPS, SCORES, Score, deciding
from common.statistics.intervals import FEWEST, METHOD
from common.statistics.verdict import Gain, judged, untold, verdict_sentence
from common.text import count, listed

Verdict = Literal["better", "not-whole", "worse", "own", "not-shown", "too-few", "unknown"]

MODEL, OWN_MODEL = "model.safetensors", "own-model.safetensors"
WIDTH = 88
"""Columns of the letter as plain text."""


@dataclass(frozen=True)
class Picture:
    """The test patients' differences on a line, in the picture's units."""

    zero: float
    dots: tuple[tuple[float, float], ...]
    """x and y of each patient; patients with nearly the same x lie above each other."""
    mean: float
    interval: tuple[float, float] | None
    ticks: tuple[tuple[float, str], ...]
    width: int = 560
    height: int = 96
    line: int = 46


@dataclass(frozen=True)
class Curves:
    """The reliability curves of one or two models, in the picture's units.

    Probability runs to the right from 0, the share of gland upwards from `size` to 0.
    """

    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    """The name and points of each model, the study's model first."""
    ticks: tuple[tuple[float, str], ...]
    """Places along the probability, with their labels; along the share of gland the place is `size` less this one."""
    size: int = 150


@dataclass(frozen=True)
class Letter:
    """The content of the letter as page and as plain text."""

    verdict: Verdict
    site: str
    study: str
    date: str
    heading: str
    reasons: tuple[str, ...]
    columns: tuple[Score, ...]
    rows: tuple[tuple[str, tuple[Figure | None, ...]], ...]
    """The name and scores of each model, the study's model first; scores are in the order of the columns."""
    below: str
    """The text below the table, which explains its figures."""
    picture: Picture | None
    picture_text: str
    calibration: tuple[str, ...]
    """How far the probabilities can be believed; empty where it is not on record."""
    curves: Curves | None
    decided: tuple[str, ...]
    files: tuple[tuple[str, str], ...]
    command: str
    limits: tuple[str, ...]


def verdict_of(card: Card, own: Reference | None) -> Verdict:
    """Return the test patients' verdict on the model that validation chose.

    Args:
        card: the card of the model that validation chose.
        own: the hospital's own model, chosen by validation; None where the own model is unknown.
    """
    if method_of(card.method).alone:
        return "own"
    if own is None or own.ahead is None:
        return "unknown"
    ends = _ends(own.ahead)
    if ends is None:
        return "too-few"
    found = judged(ends)
    if found == "helped" and own.volume_ahead is not None and own.volume_ahead.mean < 0:
        return "not-whole"
    return "better" if found == "helped" else "worse" if found == "hurt" else "not-shown"


def reference_of(outcome: Outcome) -> Reference | None:
    """Return the hospital's own model among the references of the selected model's card; None where missing."""
    own = outcome.own
    return next((one for one in outcome.selected.card.references if own and one.weights == own.card.weights), None)


def letter(outcome: Outcome) -> Letter:
    """Write the letter on a study's outcome."""
    card, reference = outcome.selected.card, reference_of(outcome)
    verdict = verdict_of(card, reference)
    differences = outcome.selected.differences.get(reference.method, ()) if reference else ()
    way = name_of(card.method, card.route, card.site)
    models = [(way, card.scores)]
    models += [
        (name_of(one.method, (), card.site), one.scores) for one in card.references if one.weights != card.weights
    ]
    picture, picture_text = None, ""
    if reference and reference.ahead and differences:
        picture = _picture(differences, reference.ahead)
        picture_text = (
            f"Each dot is one of your test patients: {deciding(card.training.slices).title} of “{way}” minus that of"
            f" “{name_of(reference.method, (), card.site)}”, in points."
        )
    compared = [models[0], *((name_of(one.method, (), card.site), one.scores) for one in [reference] if one)]
    calibrated = [(name, scores) for name, scores in compared if scores and scores.calibration_error]
    files = _files(outcome, verdict)
    return Letter(
        verdict=verdict,
        site=card.site,
        study=card.study,
        date=card.received[:10],
        heading=_heading(verdict, card.site),
        reasons=tuple(_reasons(verdict, card, reference, differences)),
        columns=SCORES,
        rows=tuple((name, score_cells(scores)) for name, scores in models if scores),
        below=" ".join(filter(None, (_below(card), _false_slices(models), _zones(models)))) if card.scores else "",
        picture=picture,
        picture_text=picture_text,
        calibration=tuple(_calibration(calibrated)),
        curves=_curves(calibrated),
        decided=tuple(_decided(card)),
        files=files,
        command=f"relay predict {files[0][0]} SERIES -o mask.nii.gz",
        limits=(NO_DEVICE, *([SYNTHETIC] if card.synthetic else [])),
    )


def _files(outcome: Outcome, verdict: Verdict) -> tuple[tuple[str, str], ...]:
    """Return the files beside the letter, each with its description; the weights that the letter advises come first."""
    way = name_of(outcome.selected.card.method, outcome.selected.card.route, outcome.selected.card.site)
    whose = "your own" if verdict == "own" else "the study's"
    weights = [(_names(MODEL, outcome.selected), f"{whose} model: {way}")]
    if outcome.own:
        own = name_of(outcome.own.card.method, (), outcome.own.card.site)
        weights.append((_names(OWN_MODEL, outcome.own), f"your own model: {own}"))
    if verdict != "better":
        weights.reverse()
    return (
        *weights,
        ("*-card.md, *-card.json", "the model card of each, for people and for programs; keep it beside the weights"),
        ("letter.html, letter.txt", "this letter; it stays at your hospital"),
    )


def _names(name: str, arrival: Arrival) -> str:
    """Return the names of the files of a model's weights, several of an ensemble."""
    return " ".join(file.name for file in weights_files(Path(name), len(arrival.files)))


def _heading(verdict: Verdict, site: str) -> str:
    if verdict == "better":
        return f"Taking part brought hospital {site} a better model."
    if verdict in ("not-shown", "too-few"):
        return "Keep your own model: taking part has not been shown to help."
    if verdict == "unknown":
        return "Keep your own model: nothing here shows that taking part helped."
    if verdict == "not-whole":
        return "Keep your own model: on whole volumes the study's is worse."
    return "Keep your own model: taking part brought nothing better."


def _reasons(verdict: Verdict, card: Card, own: Reference | None, differences: Sequence[float]) -> Iterator[str]:
    way = name_of(card.method, card.route, card.site)
    if verdict == "own":
        yield (
            f"Of all models of the study, your own validation patients chose one that was trained at your hospital"
            f" alone, “{way}”. None in which another hospital had a part did better there."
        )
        return
    what = "handing on" if method_of(card.method).travelling else "taking part"
    if own is None or own.ahead is None:
        yield untold(card.site, what)
        yield f"Of all models of the study, your own validation patients chose “{way}”."
        yield (
            "The study trained no model on your patients alone or looked at no test patient, or the scores are no"
            " longer on record: so nothing can be compared."
        )
        return
    ahead, score = own.ahead, deciding(card.training.slices)
    yield verdict_sentence(card.site, what, _gain(ahead, own.volume_ahead, score), score.title, card.equivalence_margin)
    yield f"Of all models of the study, your own validation patients chose “{way}”."
    better = sum(value > 0 for value in differences)
    better_for = {0: "none", len(differences): "all"}.get(better, str(better))
    yield (
        f"On your {count(ahead.patients, 'test patient')} its {score.title} is {number(abs(ahead.mean))} points"
        f" {'higher' if ahead.mean >= 0 else 'lower'} than that of the best model trained on your patients alone,"
        f" “{name_of(own.method, (), card.site)}”; it is higher for {better_for} of them."
    )
    if verdict == "too-few":
        yield (
            f"With fewer than {FEWEST} test patients no such difference can be told from chance, however"
            " large it is. Your own model is as good a choice."
        )
    else:
        meaning = {
            "better": "lies wholly above zero: for patients like these it is better.",
            "not-whole": "lies wholly above zero, on selected slices.",
            "worse": "lies wholly below zero: for patients like these your own is better.",
        }.get(verdict, "holds zero: this may be chance. Your own model is as good a choice.")
        yield f"The interval of the difference {meaning}"
    if verdict == "not-whole" and own.volume_ahead is not None:
        yield (
            f"But over whole volumes its Dice is {number(abs(own.volume_ahead.mean))} points lower, and a whole volume"
            " is what the model will draw."
        )
    if not any(method_of(one.method).longer for one in card.references):
        yield (
            "Your own model had fewer gradient steps than a route gives: what looks like a gain may be longer training"
            " alone."
        )


def _gain(ahead: Figure, volume_ahead: Figure | None, score: Score) -> Gain:
    """Return a difference in the form of the report's first paragraph."""
    volume = volume_ahead.mean if volume_ahead and score is DICE else None
    return Gain(ahead.mean, _ends(ahead), ahead.patients, volume)


def _ends(ahead: Figure) -> tuple[float, float] | None:
    """Return the ends of a difference's interval, or None."""
    return None if ahead.low is None or ahead.high is None else (ahead.low, ahead.high)


def _below(card: Card) -> str:
    scores = card.scores
    behind = f"{count(scores.dice.patients, 'test patient')}, {scores.slices} selected slices. " if scores else ""
    intervals = "With 95 % intervals over patients." if scores and scores.dice.low is not None else ""
    return (
        f"{behind}{_listed(OVERLAPS)} in per cent: overlap with your experts' outlines, 100 is perfect."
        f" {_listed(DISTANCES)} in mm: distance of the surfaces, 0 is perfect. {intervals}".strip()
    )


def _false_slices(models: Sequence[tuple[str, Scores | None]]) -> str:
    """Return in how many slices without gland each model draws gland; empty where it is not on record."""
    known = [(name, scores) for name, scores in models if scores and scores.empty_slices]
    if not known:
        return ""
    drawn = ", ".join(f"“{name}” in {scores.false_slices}" for name, scores in known)
    return f"Of {known[0][1].empty_slices} slices without gland, gland is drawn by {drawn}."


def _zones(models: Sequence[tuple[str, Scores | None]]) -> str:
    """Return each model's Dice of the zones; empty where there is none."""
    return " ".join(filter(None, (zones_text(f"“{name}”", scores) for name, scores in models)))


def _listed(scores: Sequence[Score]) -> str:
    """Return the scores' titles as a list in words, such as "Dice, IoU and volume Dice"."""
    *others, last = (score.title for score in scores)
    return f"{', '.join(others)} and {last}"


def _decided(card: Card) -> Iterator[str]:
    score = deciding(card.training.slices)
    checked = (
        "Your site's own record of this network's validation scores chooses the same."
        if card.checked
        else "The choice is the coordinator's: your site has not all validation scores on record."
    )
    if card.left_out:
        checked += (
            f" {card.left_out} of the study's models could not be selected, since a hospital that they need was away."
        )
    yield (
        "Your validation patients chose the study's model among all methods, and your own among those trained at your"
        " hospital alone, for the epochs of one stage or for the gradient steps of the longest route. Your test"
        " patients, on whom no model was trained and who chose nothing, judge between the two, patient by patient,"
        f" by {score.title}{', each weighted by its slices' if score.over == 'slices' else ''}. {checked}"
    )
    yield (
        "We say that taking part helped only if the 95 % interval of the mean difference lies wholly above zero"
        f"{', and the mean volume Dice is not lower either' if score.over == 'slices' else ''}; in all"
        " other cases we advise to keep your own model. The interval needs"
        f" {FEWEST} patients; it is {METHOD}. It speaks of patients like these, not of another split or another"
        " training."
    )
    if card.own_tensors:
        yield (
            f"{count(card.own_tensors, 'tensor')} of the study's model never left your hospital, and the coordinator"
            " has no copy of them: keep the model's file."
        )
    if rotation := rotation_text(card):
        yield rotation
    took = ", ".join(f"{one.name} ({count(one.patients, 'patient')})" for one in card.hospitals)
    yield (
        f"Took part: {took}. “Your own model” is the one that this study trained on your patients alone; no other that"
        " you may use was compared."
    )


def _calibration(models: Sequence[tuple[str, Scores]]) -> Iterator[str]:
    """Yield sentences on the calibration of the models' probabilities; none where it is not on record."""
    if not models:
        return
    errors = listed(f"{figure_text(scores.calibration_error)} % with “{name}”" for name, scores in models)
    yield (
        "A model gives each voxel a probability of gland: where it says 80 %, four in five voxels should be gland. By"
        f" how much the two differ in the mean, the calibration error, is {errors}; 0 is perfect. It is measured up to"
        f" {MARGIN_MM:g} mm beyond the box around the gland, for farther away any model is sure and right. Nothing was"
        " chosen by it."
    )
    name, scores = models[0]
    if scores.reliability:
        surest = scores.reliability[-1]
        yield (
            f"Where “{name}” gives {surest.low:.0f} to {surest.high:.0f} %, {number(surest.gland, 0)} % of the voxels"
            " are gland."
        )


def _curves(models: Sequence[tuple[str, Scores]]) -> Curves | None:
    """Return the reliability curves of the models; None where there is none."""
    size = Curves.size

    def point(one: CurveBin) -> tuple[float, float]:
        return round(one.probability * size / 100, 1), round(size - one.gland * size / 100, 1)

    lines = tuple((name, tuple(map(point, scores.reliability))) for name, scores in models if scores.reliability)
    ticks = tuple((share * size / 100, f"{share} %") for share in (0, 50, 100))
    return Curves(lines, ticks) if lines else None


def _picture(differences: Sequence[float], ahead: Figure) -> Picture:
    ends = [0.0, *differences, *(value for value in (ahead.low, ahead.high) if value is not None)]
    step = next((s for s in (0.5, 1, 2, 5, 10, 20, 50) if (max(ends) - min(ends)) / s <= 7), 100)
    low, high = step * (min(ends) // step), step * (-(-max(ends) // step))
    high = max(high, low + step)

    def x(value: float) -> float:
        return round(20 + (value - low) / (high - low) * (Picture.width - 40), 1)

    dots: list[tuple[float, float]] = []
    for value in sorted(differences):
        y = 22.0
        while any(abs(x(value) - other) < 9 and y == height for other, height in dots):
            y -= 9
        dots.append((x(value), y))
    marks = [low + step * k for k in range(round((high - low) / step) + 1)]
    interval = None
    if ahead.low is not None and ahead.high is not None:
        interval = x(ahead.low), x(ahead.high)
    ticks = tuple((x(mark), number(mark, 0 if step >= 1 else 1, sign=True)) for mark in marks)
    return Picture(zero=x(0.0), dots=tuple(dots), mean=x(ahead.mean), interval=interval, ticks=ticks)


def html(content: Letter) -> str:
    """Return the letter as an HTML page that loads nothing from elsewhere."""
    return environment(autoescape=True).get_template("letter.html.j2").render(letter=content)


def text(content: Letter) -> str:
    """Return the letter as plain text, without the picture."""
    return environment().get_template("letter.txt.j2").render(letter=content, width=WIDTH)
