"""A coordinator solves the equations of many repeats for single patients.

Each repeat of a study divides the same patients anew. Every number of slices and every Dice is a sum over a set of
patients, and who is in which set follows from the study's seed and the names of the patients' files (Case00, …). Twelve
repeats with a test set and two folds are 36 equations with 24 unknowns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from client.data.site_key import split_key
from client.data.splits import split
from client.governance.approval import approve
from client.governance.released_sets import LOG
from client.preprocessing.pipeline import prepare
from client.site_config import load_site
from common.config.study import Study
from common.errors import RelayError
from common.model.network import build
from common.model.weights import Weights
from common.plan.graph import Evaluate
from common.protocol.codec import from_record, to_record
from common.protocol.messages import DESCRIBE, Describe, Description, EvaluateReply
from common.protocol.refusals import Refusal
from deploy.simulation.local_grid import enter_run
from deploy.site.approve import approve_study
from tests.support.hospitals import patient, small_study, write_pair, write_site
from tests.support.site_calls import call, order_of, planned, refused, send

NAMES = [f"Case{k:02}" for k in range(24)]
REPEATS = small_study(
    repeats=12,
    methods={"baseline": True, "sequential": {"routes": (("B", "A"),)}, "federated": ({"rounds": 1},)},
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 patients, of 6 to 15 slices."""
    folder = tmp_path_factory.mktemp("hospital") / "images"
    for k, name in enumerate(NAMES):
        write_pair(folder, name, *patient(k, slices=6 + (7 * k) % 10))
    return folder


