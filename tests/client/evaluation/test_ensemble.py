"""An ensemble is the mean of its members' probabilities, whatever breaks off on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.evaluation.ensemble import Incomplete, MeanProbabilities, mean_of
from client.evaluation.evaluate import Probabilities, evaluate
from client.preprocessing.pipeline import PatientSlices, Record, load, prepare
from client.site_config import load_site
from common.seeds import seed_of
from tests.support.hospitals import small_study, write_hospitals


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    (path,) = write_hospitals(tmp_path_factory.mktemp("h"), {"A": 3}).values()
    return list(prepare(load_site(path), small_study().preprocessing).records)


def member(seed: int) -> Probabilities:
    def probabilities(record: Record, slices: PatientSlices) -> NDArray[np.float32]:
        generator = np.random.default_rng(seed_of(seed, record.patient))
        return generator.random(slices.image.shape, dtype=np.float32) ** np.float32(generator.integers(1, 30))

    return probabilities


def begun(folder: Path) -> MeanProbabilities:
    mean = MeanProbabilities(folder)
    mean.begin(validates=False)
    return mean


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1, width=32), st.integers(1, 1000))
def test_the_mean_of_equal_probabilities_is_exactly_this_probability(share: float, models: int) -> None:
    total = np.zeros(1)
    for _ in range(models):
        total = total + np.float64(np.float32(share))
    assert mean_of(total, models)[0] == np.float32(share)


def test_an_ensemble_of_equal_members_scores_as_the_member(tmp_path: Path, records: list[Record]) -> None:
    mean = begun(tmp_path / "mean")
    for number in range(3):
        mean.add(number, member(7), records)
    assert evaluate(mean.of, records, surfaces=True) == evaluate(member(7), records, surfaces=True)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.data())
def test_members_count_once_each_whatever_breaks_off(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], seeds: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mean")
    begun(folder)
    for number, seed in enumerate(seeds):
        broken_off = data.draw(st.integers(0, len(records)))
        if broken_off:  # the process dies after some patients, before it says that the member is done

            def dies(record: Record, slices: PatientSlices, seed: int = seed, last: int = broken_off) -> NDArray:
                if record == records[last - 1]:
                    raise KeyboardInterrupt
                return member(seed)(record, slices)

            with pytest.raises(KeyboardInterrupt):
                MeanProbabilities(folder).add(number, dies, records)
            assert MeanProbabilities(folder).added == number
        MeanProbabilities(folder).add(number, member(seed), records)
        assert MeanProbabilities(folder).added == number + 1
    for record in records:
        slices = load(record)
        expected = np.mean([member(seed)(record, slices).astype(np.float64) for seed in seeds], axis=0)
        np.testing.assert_allclose(MeanProbabilities(folder).of(record, slices), expected, rtol=1e-6, atol=1e-30)


def test_a_patient_is_segmented_by_the_members_that_were_added_for_it(tmp_path: Path, records: list[Record]) -> None:
    mean = begun(tmp_path / "mean")
    mean.add(0, member(1), records[:1])
    mean.add(1, member(2), records[1:])
    assert (mean.of(records[0], load(records[0])) == member(1)(records[0], load(records[0]))).all()
    assert (mean.of(records[2], load(records[2])) == member(2)(records[2], load(records[2]))).all()
    with pytest.raises(Incomplete):
        begun(tmp_path / "empty").of(records[0], load(records[0]))


@pytest.mark.parametrize("harm", ["gone", "empty", "changed", "of an earlier member", "state gone"])
def test_what_was_damaged_or_lost_is_never_taken_for_the_mean(tmp_path: Path, records: list[Record], harm: str) -> None:
    mean = begun(tmp_path / "mean")
    mean.add(0, member(1), records)
    path = next(mean.folder.glob("*.npz"))
    earlier = path.read_bytes()
    mean.add(1, member(2), records)
    if harm == "state gone":
        (mean.folder / "state.json").unlink()
    elif harm == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        changed = content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:]
        path.write_bytes({"empty": b"", "changed": changed}.get(harm, earlier))
    with pytest.raises(Incomplete):
        evaluate(mean.of, records)
    if harm != "state gone":
        with pytest.raises(Incomplete):
            mean.add(2, member(3), records)
    begun(mean.folder)
    assert mean.added == (0 if harm == "state gone" else 2)
