"""No patient stands on two sides: of train, validation and test, of two folds, of pooled training and a test."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import app as client_app
from client.data import layouts
from client.evaluation import evaluate
from client.preprocessing.cohort import Cohort, gather
from client.preprocessing.pipeline import Record, load, prepare
from client.site_config import SiteConfig, load_site
from client.training import batches
from common.config.study import SplitConfig, Study
from common.config.values import POOLED
from common.digest import digest_of
from common.model.weights import Weights, serialised
from common.plan import plan
from common.plan.graph import Evaluate, FineTune
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.codec import from_record, to_record
from common.protocol.messages import (
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    Describe,
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
)
from deploy.simulation.local_grid import RUN_ID, enter_run
from server.initial_weights import start_weights
from tests.support.hospitals import (
    approve_everywhere,
    patient,
    small_study,
    write_decathlon_patient,
    write_dicom_patient,
    write_hospitals,
    write_i2cvb_patient,
    write_labelled_patient,
    write_pair,
    write_picai_patient,
    write_pooled,
    write_promise12_patient,
    write_prostate158_patient,
    write_site,
)

SIDES = ("A", "B", "C")


@pytest.fixture(scope="module")
def empty_sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, SiteConfig], SiteConfig]:
    folder = tmp_path_factory.mktemp("sites")
    paths = {name: write_site(folder / name, name) for name in SIDES}
    return {name: load_site(path) for name, path in paths.items()}, load_site(write_pooled(folder, paths))


def records(site: str, names: list[str]) -> list[Record]:
    return [
        Record(
            name,
            site,
            Path("nowhere"),
            slices=9,
            selected=5,
            below=1,
            digest=f"{site}{name}",
            beyond=0.0,
            ceiling=0.99,
            image_digest=name,
        )
        for name in names
    ]


def sides(cohort: Cohort, fold: int) -> Counter[str]:
    test, validation, train = cohort.test(), cohort.validation(fold), cohort.train(fold)
    assert test and validation and train
    return Counter(record.patient for record in (*test, *validation, *train))


NAMES = st.lists(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\n"), min_size=1, max_size=8),
    min_size=14,
    max_size=40,
    unique=True,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    members=st.tuples(NAMES, NAMES, NAMES),
    seed=st.integers(0, 2**32),
    fraction=st.sampled_from([0.1, 0.2, 0.3, 0.5]),
    folds=st.integers(2, 5),
)
def test_no_patient_stands_on_two_sides(
    empty_sites: tuple[dict[str, SiteConfig], SiteConfig],
    members: tuple[list[str], list[str], list[str]],
    seed: int,
    fraction: float,
    folds: int,
) -> None:
    """Names may be any text, also such that hold another site's name and a stroke."""
    sites, pooled_site = empty_sites
    part = SplitConfig(seed=seed, test_fraction=fraction, folds=folds)
    cohorts = {
        name: gather(records(name, patients), sites[name], part) for name, patients in zip(SIDES, members, strict=True)
    }
    united = [
        record
        for name, patients in zip(SIDES, members, strict=True)
        for record in records(name, [f"{name}/{patient}" for patient in patients])
    ]
    pooled = gather(united, pooled_site, part)
    everybody = Counter(record.patient for record in united)
    for name, patients in zip(SIDES, members, strict=True):
        cohort = cohorts[name]
        validated = [record.patient for fold in range(folds) for record in cohort.validation(fold)]
        assert Counter([*validated, *(record.patient for record in cohort.test())]) == Counter(patients)
        for fold in range(folds):
            assert sides(cohort, fold) == Counter(patients)
    for fold in range(folds):
        assert sides(pooled, fold) == everybody
        held_out = {f"{name}/{record.patient}" for name in SIDES for record in cohorts[name].test()}
        assert {record.patient for record in pooled.test()} == held_out
        for name in SIDES:
            own = {f"{name}/{record.patient}" for record in cohorts[name].train(fold)}
            assert own == {record.patient for record in pooled.train(fold) if record.site == name}


WRITERS: dict[str, Callable[..., None]] = {
    "decathlon": write_decathlon_patient,
    "dicom": write_labelled_patient,
    "i2cvb": write_i2cvb_patient,
    "nci-isbi": write_dicom_patient,
    "nifti-pairs": lambda folder, *patient: write_pair(folder / "images", *patient),
    "picai": write_picai_patient,
    "promise12": write_promise12_patient,
    "prostate158": write_prostate158_patient,
}


def write_patients(folder: Path, layout: str, count: int, *, named: bool) -> Path:
    for k in range(count):
        image, mask = patient(500 + k, slices=6)
        WRITERS[layout](folder, f"Patient {k:02}", image, mask)
    keys = {"masks": "labels"} if layout in ("nci-isbi", "picai") else {}
    return write_site(folder, "A", layout=layout if named else "auto", **keys)


def test_every_layout_is_among_those_tested_here() -> None:
    assert set(WRITERS) == set(layouts.known())


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize(("count", "folds"), [(7, 5), (9, 2), (11, 3)])
def test_no_image_stands_on_two_sides_in_any_layout(
    tmp_path: Path, layout: str, named: bool, count: int, folds: int
) -> None:
    """By what the files hold, whatever they are called."""
    path = write_patients(tmp_path, layout, count, named=named)
    study = small_study(split={"folds": folds})
    prepared = prepare(load_site(path), study.preprocessing)
    assert len(prepared.records) == count
    cohort = gather(prepared.records, load_site(path), study.split)
    for fold in range(folds):
        placed = [*cohort.test(), *cohort.validation(fold), *cohort.train(fold)]
        pictures = [np.ascontiguousarray(plane).tobytes() for record in placed for plane in load(record).image]
        assert len(set(pictures)) == len(pictures) == 6 * count