@pytest.fixture
def attacked(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Attacked:
    return _Attacked(images, tmp_path, monkeypatch)


class _Attacked:
    """A hospital, and what its coordinator makes of the answers."""

    def __init__(self, images: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        enter_run(1)
        self.images, self.folder, self.monkeypatch = images, folder, monkeypatch
        self.refusals = 0

    def approves(self, study: Study, **keys: object) -> None:
        defaults = {"images": str(self.images), "patient_scores": False}
        self.path = write_site(self.folder, "A", **{**defaults, **keys})
        # A secret is drawn at random; this one is as good as any, and the same in every run of the test.
        secret = load_site(self.path).private() / "site.key"
        secret.write_bytes(bytes(range(32)))
        self.monkeypatch.setenv("RELAY_SITE", str(self.path))
        approve(load_site(self.path), study)

    def counts(self) -> NDArray[np.float64]:
        """The truth: the selected slices of each patient."""
        records = prepare(load_site(self.path), REPEATS.preprocessing).records
        return np.array([record.selected for record in sorted(records, key=lambda record: record.patient)], float)

    def describes(self, study: Study) -> Description | None:
        while True:
            reply = call(DESCRIBE, to_record(Describe(study=study.digest)))
            if reply.has_error():
                assert refused(reply, Refusal.COMBINED)
                self.refusals += 1
                return None
            description, _ = from_record(reply.content, Description)
            if description.complete:
                return description

    def slice_equations(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What every variant's description says, as equations: a row of patients, and the sum over them."""
        rows, sums = [], []
        for variant in REPEATS.variants:
            description = self.describes(variant)
            if description is None:
                continue
            guessed = split(NAMES, variant.split, site="A")
            sets = [guessed.test, guessed.train(0), guessed.train(1)]
            rows += [[name in one for name in NAMES] for one in sets]
            sums += [description.test_slices, *description.train_slices]
        return np.array(rows, float), np.array(sums, float)


def determined(rows: NDArray[np.float64]) -> list[int]:
    """The patients of whom the equations leave nothing open, by numpy's pseudo-inverse."""
    projection = np.linalg.pinv(rows) @ rows
    return [k for k in range(len(NAMES)) if projection[k, k] > 1 - 1e-9]


def test_without_protection_every_patient_is_found(attacked: _Attacked) -> None:
    """That the attack is one: as the site's own words at the approval say."""
    attacked.approves(REPEATS)
    rows, sums = attacked.slice_equations()
    solved = np.linalg.lstsq(rows, sums, rcond=None)[0]
    assert rows.shape == (36, 24) and determined(rows) == list(range(24))
    np.testing.assert_allclose(solved, attacked.counts(), atol=1e-6)


def test_with_a_secret_split_the_equations_say_nothing(attacked: _Attacked) -> None:
    attacked.approves(REPEATS, split_key="site")
    rows, sums = attacked.slice_equations()
    solved = np.linalg.lstsq(rows, sums, rcond=None)[0]
    assert rows.shape == (36, 24), "the hospital answers all repeats"
    assert np.abs(rows @ attacked.counts() - sums).max() > 3, "the sums are over other sets than the coordinator thinks"
    right = np.count_nonzero(np.rint(solved) == attacked.counts())
    assert right < 12, "a few agree by chance: the patients have 3 to 13 slices"


def test_a_minimum_of_five_leaves_nobody_determined(attacked: _Attacked) -> None:
    """Though the coordinator knows who is in which set: the repeats that would tell are refused."""
    attacked.approves(REPEATS, minimum_patients=5)
    rows, _ = attacked.slice_equations()
    assert len(rows) == 3 and attacked.refusals == 11
    assert determined(rows) == []
    alike = [np.count_nonzero((column == rows.T).all(axis=1)) for column in rows.T]
    assert min(alike) >= 5, "whatever is known of patients, five of them are in the same sets"
    assert (load_site(attacked.path).private() / LOG).stat().st_mode & 0o077 == 0


def test_repeats_by_a_secret_do_not_tell_even_who_learns_the_secret(attacked: _Attacked) -> None:
    attacked.approves(REPEATS, minimum_patients=5, split_key="site")
    site, answered = load_site(attacked.path), []
    for variant in REPEATS.variants:
        if attacked.describes(variant) is not None:
            divided = split(NAMES, variant.split, site="A", key=split_key(site))
            answered += [divided.test, divided.train(0), divided.train(1)]
    rows = np.array([[name in one for name in NAMES] for one in answered], float)
    assert len(rows) >= 9, "a few repeats are answered"
    assert determined(rows) == [] and attacked.refusals > 0
    # Nor is any sum over two to four patients found: without them, the other columns have the same rank.
    rank = np.linalg.matrix_rank(rows)
    random = np.random.default_rng(0)
    for _ in range(300):
        some = random.choice(24, size=4, replace=False)
        assert np.linalg.matrix_rank(np.delete(rows, some, axis=1)) == rank


@pytest.mark.slow
def test_dice_of_one_patient_is_not_found_either(attacked: _Attacked) -> None:
    """The same weights are sent in every repeat, in the place of those that B and the rounds are said to have made."""

    def equations() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        torch.manual_seed(0)
        weights: Weights = build(REPEATS.variants[0].model).state_dict()
        rows, sums = [], []
        for variant in REPEATS.variants:
            if attacked.describes(variant) is None:
                continue
            guessed = split(NAMES, variant.split, site="A")
            asked: set[tuple[str, ...]] = set()
            for node in planned(variant)[0].nodes:
                if not isinstance(node, Evaluate) or node.site != "A":
                    continue
                over = guessed.test if node.split == "test" else guessed.validation[node.fold]
                reply = send(order_of(node, weights, variant), weights) if over not in asked else None
                if reply is None or reply.has_error():
                    continue
                asked.add(over)
                answer, _ = from_record(reply.content, EvaluateReply)
                rows.append([name in over for name in NAMES])
                sums.append(answer.dice_volume * answer.patients)
        return np.array(rows, float), np.array(sums, float)

    attacked.approves(REPEATS, minimum_patients=5)
    rows, sums = equations()
    assert len(rows) >= 3 and determined(rows) == []
    means = sums / rows.sum(axis=1)
    np.testing.assert_allclose(means, np.round(means, 4), atol=1e-12, err_msg="figures leave rounded")


def test_the_hospital_hears_of_it_before_it_approves(attacked: _Attacked) -> None:
    attacked.approves(small_study(), minimum_patients=5)
    site = load_site(attacked.path)
    with pytest.raises(RelayError, match='would tell of fewer than 5 patients .* or set split_key = "site"'):
        approve_study(site, REPEATS, yes=True)
    assert approve_study(site, REPEATS.model_copy(update={"repeats": 1}), yes=True) == 0


def test_one_patient_more_is_one_patient_found(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same study, approved again after a patient has come: the difference of two totals is the new patient."""
    folder = tmp_path / "images"
    for name in NAMES[:23]:
        for ending in (".nii.gz", "_segmentation.nii.gz"):
            (folder / f"{name}{ending}").parent.mkdir(exist_ok=True)
            (folder / f"{name}{ending}").symlink_to(images / f"{name}{ending}")
    attacked = _Attacked(folder, tmp_path, monkeypatch)
    study = small_study()
    attacked.approves(study, minimum_patients=5, split_key="site")
    assert attacked.describes(study) is not None
    for ending in (".nii.gz", "_segmentation.nii.gz"):
        (folder / f"{NAMES[23]}{ending}").symlink_to(images / f"{NAMES[23]}{ending}")
    changed = call(DESCRIBE, to_record(Describe(study=study.digest)))
    while not changed.has_error():
        changed = call(DESCRIBE, to_record(Describe(study=study.digest)))
    assert refused(changed, Refusal.DATA_CHANGED), "without --again, changed data are not described"
    approve(load_site(attacked.path), study)
    assert attacked.describes(study) is None and attacked.refusals == 1
