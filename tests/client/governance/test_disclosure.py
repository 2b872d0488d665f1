"""What is shown when a study is approved is what the study asks for: exactly, or at most, whatever the others have."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.survey import Survey
from client.governance.disclosure import Disclosure, disclosure_of, onward_of
from common.config.model import ModelConfig
from common.config.study import Study
from common.model.network import build
from common.plan import grown, plan
from common.plan.graph import Best, Evaluate, FineTune, Node, ensemble_in
from tests.support.hospitals import small_study

MOST = 60
"""Training slices that another site has at most."""
FOLDS = 2
OWN = (23, 31)
SURVEY = Survey(
    patients=11,
    left_out=0,
    test_patients=3,
    test_slices=20,
    train_patients=(4, 4),
    train_slices=OWN,
    validation_patients=(4, 4),
    validation_slices=(30, 22),
)

METHODS: dict[str, dict[str, Any]] = {
    "alone": {"baseline": True},
    "longer": {"baseline": True, "longer_baseline": True, "sequential": {"routes": "all"}},
    "routes": {"sequential": {"routes": (("B", "A"), ("B", "A", "C"), ("C", "B"))}, "unadapted": True},
    "all routes": {"sequential": {"routes": "all", "max_hops": 2}, "forgetting": True},
    "greedy": {"sequential": {"routes": "greedy", "max_hops": 2}, "forgetting": True, "baseline": True},
    "greedy, one hop": {"sequential": {"routes": "greedy", "max_hops": 1}, "longer_baseline": True},
    "halving": {"sequential": {"routes": "halving", "max_hops": 2}, "forgetting": True, "baseline": True},
    "halving, folds": {"sequential": {"routes": "halving", "max_hops": 1}, "more": ("route-folds",)},
    "laps": {"cyclic": {"laps": 2}, "baseline": True},
    "averages": {"federated": ({"strategy": "fedavg", "rounds": 2},), "sequential": {"routes": (("B", "A"),)}},
    "soup": {"more": ("soup",), "sequential": {"routes": "all", "max_hops": 1}},
    "unseen": {
        "leave_out": True,
        "federated": ({"strategy": "fedavg", "rounds": 2},),
        "sequential": {"routes": "all", "max_hops": 1},
    },
    "chains and laps": {
        "federated": (
            {"strategy": "feddc", "average_every": (2, 3)},
            {"strategy": "cyclicfl", "then_target": False},
            {"strategy": "fedadam", "rounds": 2, "server_learning_rate": (0.01, 0.1)},
        ),
        "sequential": {"routes": (("B", "A", "B", "A"),)},
    },
    "laps and depth": {
        "federated": ({"strategy": "fedavg", "local_epochs": (1, 2), "budget": ("steps", "depth")},),
        "cyclic": {"laps": 2},
        "sequential": {"routes": "all", "max_hops": 1},
        "baseline": True,
    },
    "own batch norm": {
        "sequential": {"routes": (("B", "A", "B", "A"), ("C", "B", "A")), "batch_norm": ("travel", "local")},
        "cyclic": {"laps": 2, "epochs": 1},
        "forgetting": True,
    },
    "own batch norm of a grown route": {
        "sequential": {"routes": "greedy", "max_hops": 2, "batch_norm": ("travel", "local")},
        "forgetting": True,
    },
    "one lap": {"cyclic": {"laps": 1}, "sequential": {"routes": "all", "max_hops": 1}, "baseline": True},
    "what stays": {
        "federated": (
            {
                "strategy": "fedavg",
                "rounds": 2,
                "local_epochs": (1, 2),
                "batch_norm": ("average", "local"),
                "ditto_lambda": (0.1, 1.0),
            },
        ),
        "baseline": True,
    },
    "ensembles": {"more": ("target-folds", "route-folds", "consensus"), "sequential": {"routes": "all", "max_hops": 1}},
    "greedy, folds": {"sequential": {"routes": "greedy", "max_hops": 2}, "more": ("route-folds", "consensus")},
    "averages without a number": {
        "federated": ({"strategy": "fedavg", "local_epochs": (1, 2)}, {"strategy": "fedprox", "then_target": True}),
        "sequential": {"routes": (("B", "A", "B", "A"),)},
    },
}
STUDIES = {
    f"{name}, {source}": small_study(split={"source": source}, training={"epochs": 3}, methods=methods)
    for name, methods in METHODS.items()
    for source in ("best-fold", "same-fold")
}


def disclosed(study: Study, site: str = "A", *, patient_scores: bool = True, most: int = MOST) -> Disclosure:
    surveys = [SURVEY] * len(study.variants)
    return disclosure_of(site, study, surveys, largest_elsewhere=most, patient_scores=patient_scores)


def batches(slices: int, size: int) -> int:
    """Counted one by one; a single slice left over joins the batch before it."""
    full = len(range(0, slices - size + 1, size))
    return max(1, full + (slices - full * size >= 2))


def run(study: Study, site: str, census: Mapping[str, tuple[int, ...]], luck: random.Random) -> set[Node]:
    """All that a coordinator asks a site for in a study's course; where routes grow, chance says how."""
    dices: dict[Node, float] = {}
    choices: dict[str, tuple[str, ...]] = {}
    nodes: set[Node] = set()
    while True:
        planned = plan(study, census, choices)
        nodes |= {node for node in planned.nodes if getattr(node, "site", "") == site}
        further = grown(study, planned.growing, choices, lambda node: dices.setdefault(node, luck.random()))
        if further == choices:
            return nodes
        choices = further


