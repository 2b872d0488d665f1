"""Evidence on whether a mask fits its image as the mask lies, or would fit better after a move.

Likeness. Across its outline a correct mask shows, piece by piece, the same tissue as the other patients' masks:
capsule, fat, the rectum's wall. A piece's likeness is the correlation of its strip with the mean strip of the other
patients at the same place of the gland (sector and level, neighbouring levels included; both sides of the body
together): 1 for the same, 0 for chance. A patient never contributes to the mean strips with which the patient is
compared. The correlation depends on where along the strip the image is brighter, not on how bright the image is, so
coil and scaling do not matter.

Advantage. Two ways to lay a mask are compared piece by piece, since each piece of the outline exists in both. The
pieces' differences are averaged over blocks of BLOCK_MM of height, since neighbouring pieces say the same, and the mean
over blocks is divided by its standard error: `advantage`. A move is believed where its advantage is at least ENOUGH. A
correct mask fits best as it lies, so the expected advantage of any move that changes a correct mask is below 0. With an
expected advantage of 0, as for an image that shows nothing, chance alone would exceed 3 once in 700 comparisons.
Another rule also excludes images that show nothing: a move has to reach half of the likeness usual at the site, and
LEAST_LIKENESS.

Position. The place of the gland's middle, relative to the image's middle, is compared with the other patients', in
robust deviations. In comparisons of a mask with its mirror image the position may add or subtract up to LEAN; alone
the position decides nothing.

Hidden. A move cannot be seen if the Dice between the mask before and after the move is above HIDDEN: two experts'
outlines of the same gland differ by as much. Hidden moves depend on the mask alone, never on the image or on findings.

A whole site may be wrong in the same way, and then the other patients are no standard. All masks moved together are
therefore compared with all masks as they lie, each with its own mean strips: correct masks make patients agree better.
The sum of the patients' advantages over the square root of their number has to reach ALL_TOGETHER.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.data_check.findings import Kind
from client.data_check.moves import GIVEN, Move
from client.data_check.outline import LEVELS, OFFSETS, SECTORS, Floats, Strips, Whole
from client.data_check.trials import Outlined

HIDDEN = 0.95
ENOUGH = 3.0
ENOUGH_BY_EDGES = 4.0
"""The value of ENOUGH where too few patients are known for likeness, so that edges alone are compared."""
LEAN = 1.0
LEAST_LIKENESS = 0.2
ALL_TOGETHER = 5.0
SHARE_TOGETHER = 0.75
"""The share of patients that have to agree with a verdict on the whole site."""
FEWEST_PATIENTS = 4
"""The least number of patients with which a patient is compared with the others."""
FEWEST_PIECES = 24
"""The least number of outline pieces for a verdict on a mask."""
BLOCK_MM = 5.0
ROUNDS = 4


@dataclass(frozen=True)
class Moved:
    """A mask that would fit its image better after a move."""

    move: Move
    advantage: float
    likeness: float
    """Mean over pieces after the move, from -1 to 1."""
    given: float
    """Mean over pieces before the move. Where `by_edges`, `likeness` and `given` are strengths of edges."""
    better: float
    """The share of pieces that fit better after the move."""
    away: float
    """Millimetres from the other patients' usual place to the gland's middle after the move; `given_away`: before the
    move."""
    given_away: float
    by_edges: bool


@dataclass(frozen=True, eq=False)
class Verdict:
    """The verdict on a site's patients, from the outlines of their masks."""

    together: Move | None
    """The move with which most of the site's masks fit better; None where no move corrects most masks."""
    moved: Mapping[str, Moved]
    """By patient."""
    upside_down: Mapping[str, tuple[Move, float]]
    """Patients whose image and mask both lie in another way than the others', with the move and its advantage."""
    advantages: Mapping[str, Mapping[Move, float]]
    """By patient: the advantage of each move that is not hidden (see above), over the mask without a move."""
    undecided: Mapping[str, frozenset[Kind]]
    """By patient: the kinds of moves that are not hidden, and whose mask the image does not tell from the unmoved mask.
    """
    likeness: Mapping[str, float]
    """By patient, for the unmoved mask; empty where edges alone were used."""
    means: Mapping[str, Floats]
    """By patient: the mean strips of the other patients, (LEVELS, SECTORS, offsets); empty where edges alone were used.
    """


