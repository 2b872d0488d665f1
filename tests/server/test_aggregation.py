"""A round's average: every part counted, floats alone, the same in every order, a few tensors at a time."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.digest import digest_of
from common.errors import RelayError
from common.model.weights import Weights, save, serialised
from common.strategies import STRATEGIES
from deploy.simulation.local_grid import enter_run
from server import aggregation
from server.aggregation import Contribution, aggregate


@pytest.fixture(autouse=True)
def _a_run() -> None:
    enter_run(0)


def weights_of(seed: int, shape: tuple[int, ...] = (3, 4)) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer": torch.randn(shape, generator=generator) * 10**seed,
        "scalar": torch.randn((), generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "seen": torch.tensor(seed + 100),
        "empty": torch.empty(0, 2),
    }


def parts_of(folder: Path, counts: dict[str, int]) -> tuple[dict[str, Contribution], dict[str, Weights]]:
    values = {site: weights_of(number) for number, site in enumerate(counts)}
    return {
        site: Contribution(folder / f"{save(values[site], folder)}.safetensors", count)
        for site, count in counts.items()
    }, values


def parent_of(folder: Path) -> Path:
    return folder / f"{save(weights_of(9), folder)}.safetensors"


def by_hand(values: dict[str, Weights], counts: dict[str, int], name: str) -> NDArray[np.float64]:
    total = np.zeros(values["A"][name].shape)
    for site in sorted(counts):
        total = total + values[site][name].numpy().astype(np.float64) * counts[site]
    return total / sum(counts.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_that_a_study_may_name_averages_as_few_parts_as_it_says(tmp_path: Path, strategy: str) -> None:
    alike = weights_of(3)
    file = tmp_path / f"{save(alike, tmp_path)}.safetensors"
    parts = {f"S{number}": Contribution(file, 10) for number in range(STRATEGIES[strategy].fewest_parts)}
    found = aggregate(strategy, parts, expected=frozenset(parts), parent=file)
    for name, tensor in alike.items():
        assert torch.allclose(found[name], tensor), "the average of equal parts is each of them"


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
def test_the_average_is_the_weighted_mean_in_float64(tmp_path: Path, strategy: str) -> None:
    counts = {"A": 7, "B": 13, "C": 101}
    parts, values = parts_of(tmp_path, counts)
    mean = aggregate(strategy, parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    assert mean.keys() == values["A"].keys()
    for name in ("layer", "scalar", "half"):
        expected = by_hand(values, counts, name)
        assert mean[name].dtype == values["A"][name].dtype
        assert mean[name].shape == values["A"][name].shape
        # float64 rounded once to the tensor's own type: half a unit in its last place
        unit = np.spacing(np.abs(expected).astype(values["A"][name].numpy().dtype)).astype(np.float64)
        assert np.all(np.abs(mean[name].numpy().astype(np.float64) - expected) <= 0.51 * unit)
    assert mean["empty"].shape == (0, 2)


def test_integer_buffers_are_the_parents(tmp_path: Path) -> None:
    parts, _ = parts_of(tmp_path, {"A": 1, "B": 2})
    mean = aggregate("fedavg", parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    assert mean["seen"].dtype == torch.int64
    assert int(mean["seen"]) == 109


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "fedtrimmedavg"])
def test_the_order_in_which_replies_come_changes_no_bit(tmp_path: Path, strategy: str) -> None:
    parts, _ = parts_of(tmp_path, {"A": 3, "B": 7, "C": 11, "D": 1})
    digests = {
        digest_of(
            serialised(
                aggregate(
                    strategy,
                    {site: parts[site] for site in order},
                    expected=frozenset(order),
                    parent=parent_of(tmp_path),
                )
            )
        )
        for order in itertools.permutations(parts)
    }
    assert len(digests) == 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(-(2.0**100), 2.0**100, width=32)), min_size=1, max_size=6),
)
def test_every_average_lies_between_its_parts(tmp_path_factory: pytest.TempPathFactory, each: Any) -> None:
    folder = tmp_path_factory.mktemp("parts")
    values = [value for _, value in each]
    parts = {
        f"S{number}": Contribution(folder / f"{save({'x': torch.tensor([value])}, folder)}.safetensors", count)
        for number, (count, value) in enumerate(each)
    }
    mean = aggregate("fedavg", parts, expected=frozenset(parts), parent=parts["S0"].weights)["x"].item()
    slack = 1e-6 * max(map(abs, values))
    assert min(values) - slack <= mean <= max(values) + slack
    total = sum(count for count, _ in each)
    assert mean == pytest.approx(sum(count / total * value for count, value in each), rel=1e-6, abs=slack + 1e-45)


def test_the_median_is_numpys(tmp_path: Path) -> None:
    parts, values = parts_of(tmp_path, {"A": 1, "B": 50, "C": 3, "D": 4})
    median = aggregate("fedmedian", parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    stack = np.stack([values[site]["layer"].numpy().astype(np.float64) for site in parts])
    np.testing.assert_array_equal(median["layer"].numpy(), np.median(stack, axis=0).astype(np.float32))


def test_the_trimmed_mean_drops_the_extremes(tmp_path: Path) -> None:
    parts, values = parts_of(tmp_path, dict.fromkeys("ABCDE", 1))
    trimmed = aggregate("fedtrimmedavg", parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    stack = np.sort(np.stack([values[site]["layer"].numpy().astype(np.float64) for site in parts]), axis=0)
    np.testing.assert_allclose(trimmed["layer"].numpy(), stack[1:-1].mean(axis=0), rtol=1e-6)


def test_the_trimmed_mean_of_three_sites_is_their_median(tmp_path: Path) -> None:
    """Flower's own share of 0.2 would cut nothing of three, and leave a plain mean under a robust name."""
    parts, values = parts_of(tmp_path, dict.fromkeys("ABC", 1))
    trimmed = aggregate("fedtrimmedavg", parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    stack = np.stack([values[site]["layer"].numpy() for site in parts])
    np.testing.assert_array_equal(trimmed["layer"].numpy(), np.median(stack, axis=0))


def test_a_missing_or_foreign_part_is_never_a_silent_other_mean(tmp_path: Path) -> None:
    parts, _ = parts_of(tmp_path, {"A": 1, "B": 1, "C": 1})
    parent = parent_of(tmp_path)
    with pytest.raises(RelayError, match="the parts of B, C are missing"):
        aggregate("fedavg", {"A": parts["A"]}, expected=frozenset(parts), parent=parent)
    with pytest.raises(RelayError, match="cannot be averaged"):
        aggregate("fedavg", parts, expected=frozenset({"A", "B"}), parent=parent)
    with pytest.raises(RelayError, match="cannot be averaged"):
        aggregate("fedavg", {}, expected=frozenset({"A"}), parent=parent)


@pytest.mark.parametrize("change", ["another tensor", "one tensor less", "another shape"])
def test_a_part_that_fits_not_is_refused(tmp_path: Path, change: str) -> None:
    parts, values = parts_of(tmp_path, {"A": 1, "B": 1})
    other = dict(values["B"])
    if change == "another tensor":
        other["patient"] = torch.ones(1)
    elif change == "one tensor less":
        del other["scalar"]
    else:
        other["layer"] = torch.ones(4, 3)
    parts["B"] = Contribution(tmp_path / f"{save(other, tmp_path)}.safetensors", 1)
    with pytest.raises(RelayError, match="part .*has other"):
        aggregate("fedavg", parts, expected=frozenset(parts), parent=parent_of(tmp_path))


@pytest.mark.parametrize("sites", [3, 12])
def test_what_is_in_memory_at_once_grows_neither_with_tensors_nor_with_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sites: int
) -> None:
    many = {f"t{k:02}": torch.full((50, 20), float(k)) for k in range(40)} | {"seen": torch.tensor(7)}  # 4 kB each
    parts = {
        f"S{k}": Contribution(
            tmp_path / f"{save({n: t + k if t.ndim else t for n, t in many.items()}, tmp_path)}.safetensors", 1
        )
        for k in range(sites)
    }
    sizes: list[int] = []
    whole = aggregation._reply

    def watch(tensors: Weights, examples: int) -> Any:
        sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
        return whole(tensors, examples)

    monkeypatch.setattr(aggregation, "_reply", watch)
    budget = 24_000
    monkeypatch.setattr(aggregation, "AT_ONCE_BYTES", budget)
    mean = aggregate("fedavg", parts, expected=frozenset(parts), parent=parts["S0"].weights)
    # A piece may go beyond the budget by less than a row (80 bytes) and the counter.
    assert max(sizes) * sites <= budget + 100 * sites and sum(sizes) == sites * 40 * 4000
    assert (max(sizes) < 4000) == (sites == 12), "a tensor is cut where there are many sites"
    middle = (sites - 1) / 2
    assert all(torch.equal(mean[name], many[name] + middle) for name in many if name != "seen")
    assert int(mean["seen"]) == 7


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "fedtrimmedavg"])
def test_cut_into_single_rows_the_result_is_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    parts, _ = parts_of(tmp_path, {"A": 3, "B": 7, "C": 11, "D": 1})
    whole = aggregate(strategy, parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    monkeypatch.setattr(aggregation, "AT_ONCE_BYTES", 1)
    cut = aggregate(strategy, parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    assert digest_of(serialised(cut)) == digest_of(serialised(whole))


def test_krum_takes_the_model_that_lies_nearest_to_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured over whole models, whatever the budget: tensor by tensor it would take one of each."""
    far = {"A": (0.0, 9.0), "B": (1.0, 0.0), "C": (1.2, 0.1), "D": (9.0, 0.0), "E": (1.1, 0.0)}
    values = {site: {"x": torch.full((4,), x), "y": torch.full((4,), y)} for site, (x, y) in far.items()}
    parts = {
        site: Contribution(tmp_path / f"{save(weights, tmp_path)}.safetensors", 1) for site, weights in values.items()
    }
    monkeypatch.setattr(aggregation, "AT_ONCE_BYTES", 1)
    selected = aggregate("krum", parts, expected=frozenset(parts), parent=parts["A"].weights)

    # Of five, one may lie: the distances to the 5 - 1 - 2 nearest others are added up, and the smallest sum wins.
    def score(site: str) -> float:
        x, y = far[site]
        return sum(sorted((x - p) ** 2 + (y - q) ** 2 for other, (p, q) in far.items() if other != site)[:2])

    nearest = min(far, key=score)
    assert nearest == "E"
    assert all(torch.equal(selected[name], values[nearest][name]) for name in ("x", "y"))


def test_flower_keeps_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells of every call at level INFO, and there is one a few tensors."""
    told: list[logging.LogRecord] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record)

    logger, ear = logging.getLogger("flwr"), Ear()
    logger.addHandler(ear)
    before = logger.level
    monkeypatch.setattr(aggregation, "AT_ONCE_BYTES", 1)
    try:
        parts, _ = parts_of(tmp_path, {"A": 1, "B": 1})
        aggregate("fedavg", parts, expected=frozenset(parts), parent=parent_of(tmp_path))
    finally:
        logger.removeHandler(ear)
    assert told == []
    assert logger.level == before
