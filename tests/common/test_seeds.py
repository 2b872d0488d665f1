"""Random state comes from names."""

from __future__ import annotations

import subprocess

from hypothesis import given
from hypothesis import strategies as st

from common.seeds import seed_of


def test_a_seed_is_what_the_docstring_says() -> None:
    digest = subprocess.run(["sha256sum"], input=b"1/A/0/0/3", capture_output=True, check=True).stdout.decode()
    assert seed_of(1, "A", 0, 0, 3) == int(digest[:16], 16) // 2


@given(st.lists(st.integers(0, 50) | st.text(max_size=3), min_size=1, max_size=4))
def test_every_seed_is_one_that_torch_and_numpy_take(names: list[str | int]) -> None:
    assert 0 <= seed_of(*names) < 2**63
    assert seed_of(*names) == seed_of(*names)


def test_sites_folds_and_epochs_have_seeds_of_their_own() -> None:
    seeds = {seed_of(s, site, fold, 0, e) for s in range(3) for site in "ABC" for fold in range(5) for e in range(50)}
    assert len(seeds) == 3 * 3 * 5 * 50