def judge(patients: Sequence[Outlined]) -> Verdict:
    """Compare each patient's mask, unmoved and after each move, with the patient's image."""
    known = [patient for patient in patients if patient.line.pieces >= FEWEST_PIECES]
    mute = {
        patient.patient: frozenset(move.kind for move in _visible(patient))
        for patient in patients
        if patient.line.pieces < FEWEST_PIECES
    }
    if len(known) < FEWEST_PATIENTS:
        return _by_edges(known, mute)
    together = _together(known)
    base = together or GIVEN
    selected = dict.fromkeys((patient.patient for patient in known), base)
    for _ in range(ROUNDS):
        means = _others_means(known, selected)
        usual = float(np.median([_mean(p.strips[selected[p.patient]], means[p.patient]) for p in known]))
        places = {patient.patient: patient.middle[selected[patient.patient]] for patient in known}
        best = {
            patient.patient: _best(patient, means[patient.patient], places, usual, relative_to=base)
            for patient in known
        }
        before, selected = selected, {name: found.move if found else base for name, found in best.items()}
        if selected == before:
            break
    moved, advantages, undecided = {}, {}, dict(mute)
    for patient in known:
        name, mean = patient.patient, means[patient.patient]
        found = _best(patient, mean, places, usual, relative_to=GIVEN)
        if found:
            moved[name] = found
        advantages[name] = {move: _advantage(patient, mean, move, GIVEN) for move in _visible(patient)}
        undecided[name] = frozenset(
            move.kind for move, gain in advantages[name].items() if abs(gain) < ENOUGH or usual < LEAST_LIKENESS
        )
    return Verdict(
        together=together,
        advantages=advantages,
        moved=moved,
        upside_down=_upside_down(known, means, moved, usual),
        undecided=undecided,
        likeness={patient.patient: _mean(patient.strips[GIVEN], means[patient.patient]) for patient in known},
        means=means,
    )


def likeness(strips: Strips, means: Floats) -> Floats:
    """Return each piece's likeness to the other patients' mean strips.

    Args:
        strips: the image across an outline.
        means: the mean strips, (LEVELS, SECTORS, offsets).

    Returns:
        (pieces,), from -1 to 1; 0 where a piece lies outside of the image.
    """
    expected = means[strips.level, strips.sector]
    return np.where(strips.inside, (strips.values * expected).mean(axis=1), 0.0)


