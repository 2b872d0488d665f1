"""FedDC's chains and CyclicFL's laps in the plan: every site trains as often as in FedAvg, and nowhere else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from common.config.study import Study
from common.plan import plan, rounds_of
from common.plan.graph import Average, FineTune, Node, ServerStep, Start, visit_of

SITES = ("A", "B", "C", "D")
CENSUS = {"A": (40,) * 2, "B": (80,) * 2, "C": (60,) * 2, "D": (100,) * 2}


def averages_in(**settings: Any) -> list[Average]:
    """The averages of the first fold, in their order."""
    study = Study.model_validate(
        {
            "sites": SITES,
            "seed": settings.pop("seed", 1),
            "split": {"folds": 2},
            "training": {"epochs": 6},
            "methods": {"pooled": False, "federated": ({"then_target": False, "batch_norm": "average"} | settings,)},
        }
    )
    return [node for node in plan(study, CENSUS).nodes if isinstance(node, Average) and node.fold == 0]


def trainings_of(averages: list[Average]) -> list[FineTune]:
    found: dict[Node, None] = {}
    stack: list[Node] = list(averages)
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack += node.parents
    return [node for node in found if isinstance(node, FineTune)]


def chain(part: Node) -> list[str]:
    """The sites of a model since the last average or the start."""
    return [*chain(part.parent), part.site] if isinstance(part, FineTune) else []


@pytest.mark.parametrize("strategy", ["feddc", "cyclicfl", "fedadam"])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_every_site_trains_once_a_round_and_the_schedule_is_fedavgs(strategy: str, rounds: int) -> None:
    found = trainings_of(averages_in(strategy=strategy, rounds=rounds, local_epochs=2, server_learning_rate=1.0))
    plain = trainings_of(averages_in(strategy="fedavg", rounds=rounds, local_epochs=2))
    assert Counter((node.site, node.schedule) for node in found) == Counter(
        (node.site, node.schedule) for node in plain
    )
    assert {visit_of(node) for node in found} == {0}, "rounds, laps and chains are parts of one annealing"


def test_without_a_number_of_rounds_the_steps_are_those_of_fedavg() -> None:
    study = Study.model_validate(
        {"sites": SITES, "methods": {"federated": tuple({"strategy": key} for key in ("fedavg", "feddc", "cyclicfl"))}}
    )
    census = CENSUS | {"pooled": (280,) * 5} | {site: counts[:1] * 5 for site, counts in CENSUS.items()}
    assert len({rounds_of(study, part, 1, census) for part in study.methods.federated}) == 1


@pytest.mark.parametrize(
    ("rounds", "every", "ends"), [(6, 2, [2, 4, 6]), (7, 3, [3, 6, 7]), (2, 5, [2]), (3, 1, [1, 2, 3])]
)
def test_models_are_averaged_every_few_rounds_and_after_the_last(rounds: int, every: int, ends: list[int]) -> None:
    averages = averages_in(strategy="feddc", rounds=rounds, average_every=every)
    assert [average.parts[0].schedule.last for average in averages] == ends
    before: Node = Start()
    for average, first, last in zip(averages, [0, *ends], ends, strict=False):
        assert [part.site for part in average.parts] == sorted(SITES)
        ways = [chain(part) for part in average.parts]
        assert all(len(way) == last - first for way in ways)
        assert all(sorted(at) == sorted(SITES) for at in zip(*ways, strict=True)), "a model at each site, in each round"
        for part in average.parts:
            node: Node = part
            while isinstance(node, FineTune):
                node = node.parent
            assert node == before
        before = average


def test_places_are_drawn_from_the_studys_seed_anew_in_every_round() -> None:
    orders = {}
    for seed in range(40):
        (average,) = averages_in(strategy="feddc", rounds=4, average_every=4, seed=seed)
        orders[seed] = tuple(sorted(map(tuple, map(chain, average.parts))))
        (again,) = averages_in(strategy="feddc", rounds=4, average_every=4, seed=seed)
        assert again == average
    assert len(set(orders.values())) == 40
    second = Counter(way[:2] for ways in orders.values() for way in ways)
    assert len(second) == 16 and max(second.values()) < 25, "of forty draws, each pair of sites about ten times"


def test_a_chain_of_single_rounds_is_fedavg() -> None:
    dc = averages_in(strategy="feddc", rounds=3, average_every=1)
    assert [average.parts[0].parent for average in dc] == [Start(), *dc[:-1]]


@pytest.mark.parametrize(("rounds", "laps", "left"), [(5, 1, 4), (5, 3, 2), (3, 9, 1), (1, 1, 1)])
def test_laps_come_first_and_at_least_one_round_is_left(rounds: int, laps: int, left: int) -> None:
    averages = averages_in(strategy="cyclicfl", rounds=rounds, laps=laps)
    assert len(averages) == left
    starts = {part.parent for part in averages[0].parts}
    assert len(starts) == 1
    assert chain(starts.pop()) == list(SITES) * (rounds - left)


def test_several_numbers_are_several_series_of_rounds() -> None:
    assert len(averages_in(strategy="feddc", rounds=6, average_every=(2, 3))) == 3 + 2
    assert len(averages_in(strategy="cyclicfl", rounds=6, laps=(1, 2))) == 5 + 4
    steps = averages_in(strategy="fedyogi", rounds=2, server_learning_rate=(0.1, 1.0), server_tau=(0.01, 0.1))
    assert len(steps) == 2 * 4 and all(isinstance(step, ServerStep) for step in steps)
    assert len(averages_in(strategy="fedyogi", rounds=2)) == 2 * 3, "the strategy's own rates"
    assert len(averages_in(strategy="fedadagrad", rounds=2, server_momentum=(0.1, 0.2), server_learning_rate=1.0)) == 2


def test_the_target_after_a_chain_or_a_lap_is_visited_once_more() -> None:
    for strategy in ("feddc", "cyclicfl"):
        study = Study.model_validate(
            {
                "sites": SITES,
                "split": {"folds": 2},
                "training": {"epochs": 6},
                "methods": {"pooled": False, "federated": ({"strategy": strategy, "rounds": 4},)},
            }
        )
        rows = [row for row in plan(study, CENSUS).rows if row.method == f"{strategy}-then-target"]
        assert len(rows) == 8
        assert {visit_of(row.model) for row in rows if isinstance(row.model, FineTune)} == {1}
