"""No patient stands on two sides, whatever the sizes; and a split stays what it is."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from client.data.splits import Split, split, unite
from common.config.study import SplitConfig
from common.errors import RelayError

SETTINGS = st.tuples(
    st.integers(8, 70),  # patients
    st.integers(0, 2**40),  # seed
    st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3]),
    st.integers(2, 5),  # folds
)


def names(count: int, prefix: str = "patient") -> list[str]:
    return [f"{prefix} {k:03}" for k in range(count)]


def rules(seed: int, fraction: float, folds: int, rotation: int | None = None) -> SplitConfig:
    test = "hold-out" if rotation is None else "rotate"
    return SplitConfig(seed=seed, test_fraction=fraction, folds=folds, test=test, rotation=rotation)  # type: ignore[arg-type]


def divide(count: int, seed: int, fraction: float, folds: int, *, site: str = "A") -> Split:
    return split(names(count), rules(seed, fraction, folds), site=site)


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
    assert split(shuffled, rules(seed, fraction, folds), site="A") == divide(*setting)


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
    made = split("abcdefghij", rules(1, 0.2, 4), site="A")
    assert made.test == ("b", "g")
    assert made.validation == (("e", "h"), ("d", "j"), ("a", "c"), ("f", "i"))


def test_seed_and_site_and_patients_each_matter() -> None:
    first = divide(30, 1, 0.2, 5)
    assert first != divide(30, 2, 0.2, 5)
    assert first != divide(30, 1, 0.2, 5, site="B")
    other = split(names(30, "person"), rules(1, 0.2, 5), site="A")
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
        split(["a", "b", "c", "a", "d", "e"], rules(1, 0.2, 2), site="A")


@given(SETTINGS, st.data())
def test_a_split_never_parts_a_person(setting: tuple[int, int, float, int], data: st.DataObject) -> None:
    count, seed, fraction, folds = setting
    visits = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    persons = {
        f"{k:03}_{v}": f"{k:03}_0" if number > 1 else "" for k, number in enumerate(visits) for v in range(number)
    }
    made = split(persons, rules(seed, fraction, folds), site="A", persons=persons)
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
    made = split(persons, rules(seed, fraction, folds), site="A", persons=persons)
    assert made == divide(*setting)


def test_too_few_persons_are_told_however_many_visits_they_have() -> None:
    persons = {f"{k}_{v}": f"{k}_0" for k in range(3) for v in range(9)}
    with pytest.raises(RelayError, match="27 usable patients of 3 persons"):
        split(persons, rules(1, 0.2, 5), site="A", persons=persons)


def turns(people: int, seed: int, fraction: float, folds: int, **more: Any) -> list[Split]:
    """The splits of all rotations; a site that is too small for them is no example."""
    rotations = rules(seed, fraction, folds, 0).rotations
    patients = more.pop("patients", names(people))
    try:
        return [split(patients, rules(seed, fraction, folds, turn), site="A", **more) for turn in range(rotations)]
    except RelayError:
        assume(False)
        raise


@settings(deadline=None)
@given(SETTINGS)
def test_over_the_rotations_everybody_is_tested_once(setting: tuple[int, int, float, int]) -> None:
    count, _, fraction, folds = setting
    made = turns(*setting)
    assert len(made) == max(2, round(1 / fraction))
    assert Counter(name for one in made for name in one.test) == Counter(names(count))
    sizes = [len(one.test) for one in made]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    for one in made:
        for fold in range(folds):
            places = Counter([*one.test, *one.validation[fold], *one.train(fold)])
            assert places == Counter(names(count)), "nobody in two places of a rotation"
            assert one.validation[fold]
            assert one.train(fold)


@settings(deadline=None)
@given(SETTINGS, st.data())
def test_over_the_rotations_the_visits_of_a_person_stay_together(
    setting: tuple[int, int, float, int], data: st.DataObject
) -> None:
    count, seed, fraction, folds = setting
    visits = data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count))
    persons = {
        f"{k:03}_{v}": f"{k:03}_0" if number > 1 else "" for k, number in enumerate(visits) for v in range(number)
    }
    tested: Counter[str] = Counter()
    for one in turns(count, seed, fraction, folds, patients=persons, persons=persons):
        sides = [one.test, *one.validation]
        owners = [{name.partition("_")[0] for name in side} for side in sides]
        assert sum(map(len, owners)) == len(set.union(*owners)) == count
        tested.update(owners[0])
    assert set(tested.values()) == {1}


def moved(before: Split, after: Split, new: str) -> set[str]:
    """Who is tested in one of two splits only, besides the new patient."""
    return (set(before.test) ^ set(after.test)) - {new}


@given(SETTINGS, st.text(min_size=1, max_size=8))
def test_one_more_patient_moves_at_most_the_one_at_the_border(setting: tuple[int, int, float, int], new: str) -> None:
    count, seed, fraction, folds = setting
    assume(new not in names(count))
    before = divide(*setting)
    after = split([*names(count), new], rules(seed, fraction, folds), site="A")
    assert len(moved(before, after, new)) <= 1
    if new in before.test or len(after.test) == len(before.test):
        assert moved(before, after, new) <= set(before.test), "nobody who trained is tested now"
    else:
        assert moved(before, after, new) <= set(after.test), "nobody who was tested trains now"


@settings(deadline=None)
@given(SETTINGS, st.text(min_size=1, max_size=8))
def test_one_more_patient_moves_nobody_further_than_to_the_next_rotation(
    setting: tuple[int, int, float, int], new: str
) -> None:
    count, seed, fraction, folds = setting
    assume(new not in names(count))
    before = turns(*setting)
    after = turns(count, seed, fraction, folds, patients=[*names(count), new])
    rotation = [{name: k for k, one in enumerate(made) for name in one.test} for made in (before, after)]
    gone = [name for name in names(count) if rotation[0][name] != rotation[1][name]]
    assert all(abs(rotation[0][name] - rotation[1][name]) == 1 for name in gone)
    borders = Counter(min(rotation[0][name], rotation[1][name]) for name in gone)
    assert set(borders.values()) <= {1}, "one at each border"


@given(SETTINGS, st.text(min_size=1, max_size=8))
def test_one_more_patient_moves_nobody_further_than_to_the_next_fold(
    setting: tuple[int, int, float, int], new: str
) -> None:
    count, seed, fraction, folds = setting
    assume(new not in names(count))
    before, after = divide(*setting), split([*names(count), new], rules(seed, fraction, folds), site="A")
    fold = [{name: k for k, part in enumerate(made.validation) for name in part} for made in (before, after)]
    stayed = [name for name in names(count) if name in fold[0] and name in fold[1]]
    assert all(abs(fold[0][name] - fold[1][name]) <= 1 for name in stayed)


SHARES = (0.1, 0.25, 0.5, 0.75)


@settings(deadline=None)
@given(SETTINGS, st.data())
def test_a_larger_share_of_the_training_patients_holds_a_smaller_one(
    setting: tuple[int, int, float, int], data: st.DataObject
) -> None:
    count, seed, fraction, folds = setting
    visits = data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    persons = {
        f"{k:03}_{v}": f"{k:03}_0" if number > 1 else "" for k, number in enumerate(visits) for v in range(number)
    }
    made = split(persons, rules(seed, fraction, folds), site="A", persons=persons)
    for fold in range(folds):
        whole = {name.partition("_")[0] for name in made.train(fold)}
        parts = [made.train(fold, share) for share in SHARES]
        assert made.train(fold, 1.0) == made.train(fold)
        for share, part, larger in zip(SHARES, parts, [*parts[1:], made.train(fold)], strict=True):
            assert set(part) <= set(larger)
            people = {name.partition("_")[0] for name in part}
            assert len(people) == max(1, math.floor(len(whole) * share + 0.5))
            assert set(part) == {name for name in persons if name.partition("_")[0] in people}, "all visits of each"


def test_the_order_is_that_of_a_keyed_hash_of_the_person_alone() -> None:
    """Written out: sha256 by HMAC, and the least values are tested."""

    def rank(person: str, key: bytes) -> str:
        block = key.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + f"test\n7\nA\n{person}".encode())
        return hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner.digest()).hexdigest()

    for key in (b"", b"secret of the site"):
        ranked = sorted(names(30), key=lambda person: rank(person, key))
        made = split(names(30), rules(7, 0.2, 5), site="A", key=key)
        assert made.test == tuple(sorted(ranked[:6]))
        second = split(names(30), rules(7, 0.2, 5, 1), site="A", key=key)
        assert second.test == tuple(sorted(ranked[6:12]))


def test_whoever_lacks_the_key_cannot_tell_who_is_tested() -> None:
    part = rules(7, 0.2, 5)
    keyed = {split(names(30), part, site="A", key=bytes([k])).test for k in range(20)}
    assert len(keyed) == 20
    assert split(names(30), part, site="A") == split(names(30), part, site="A", key=b"")


@settings(deadline=None)
@given(st.integers(1, 30), st.sampled_from([0.2, 0.34, 0.5]), st.integers(2, 5))
def test_a_site_too_small_for_rotations_is_told_how_many_patients_it_needs(
    count: int, fraction: float, folds: int
) -> None:
    part = rules(1, fraction, folds, 0)
    try:
        split(names(count), part, site="A")
    except RelayError as error:
        sentence = str(error)
    else:
        return
    assert f"but {part.rotations} test sets and {folds} folds need" in sentence
    need = int(sentence.split(" need ")[1].split(";")[0])
    assert need > count
    for turn in range(part.rotations):
        split(names(need), rules(1, fraction, folds, turn), site="A")
    with pytest.raises(RelayError):
        split(names(need - 1), part, site="A")
