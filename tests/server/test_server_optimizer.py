"""A server's optimizer: each strategy's formulas written out, its state from file to file, statistics untouched."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from common.model.weights import Weights, load, save
from common.strategies import STRATEGIES
from deploy.simulation.local_grid import enter_run
from server import aggregation
from server.aggregation import Contribution, aggregate
from server.server_optimizer import OptimizerStep

SETTINGS: dict[str, dict[str, float]] = {
    "fedavgm": {"learning_rate": 0.7, "momentum": 0.9},
    "fedadagrad": {"learning_rate": 0.02, "tau": 0.003},
    "fedadam": {"learning_rate": 0.02, "momentum": 0.8, "second_moment": 0.95, "tau": 0.003},
    "fedyogi": {"learning_rate": 0.02, "momentum": 0.8, "second_moment": 0.95, "tau": 0.003},
}
COUNTS = {"A": 7, "B": 13, "C": 101}
LEARNED = ("layer.bias", "layer.scale", "layer.weight")
Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _a_run() -> None:
    enter_run(0)


def weights_of(seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(5, 4, generator=generator) / 100,
        "layer.bias": torch.randn(5, generator=generator) / 1000,
        "layer.scale": torch.randn((), generator=generator) / 10,
        "norm.running_mean": torch.randn(5, generator=generator),
        "norm.running_var": torch.rand(5, generator=generator) + 1,
        "norm.num_batches_tracked": torch.tensor(seed + 100),
    }


def file_of(weights: Weights, folder: Path) -> Path:
    return folder / f"{save(weights, folder)}.safetensors"


def parts_of(folder: Path, round_number: int) -> tuple[dict[str, Contribution], dict[str, Weights]]:
    values = {site: weights_of(10 * round_number + number) for number, site in enumerate(COUNTS, start=1)}
    return {site: Contribution(file_of(values[site], folder), COUNTS[site]) for site in COUNTS}, values


def stepped(
    strategy: str, folder: Path, round_number: int, parent: Path, state: Path | None, **settings: float
) -> tuple[Weights, Weights]:
    parts, _ = parts_of(folder, round_number)
    with OptimizerStep(STRATEGIES[strategy], SETTINGS[strategy] | settings, state) as step:
        made = aggregate(strategy, parts, expected=frozenset(parts), parent=parent, step=step)
        return made, step.state


def mean_of(values: Mapping[str, Weights], name: str) -> Array:
    total = np.zeros(values["A"][name].shape)
    for site, count in COUNTS.items():
        total = total + values[site][name].numpy().astype(np.float64) * count
    return total / sum(COUNTS.values())


def by_hand(strategy: str, w: Array, change: Array, moments: dict[str, Array]) -> Array:
    """The weights after a round, as the strategy's source has it; the moments are changed in place."""
    rules = SETTINGS[strategy]
    rate, first, second, tau = (rules.get(name, 0.0) for name in ("learning_rate", "momentum", "second_moment", "tau"))
    if strategy == "fedavgm":  # Hsu et al.: v ← β v + Δ, w ← w + η v
        moments["v"] = first * moments.get("v", np.zeros_like(w)) + change
        return w + rate * moments["v"]
    # Reddi et al., Algorithm 2: v begins with τ², and no moment's bias is corrected
    m = first * moments.get("m", np.zeros_like(w)) + (1 - first) * change
    v = moments.get("v", np.full_like(w, tau**2))
    square = change * change
    if strategy == "fedadagrad":
        v = v + square
    elif strategy == "fedadam":
        v = second * v + (1 - second) * square
    else:
        v = v - (1 - second) * square * np.sign(v - square)
    moments.update(m=m, v=v)
    return w + rate * m / (np.sqrt(v) + tau)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_rounds_follow_the_formulas_of_the_source(tmp_path: Path, strategy: str) -> None:
    """Four rounds, each from the weights and the state of the round before, read from their files."""
    parent, state = file_of(weights_of(0), tmp_path), None
    moments: dict[str, dict[str, Array]] = {name: {} for name in LEARNED}
    for round_number in range(1, 5):
        _, values = parts_of(tmp_path, round_number)
        before = load(parent)
        made, kept = stepped(strategy, tmp_path, round_number, parent, state)
        for name in LEARNED:
            w = before[name].numpy().astype(np.float64)
            expected = by_hand(strategy, w, mean_of(values, name) - w, moments[name])
            assert made[name].dtype == torch.float32 and made[name].shape == before[name].shape
            np.testing.assert_allclose(made[name].numpy(), expected, rtol=2e-6, atol=1e-9)
        parent, state = file_of(made, tmp_path), file_of(kept, tmp_path)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_statistics_are_the_plain_mean_and_counters_the_parents(tmp_path: Path, strategy: str) -> None:
    parent = file_of(weights_of(0), tmp_path)
    parts, values = parts_of(tmp_path, 1)
    made, state = stepped(strategy, tmp_path, 1, parent, None)
    plain = aggregate("fedavg", parts, expected=frozenset(parts), parent=parent)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(made[name], plain[name])
        np.testing.assert_allclose(made[name].numpy(), mean_of(values, name), rtol=1e-6)
    assert int(made["norm.num_batches_tracked"]) == 100
    kinds = 1 if strategy == "fedavgm" else 2
    assert len(state) == kinds * len(LEARNED), "no moment of statistics or counters"
    assert all(name.split("/")[1] in LEARNED and tensor.dtype == torch.float32 for name, tensor in state.items())


@pytest.mark.parametrize("strategy", SETTINGS)
def test_cut_into_single_rows_and_in_any_order_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    first, state = stepped(strategy, tmp_path, 1, file_of(weights_of(0), tmp_path), None)
    parent, file = file_of(first, tmp_path), file_of(state, tmp_path)
    whole = stepped(strategy, tmp_path, 2, parent, file)
    monkeypatch.setattr(aggregation, "AT_ONCE_BYTES", 1)
    parts, _ = parts_of(tmp_path, 2)
    for order in itertools.permutations(parts):
        with OptimizerStep(STRATEGIES[strategy], SETTINGS[strategy], file) as step:
            given = {site: parts[site] for site in order}
            made = aggregate(strategy, given, expected=frozenset(parts), parent=parent, step=step)
            assert same(made, whole[0]) and same(step.state, whole[1])


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_without_momentum_and_with_a_rate_of_one_fedavgm_is_fedavg(tmp_path: Path) -> None:
    parent = file_of(weights_of(0), tmp_path)
    parts, _ = parts_of(tmp_path, 1)
    made, _ = stepped("fedavgm", tmp_path, 1, parent, None, learning_rate=1.0, momentum=0.0)
    assert same(made, aggregate("fedavg", parts, expected=frozenset(parts), parent=parent))


def test_every_setting_of_a_server_is_one_of_flowers() -> None:
    """A name that Flower's class does not know would be an error in the midst of a study."""
    for key, settings in SETTINGS.items():
        server: Any = STRATEGIES[key].server
        assert set(server.arguments) == set(settings)
    assert {key for key, strategy in STRATEGIES.items() if strategy.server} == set(SETTINGS)