def _full_name(record: Record) -> str:
    return record.patient if "/" in record.patient else f"{record.site}/{record.patient}"


class Hospital:
    """A site's client app in this process; it notes whose slices are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, study: Study, sites: dict[str, Path]) -> None:
        self.study, self.sites, self.monkeypatch = study, sites, monkeypatch
        self.read: set[str] = set()
        self.scored: set[str] = set()
        monkeypatch.setattr(batches, "load", self._train)
        monkeypatch.setattr(evaluate, "load", self._score)
        enter_run(1)

    def _train(self, record: Record) -> object:
        self.read.add(_full_name(record))
        return load(record)

    def _score(self, record: Record) -> object:
        self.scored.add(_full_name(record))
        return self._train(record)

    def ask(self, site: str, record: RecordDict, type_: str) -> RecordDict:
        self.read.clear()
        self.scored.clear()
        self.monkeypatch.setenv("RELAY_SITE", str(self.sites[site]))
        message = Message(record, dst_node_id=1, message_type=type_)
        context = Context(run_id=RUN_ID, node_id=1, node_config={}, state=RecordDict(), run_config={})
        reply = client_app.app(message, context)
        assert not reply.has_error(), reply.error
        return reply.content


@pytest.mark.slow
def test_no_stage_reads_a_patient_of_another_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """Every stage of a study with all data pooled, at all sites, folds and splits, as the hospitals' app does it."""
    sites = write_hospitals(tmp_path, {"A": 7, "B": 8, "C": 6}, slices=7)
    sites |= {POOLED: write_pooled(tmp_path, sites)}
    study = small_study(
        training={"epochs": 1, "augmentation": "none"},
        split={"folds": 3, "source": "same-fold"},
        methods={"baseline": True, "sequential": {"routes": (("B", "A"),)}, "pooled": True, "leave_out": True},
    )
    approve_everywhere(sites, study)
    hospital = Hospital(monkeypatch, study, sites)
    descriptions: dict[str, Description] = {}
    for name in sites:
        reply = hospital.ask(name, to_record(Describe(study=study.digest)), DESCRIBE)
        descriptions[name], _ = from_record(reply, Description)
    trained: dict[tuple[str, int], set[str]] = {}
    elsewhere: dict[tuple[str, int], set[str]] = {}
    """By site left out and fold, whom a training on the pooled data of the others reads."""
    tested: dict[tuple[str, int], set[str]] = {}
    start = start_weights(study, tmp_path)
    for node, order in orders(study, descriptions, start):
        if isinstance(node, FineTune):
            hospital.ask(node.site, to_record(order, start), FINE_TUNE)
            if node.without:
                elsewhere[node.without[0], node.fold] = set(hospital.read)
            else:
                trained[node.site, node.fold] = set(hospital.read)
        elif node.split == "test":
            answer, _ = from_record(hospital.ask(node.site, to_record(order, start), EVALUATE), EvaluateReply)
            # Beside the test patients only those are read who trained: images are standardised with their statistics.
            tested[node.site, node.fold] = set(hospital.scored)
            assert answer.patients == len(hospital.scored)
            assert not hospital.scored & trained.get((node.site, node.fold), set())
    held_out = {site: patients for (site, _), patients in tested.items()}
    assert {fold for _, fold in trained} == {0, 1, 2}
    assert {site for site, _ in trained} == set(sites)
    assert {site for site, _ in tested} == {"A", "B", "C"}
    for (site, _), patients in trained.items():
        for other, out in held_out.items():
            assert not patients & out, f"training at {site} reads test patients of {other}"
    for (site, fold), patients in elsewhere.items():
        assert patients == {patient for patient in trained[POOLED, fold] if not patient.startswith(f"{site}/")}
    assert elsewhere.keys() == {(name, fold) for name in ("A", "B", "C") for fold in range(3)}
    for name in ("A", "B", "C"):
        # A site's three folds read all but its test patients, and its test is one and the same in every fold.
        everybody = {
            f"{name}/{record.patient}" for record in prepare(load_site(sites[name]), study.preprocessing).records
        }
        for fold in range(3):
            assert trained[name, fold] | held_out[name] == everybody
            assert tested[name, fold] == held_out[name]


def orders(
    study: Study, descriptions: dict[str, Description], start: Weights
) -> Iterator[tuple[FineTune | Evaluate, FineTuneOrder | EvaluateOrder]]:
    """Every order of the study's plan, each from the first weights: who is read does not depend on them."""
    census = {name: description.train_slices for name, description in descriptions.items()}
    digest = digest_of(serialised(start))
    seen = set()
    for node in plan(study, census).nodes:
        if not isinstance(node, FineTune | Evaluate):
            continue
        here = descriptions[node.site]
        place = ExecutionEnvironment(
            fingerprint=here.fingerprint, torch=here.torch, device=here.device, precision=here.precision
        )
        key = stage_key(node, study=study, weights=digest, environment=place)
        if key in seen:  # the site would answer from disk, and read nobody
            continue
        seen.add(key)
        kind = FineTuneOrder if isinstance(node, FineTune) else EvaluateOrder
        yield (
            node,
            kind(
                study=study.digest,
                node=node.id,
                key=key,
                weights=digest,
                census=json.dumps(census),
                fingerprint=here.fingerprint,
            ),
        )
