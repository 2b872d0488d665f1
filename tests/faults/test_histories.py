"""Whatever strikes a study, and wherever: it ends with exactly the results of an undisturbed run."""

from __future__ import annotations

import pytest

from tests.faults.benches import BENCHES
from tests.faults.history import Bench
from tests.faults.trial import lived, tried, undisturbed_ending

SEEDS = 1000
AT_ONCE = 50


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_a_study_that_is_struck_ends_as_if_nothing_had_happened(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        trial = tried(seed)
        assert not trial.complaints, trial.tale


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("seed", [3, 200, 202, 409])
def test_a_seed_tells_the_same_history_again(seed: int) -> None:
    assert tried(seed).tale == tried(seed).tale


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.name)
def test_how_threads_take_turns_changes_nothing(bench: Bench) -> None:
    expected = undisturbed_ending(bench.name)
    for seed in range(1, 6):
        _, found = lived(bench, seed, ())
        assert not isinstance(found, str), found
        assert (found.results, found.ledger, found.weights) == (
            expected.results,
            expected.ledger,
            expected.weights,
        )
