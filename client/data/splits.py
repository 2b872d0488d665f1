"""Who is held out: test patients, and the validation folds of the rest. By patient, never by slice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from common.digest import digest_of
from common.errors import BadData


@dataclass(frozen=True)
class Split:
    """A site's patients, divided. Everybody stands in `test` or in one fold's validation; all are sorted."""

    test: tuple[str, ...]
    validation: tuple[tuple[str, ...], ...]
    """The validation patients of each fold."""

    def train(self, fold: int) -> tuple[str, ...]:
        """All that are neither in test nor in this fold's validation."""
        return tuple(sorted(name for k, names in enumerate(self.validation) if k != fold for name in names))


def split(patients: Iterable[str], *, seed: int, site: str, test_fraction: float, folds: int) -> Split:
    """Divide a site's patients, as its name, the seed and the set of patients alone determine.

    `test_fraction` of the patients, rounded half up but at least one, are for test; the rest is dealt out to
    `folds` validation sets whose sizes differ by at most one.

    Raises:
        BadData: too few patients for every fold to have one to validate and one to train on.
        ValueError: a patient's name stands twice, or fewer than two folds.
    """
    names = sorted(patients)
    if len(set(names)) < len(names):
        raise ValueError("a patient stands twice")
    if folds < 2:
        raise ValueError("cross-validation needs two folds at least")
    held_out = _test_size(len(names), test_fraction)
    if len(names) - held_out < folds:
        start = max(folds + 1, math.floor((folds - 0.5) / (1 - test_fraction)))
        need = next(n for n in itertools.count(start) if n - _test_size(n, test_fraction) >= folds)
        raise BadData(
            f"Site {site} has {len(names)} usable patients, but a test set and {folds} folds need {need};"
            " add patients, or set fewer folds in the study's [split]."
        )
    content = "\n".join([str(seed), site, *(f"{len(name)}:{name}" for name in names)])
    state = int(digest_of(content.encode("utf-8", "surrogateescape")), 16)
    order = np.random.Generator(np.random.PCG64(state)).permutation(len(names))
    shuffled = [names[k] for k in order]
    rest = shuffled[held_out:]
    return Split(
        test=tuple(sorted(shuffled[:held_out])),
        validation=tuple(tuple(sorted(rest[k::folds])) for k in range(folds)),
    )


def unite(splits: Mapping[str, Split]) -> Split:
    """Return the split of pooled data: test and folds are the unions of its members', patients named "site/patient".

    Raises ValueError where members have different numbers of folds, or there is none.
    """
    if len({len(member.validation) for member in splits.values()}) != 1:
        raise ValueError("members need the same number of folds")
    folds = len(next(iter(splits.values())).validation)

    def union(parts: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(sorted(f"{site}/{name}" for site, names in parts.items() for name in names))

    return Split(
        test=union({site: member.test for site, member in splits.items()}),
        validation=tuple(union({site: member.validation[k] for site, member in splits.items()}) for k in range(folds)),
    )


def _test_size(patients: int, fraction: float) -> int:
    return max(1, math.floor(patients * fraction + 0.5))
