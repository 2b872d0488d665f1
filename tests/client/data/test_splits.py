"""No patient stands on two sides, whatever the sizes; and a split stays what it is."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.splits import Split, split, unite
from common.errors import RelayError

SETTINGS = st.tuples(
    st.integers(8, 70),  # patients
    st.integers(0, 2**40),  # seed
    st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3]),
    st.integers(2, 5),  # folds
)


def names(count: int, prefix: str = "patient") -> list[str]:
    return [f"{prefix} {k:03}" for k in range(count)]


def divide(count: int, seed: int, fraction: float, folds: int, *, site: str = "A") -> Split:
    return split(names(count), seed=seed, site=site, test_fraction=fraction, folds=folds)


@given(SETTINGS)
def test_everybody_stands_in_one_place_of_each_fold(setting: tuple[int, int, float, int]) -> None:
    count, _, _, folds = setting
    made = divide(*setting)
    assert len(made.validation) == folds
    for fold in range(folds):
        places = Counter([*made.test, *made.validation[fold], *made.train(fold)])
        assert places == Counter(names(count))
        assert made.test and made.validation[fold] and made.train(fold)


@given(SETTINGS)
def test_everybody_is_tested_or_validates_once(setting: tuple[int, int, float, int]) -> None:
    made = divide(*setting)
    validating = [name for fold in made.validation for name in fold]
    assert Counter([*made.test, *validating]) == Counter(names(setting[0]))


@given(SETTINGS)
def test_sizes_are_as_promised(setting: tuple[int, int, float, int]) -> None:
    count, _, fraction, _ = setting
    made = divide(*setting)
    assert len(made.test) == max(1, math.floor(count * fraction + 0.5))
    sizes = [len(fold) for fold in made.validation]
    assert max(sizes) - min(sizes) <= 1


@given(SETTINGS, st.randoms(use_true_random=False))
def test_a_split_does_not_depend_on_the_order_of_patients(setting: tuple[int, int, float, int], random: Random) -> None:
    count, seed, fraction, folds = setting
    shuffled = names(count)
    random.shuffle(shuffled)
    assert split(shuffled, seed=seed, site="A", test_fraction=fraction, folds=folds) == divide(*setting)


@given(st.lists(SETTINGS, min_size=2, max_size=4), st.integers(2, 5))
def test_pooled_training_never_holds_a_members_test_patient(
    settings: list[tuple[int, int, float, int]], folds: int
) -> None:
    members = {
        f"S{k}": divide(count, seed, fraction, folds, site=f"S{k}")
        for k, (count, seed, fraction, _) in enumerate(settings)
    }
    pooled = unite(members)
    everybody = Counter(f"S{k}/{name}" for k, (count, *_) in enumerate(settings) for name in names(count))
    for fold in range(folds):
        for site, member in members.items():
            training, watching = set(pooled.train(fold)), set(pooled.validation[fold])
            for name in member.test:
                assert f"{site}/{name}" in pooled.test
                assert f"{site}/{name}" not in training | watching
            assert all(f"{site}/{name}" in watching for name in member.validation[fold])
        assert Counter([*pooled.test, *pooled.validation[fold], *pooled.train(fold)]) == everybody


def test_a_split_is_the_same_on_every_machine_and_in_every_version() -> None:
    made = split("abcdefghij", seed=1, site="A", test_fraction=0.2, folds=4)
    assert made.test == ("c", "i")
    assert made.validation == (("e", "g"), ("a", "b"), ("f", "h"), ("d", "j"))


def test_seed_and_site_and_patients_each_matter() -> None:
    first = divide(30, 1, 0.2, 5)
    assert first != divide(30, 2, 0.2, 5)
    assert first != divide(30, 1, 0.2, 5, site="B")
    other = split(names(30, "person"), seed=1, site="A", test_fraction=0.2, folds=5)
    assert [name[-3:] for name in other.test] != [name[-3:] for name in first.test]


def test_seeds_put_different_patients_into_test() -> None:
    selected = Counter(name for seed in range(60) for name in divide(10, seed, 0.2, 4).test)
    assert len(selected) == 10
    assert max(selected.values()) < 30


@given(st.integers(0, 40), st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.integers(2, 8))
def test_a_site_too_small_is_told_how_many_patients_it_needs(count: int, fraction: float, folds: int) -> None:
    try:
        divide(count, 1, fraction, folds)
    except RelayError as error:
        sentence = str(error)
    else:
        return
    assert f"Site A has {count} usable patients" in sentence
    need = int(sentence.split(" need ")[1].split(";")[0])
    assert need > count
    divide(need, 1, fraction, folds)
    with pytest.raises(RelayError):
        divide(need - 1, 1, fraction, folds)


def test_a_patient_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        split(["a", "b", "c", "a", "d", "e"], seed=1, site="A", test_fraction=0.2, folds=2)


@given(SETTINGS, st.data())
def test_a_split_never_parts_a_person(setting: tuple[int, int, float, int], data: st.DataObject) -> None:
    count, seed, fraction, folds = setting
    visits = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    persons = {
        f"{k:03}_{v}": f"{k:03}_0" if number > 1 else "" for k, number in enumerate(visits) for v in range(number)
    }
    made = split(persons, seed=seed, site="A", test_fraction=fraction, folds=folds, persons=persons)
    sides = [made.test, *made.validation]
    owners = [{name.partition("_")[0] for name in side} for side in sides]
    assert sum(map(len, owners)) == len(set.union(*owners)) == count
    assert Counter(name for side in sides for name in side) == Counter(list(persons))
    assert len(owners[0]) == max(1, math.floor(count * fraction + 0.5))
    for fold in range(folds):
        training = {name.partition("_")[0] for name in made.train(fold)}
        assert not training & (owners[0] | owners[1 + fold])


@given(SETTINGS)
def test_a_site_without_visits_is_divided_as_ever(setting: tuple[int, int, float, int]) -> None:
    count, seed, fraction, folds = setting
    persons = dict.fromkeys(names(count), "")
    made = split(persons, seed=seed, site="A", test_fraction=fraction, folds=folds, persons=persons)
    assert made == divide(*setting)


def test_too_few_persons_are_told_however_many_visits_they_have() -> None:
    persons = {f"{k}_{v}": f"{k}_0" for k in range(3) for v in range(9)}
    with pytest.raises(RelayError, match="27 usable patients of 3 persons"):
        split(persons, seed=1, site="A", test_fraction=0.2, folds=5, persons=persons)