CENSUSES = st.fixed_dictionaries(
    {site: st.tuples(*[st.integers(1, MOST)] * FOLDS) for site in "BC"} | {"A": st.just(OWN)}
)


@pytest.mark.parametrize("name", STUDIES)
@given(census=CENSUSES, seed=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_no_census_of_the_others_asks_for_more_than_was_shown(
    name: str, census: dict[str, tuple[int, ...]], seed: int
) -> None:
    study = STUDIES[name]
    found = disclosed(study)
    nodes = run(study, "A", census, random.Random(seed))
    estimates = [node for node in nodes if isinstance(node, FineTune) and node.schedule.last == 0]
    trainings = [node for node in nodes if isinstance(node, FineTune) and node.schedule.last > 0]
    steps = sum(node.schedule.epochs * batches(OWN[node.fold], study.training.batch) for node in trainings)
    epochs = sum(node.schedule.epochs for node in trainings)
    tests = sum(isinstance(node, Evaluate) and node.split == "test" for node in nodes)
    assert len(trainings) <= found.trainings
    assert len(estimates) <= found.estimates
    assert epochs <= found.epochs
    assert steps <= found.gradient_steps
    assert tests <= found.tests
    # The score of the best of several averages is known from the averages' own.
    validations = [
        node
        for node in nodes
        if isinstance(node, Evaluate) and node.split == "validation"
        if not isinstance(node.weights, Best) or ensemble_in(node.weights)
    ]
    assert len(validations) <= found.validations
    longest = max((node.schedule.epochs for node in trainings), default=0)
    assert longest <= max((epochs for epochs, _ in found.of_epochs), default=0)
    if found.exact:
        assert (len(trainings), epochs, steps) == (found.trainings, found.epochs, found.gradient_steps)
        assert len(estimates) == found.estimates


def test_what_does_not_depend_on_the_others_is_told_exactly() -> None:
    exact = {name: disclosed(study).exact for name, study in STUDIES.items()}
    assert exact["alone, best-fold"] and exact["routes, best-fold"] and exact["averages, same-fold"]
    assert not any(found for name, found in exact.items() if name.startswith(("longer", "greedy", "halving")))


def test_a_larger_site_elsewhere_makes_the_longest_training_longer() -> None:
    """And so the number is bounded by the bound alone."""
    longest = [disclosed(STUDIES["longer, best-fold"], most=most).of_epochs[-1][0] for most in (8, 80, 800, 8000)]
    assert longest == sorted(longest) and longest[-1] > 100 * longest[0] / 3


def test_weights_are_counted_as_they_are() -> None:
    study = STUDIES["all routes, best-fold"]
    state = build(study.variants[0].model).state_dict()
    found = disclosed(study)
    assert found.tensors == found.trainings * len(state)
    assert found.weight_bytes == found.trainings * sum(
        tensor.numel() * tensor.element_size() for tensor in state.values()
    )


def test_the_weights_of_estimates_are_counted_too() -> None:
    """Two rounds and two folds: four averages, each estimated once at the site; and nothing of it counts as a step."""
    both = STUDIES["averages, best-fold"]
    (part,) = both.methods.federated
    averaged = part.model_copy(update={"batch_norm": ("average",)})
    plain = both.model_copy(update={"methods": both.methods.model_copy(update={"federated": (averaged,)})})
    found, without = disclosed(both), disclosed(plain)
    assert (found.estimates, without.estimates) == (4, 0)
    of_each = len(build(both.variants[0].model).state_dict())
    assert found.tensors == (found.trainings + 4) * of_each and without.tensors == without.trainings * of_each
    same = ("trainings", "of_epochs", "epochs", "gradient_steps")
    assert all(getattr(found, name) == getattr(without, name) for name in same)
    assert found.training_numbers > without.training_numbers
    # The best of the estimated averages is scored on the test patients of each fold; its validation is its estimate's.
    assert (found.validations, found.tests) == (without.validations, without.tests + 2)


def test_what_stays_is_counted_and_leaves_with_no_weights() -> None:
    """Two rounds, two settings of epochs and two folds: eight trainings for averages, as many for FedBN, and for each
    of two λ as many personal models."""
    study = STUDIES["what stays, best-fold"]
    network = build(study.variants[0].model)
    state, layers = network.state_dict(), dict(network.named_modules())
    norm = [name for name in state if isinstance(layers[name.rpartition(".")[0]], torch.nn.BatchNorm2d)]

    def size(names: Iterable[str]) -> int:
        return sum(state[name].numel() * state[name].element_size() for name in names)

    found = disclosed(study)
    assert (found.local, found.personal) == (8, 16)
    leaving = found.trainings - 16
    assert found.staying_tensors == 8 * len(norm) + 16 * len(state)
    assert found.staying_bytes == 8 * size(norm) + 16 * size(state)
    assert found.tensors == leaving * len(state) - 8 * len(norm)
    assert found.weight_bytes == leaving * size(state) - 8 * size(norm)
    without = disclosed(STUDIES["averages, best-fold"])
    assert (without.local, without.personal, without.staying_tensors, without.staying_bytes) == (0, 0, 0, 0)


def test_the_parts_of_a_network_that_belong_to_the_site_are_counted_and_leave_with_no_weights() -> None:
    plain = STUDIES["averages, best-fold"]
    study = plain.model_copy(update={"model": ModelConfig.model_validate({"architecture": "MSNet"})})
    whole = build(study.model, whole=True).state_dict()
    parts = [tensor for name, tensor in whole.items() if name.startswith("auxiliary.")]
    found = disclosed(study)
    assert found.trainings == disclosed(plain).trainings == found.parted and disclosed(plain).parted == 0
    assert found.staying_tensors == found.parted * len(parts)
    assert found.staying_bytes == found.parted * sum(tensor.numel() * tensor.element_size() for tensor in parts)
    assert found.tensors == (found.trainings + found.estimates) * (len(whole) - len(parts))


def test_repeats_and_networks_are_counted_together() -> None:
    one = disclosed(STUDIES["all routes, best-fold"])
    study = STUDIES["all routes, best-fold"].model_copy(update={"repeats": 3})
    three = disclosed(study)
    for name in ("trainings", "epochs", "gradient_steps", "tests", "tensors", "training_numbers", "patient_numbers"):
        assert getattr(three, name) == 3 * getattr(one, name), name


def test_numbers_of_single_patients_are_counted_where_they_may_leave() -> None:
    study = STUDIES["all routes, best-fold"]
    found, without = disclosed(study), disclosed(study, patient_scores=False)
    assert without.patient_numbers == 0
    # Number, slices, Dice, IoU and volume Dice of each patient.
    assert found.patient_numbers == 5 * (found.tests * 3 + (found.trainings + found.validations) * 4)


def test_the_three_numbers_of_zones_are_counted_where_they_leave() -> None:
    study = STUDIES["all routes, best-fold"]
    zoned = study.model_copy(update={"model": study.model.model_copy(update={"target": "zones"})})
    found, before = disclosed(zoned), disclosed(study)
    assert found.scoring_numbers == before.scoring_numbers + 3 * (before.validations + before.tests)
    assert found.description_numbers == before.description_numbers + 1
    assert (found.training_numbers, found.patient_numbers) == (before.training_numbers, before.patient_numbers)


def test_where_weights_go_is_told() -> None:
    onward = onward_of("B", STUDIES["routes, best-fold"])
    assert onward.routes == (("B", "A"), ("B", "A", "C"))
    assert onward.scored_at == ("A", "C") and onward.averaged == ()
    assert onward_of("A", STUDIES["averages, best-fold"]).averaged == ("fedavg",)
    together = onward_of("B", STUDIES["ensembles, best-fold"])
    assert together.together_at == (("A", 1), ("C", 1)), "of two folds the best by its own validation"
    assert dict(onward_of("B", STUDIES["ensembles, same-fold"]).together_at) == {"A": 2, "C": 2}
    nowhere = onward_of("A", STUDIES["alone, best-fold"])
    assert (nowhere.routes, nowhere.scored_at, nowhere.together_at, nowhere.averaged) == ((), (), (), ())


def test_an_ensemble_of_folds_shows_the_validation_patients_of_all_folds() -> None:
    alone = disclosed(STUDIES["alone, best-fold"])
    ensembles = small_study(training={"epochs": 3}, methods={"baseline": True, "more": ("target-folds",)})
    found = disclosed(ensembles)
    assert (found.trainings, found.validations - alone.validations, found.tests - alone.tests) == (2, 1, 1)
    # Number, slices, Dice, IoU and volume Dice: of three test patients, and of four validation patients a fold.
    assert found.patient_numbers - alone.patient_numbers == 5 * (3 + 2 * 4)