def advantage(differences: Floats, height: Whole, sector: Whole, step: float) -> float:
    """Return the mean of the pieces' differences over its standard error, taken over blocks.

    A block is the part of one sector within BLOCK_MM of height.

    Args:
        differences: (pieces,).
        height: (pieces,), the slice of each piece.
        sector: (pieces,), the sector of each piece.
        step: millimetres from slice to slice.
    """
    slices = max(1, round(BLOCK_MM / step))
    _, block, count = np.unique((height // slices) * SECTORS + sector, return_inverse=True, return_counts=True)
    if len(count) < 2:
        return 0.0
    values = np.bincount(block, differences) / count
    weight = count / count.sum()
    mean = float((weight * values).sum())
    squares = float((weight**2).sum())
    variance = float((weight * (values - mean) ** 2).sum()) / (1 - squares)
    return mean / float(np.sqrt(variance * squares) + 1e-9)


def _visible(patient: Outlined) -> list[Move]:
    return [move for move, dice in patient.dice.items() if dice <= HIDDEN]


def _mean(strips: Strips, means: Floats) -> float:
    return float(likeness(strips, means).mean())


def _advantage(patient: Outlined, means: Floats, move: Move, other: Move) -> float:
    differences = likeness(patient.strips[move], means) - likeness(patient.strips[other], means)
    return advantage(differences, patient.line.height, patient.line.sector, patient.step)


def _best(
    patient: Outlined, means: Floats, places: Mapping[str, Floats], usual: float, *, relative_to: Move
) -> Moved | None:
    """Return the move after which the mask fits best, if clearly better than after `relative_to`; else None."""
    others = np.array([place for name, place in places.items() if name != patient.patient])
    centre = np.median(others, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(others - centre), axis=0), np.maximum(3.0, (patient.step, 0, 0)))

    def away(move: Move) -> float:
        return float(np.linalg.norm((patient.middle[move] - centre) / spread))

    as_given = likeness(patient.strips[relative_to], means)
    found: list[Moved] = []
    for move in (GIVEN, *_visible(patient)):
        if move == relative_to:
            continue
        there = likeness(patient.strips[move], means)
        lean = 0.0 if move.shift else float(np.clip(away(relative_to) - away(move), -LEAN, LEAN))
        gain = advantage(there - as_given, patient.line.height, patient.line.sector, patient.step) + lean
        if gain < ENOUGH or there.mean() < max(LEAST_LIKENESS, usual / 2):
            continue
        found.append(
            Moved(
                move=move,
                advantage=gain,
                likeness=float(there.mean()),
                given=float(as_given.mean()),
                better=float((there > as_given).mean()),
                away=float(np.linalg.norm(patient.middle[move] - centre)),
                given_away=float(np.linalg.norm(patient.middle[relative_to] - centre)),
                by_edges=False,
            )
        )
    simple = max((one for one in found if one.move.kind is not Kind.TURNED), key=lambda one: one.likeness, default=None)
    turned = max((one for one in found if one.move.kind is Kind.TURNED), key=lambda one: one.likeness, default=None)
    if simple and turned:
        # A turned mask is the rarer mistake, and selected only if clearly the better explanation.
        return turned if _advantage(patient, means, turned.move, simple.move) >= ENOUGH else simple
    return simple or turned


def _together(patients: Sequence[Outlined]) -> Move | None:
    """Return the move of all masks together after which they agree better; None where no move does."""
    given = dict.fromkeys((patient.patient for patient in patients), GIVEN)
    as_given = _others_means(patients, given)
    best: tuple[float, Move] | None = None
    for move in set.intersection(*(set(patient.strips) for patient in patients)) - {GIVEN}:
        means = _others_means(patients, dict.fromkeys(given, move))
        gains = np.array(
            [
                advantage(
                    likeness(patient.strips[move], means[patient.patient])
                    - likeness(patient.strips[GIVEN], as_given[patient.patient]),
                    patient.line.height,
                    patient.line.sector,
                    patient.step,
                )
                for patient in patients
            ]
        )
        usual = np.median([_mean(patient.strips[move], means[patient.patient]) for patient in patients])
        sum_ = float(gains.sum() / np.sqrt(len(gains)))
        if sum_ >= ALL_TOGETHER and (gains > 0).mean() >= SHARE_TOGETHER and usual >= LEAST_LIKENESS:
            best = max(best, (sum_, move), key=lambda one: one[0]) if best else (sum_, move)
    return best[1] if best else None


def _others_means(patients: Sequence[Outlined], selected: Mapping[str, Move]) -> dict[str, Floats]:
    """Return, for each patient, the mean strips of the others, with every mask moved as selected."""
    sums = {patient.patient: _sums(patient.strips[selected[patient.patient]]) for patient in patients}
    total = sum(sums.values(), start=np.zeros((LEVELS, SECTORS, len(OFFSETS))))
    means = {}
    for name, own in sums.items():
        mean = _with_neighbours(total - own)
        means[name] = mean / np.sqrt((mean**2).mean(axis=2, keepdims=True) + 1e-9)
    return means


def _with_neighbours(sums: Floats) -> Floats:
    """Return sums smoothed over levels, half from each level and a quarter from either neighbour.

    Few patients leave few strips at a place, so neighbouring levels help.
    """
    around = np.concatenate([sums[:1], sums, sums[-1:]])
    return np.asarray(0.25 * around[:-2] + 0.5 * sums + 0.25 * around[2:])


def _sums(strips: Strips) -> Floats:
    """Return a patient's strips added up by place, each also at its mirror image, so that both body sides count."""
    sums = np.zeros((LEVELS, SECTORS, len(OFFSETS)))
    seen = strips.inside
    level, sector, values = strips.level[seen], strips.sector[seen], strips.values[seen]
    np.add.at(sums, (level, sector), values)
    np.add.at(sums, (level, (SECTORS // 2 - 1 - sector) % SECTORS), values)
    return sums


def _upside_down(
    patients: Sequence[Outlined], means: Mapping[str, Floats], moved: Mapping[str, Moved], usual: float
) -> dict[str, tuple[Move, float]]:
    """Return patients whose image and mask fit each other, but lie in another way than the other patients'."""
    found = {}
    for patient in patients:
        if patient.patient in moved:
            continue
        given, mean = patient.strips[GIVEN], means[patient.patient]
        as_given = likeness(given, mean)
        for move in (Move(Kind.TURNED, rows=True), Move(Kind.REVERSED, slices=True)):
            sector = (SECTORS - 1 - given.sector) % SECTORS if move.rows else given.sector
            level = LEVELS - 1 - given.level if move.slices else given.level
            there = likeness(Strips(given.values, given.edge, sector, level, given.inside), mean)
            gain = advantage(there - as_given, patient.line.height, patient.line.sector, patient.step)
            if gain >= ENOUGH_BY_EDGES and there.mean() >= max(LEAST_LIKENESS, usual / 2):
                found[patient.patient] = move, gain
                break
    return found


def _by_edges(patients: Sequence[Outlined], mute: Mapping[str, frozenset[Kind]]) -> Verdict:
    """Return a verdict for too few patients to compare, by whether the outline lies on stronger edges after a move."""
    moved, advantages, undecided = {}, {}, dict(mute)
    for patient in patients:
        as_given = patient.strips[GIVEN].edge
        gains = {
            move: advantage(
                patient.strips[move].edge - as_given, patient.line.height, patient.line.sector, patient.step
            )
            for move in _visible(patient)
        }
        advantages[patient.patient] = gains
        undecided[patient.patient] = frozenset(move.kind for move, gain in gains.items() if abs(gain) < ENOUGH_BY_EDGES)
        clear = [move for move, gain in gains.items() if gain >= ENOUGH_BY_EDGES]
        if clear:
            move = max(clear, key=lambda one: (one.kind is not Kind.TURNED, gains[one]))
            there = patient.strips[move].edge
            moved[patient.patient] = Moved(
                move=move,
                advantage=gains[move],
                likeness=float(there.mean()),
                given=float(as_given.mean()),
                better=float((there > as_given).mean()),
                away=0.0,
                given_away=0.0,
                by_edges=True,
            )
    return Verdict(
        together=None, advantages=advantages, moved=moved, upside_down={}, undecided=undecided, likeness={}, means={}
    )
