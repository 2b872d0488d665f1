"""A delivery is taken if it is what the site's own record says it should be; of anything else nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

import client.delivery.accept
from client.delivery.model_card import load_card
from client.delivery.model_card_text import markdown
from client.delivery.store import outcomes
from client.evaluation import score_store
from client.governance.approval import approved
from client.governance.looks import note
from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import load, prepare
from client.site_config import SiteConfig, load_site
from client.stages.evaluate import answer_evaluate
from client.stages.order import VerifiedOrder
from client.stages.store import StageStore
from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError
from common.model.network import build
from common.model.weights import Weights, serialised
from common.model.weights import load as load_weights
from common.plan import method_of
from common.plan.graph import Evaluate, FineTune, Node
from common.plan.selection import offered
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.codec import from_record, to_record
from common.protocol.messages import DELIVER, Delivery, FineTuneReply, Receipt
from common.protocol.refusals import Refusal
from deploy.simulation.local_grid import enter_run
from tests.support.hospitals import approve_everywhere, small_study, write_hospitals
from tests.support.selected import best_row
from tests.support.site_calls import CENSUS, STUDY, call, described, order_of, planned, refused, send

pytestmark = pytest.mark.usefixtures("one_thread")


def environment() -> ExecutionEnvironment:
    found = described()
    return ExecutionEnvironment(found.fingerprint, found.torch, found.device, found.precision)


def delivery(models: list[Weights], row: int, study: Study = STUDY, **changes: Any) -> Delivery:
    """What an honest coordinator sends, with changes."""
    found = described(study)
    fields = {
        "study": study.digest,
        "census": json.dumps({**CENSUS, "A": found.train_slices}),
        "fingerprint": found.fingerprint,
        "role": "selected",
        "models": [digest_of(serialised(weights)) for weights in models],
        "row": row,
        "patients": (found.patients, 5, 6),
        "test_patients": (found.test_patients, 1, 2),
        "slices": (found.slices, 20, 30),
    }
    return Delivery.model_validate_json(json.dumps(fields | changes))


def deliver(message: Delivery, weights: Weights | None) -> Any:
    return call(DELIVER, to_record(message, weights))


def state_of(reply: Any) -> str:
    assert not reply.has_error(), reply.error
    receipt, weights = from_record(reply.content, Receipt)
    assert weights is None
    assert set(reply.content.config_records["message"]) == {"study", "state", "member"}, "no more"
    return receipt.state


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Weights]]:
    """Hospital A after all its stages of the study; with the weights of every row that it could be given."""
    folder = tmp_path_factory.mktemp("hospital")
    sites = write_hospitals(folder, {"A": 5}, slices=5)
    approve_everywhere(sites, STUDY)
    home = sites["A"].parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELAY_SITE", str(home / "site.toml"))
        enter_run(1)
        torch.set_num_threads(1)
        found, _ = planned()
        torch.manual_seed(0)
        starts = [build(STUDY.model).state_dict() for _ in range(2)]
        models: list[Weights] = []
        for row in offered(found, "A"):
            assert isinstance(row.model, FineTune) and row.test is not None
            start = starts[row.method == "sequential"]  # what came from B may be anything
            reply = send(order_of(row.model, start), start)
            assert not reply.has_error(), reply.error
            done, weights = from_record(reply.content, FineTuneReply)
            assert weights is not None and done.state == "done"
            models.append(weights)
            assert not send(order_of(row.test, weights), weights).has_error()
    shutil.rmtree(home / "private" / "stages")  # as after all is acknowledged
    return home, models


@pytest.fixture
def models(worked: tuple[Path, list[Weights]]) -> list[Weights]:
    return worked[1]


@pytest.fixture
def home(worked: tuple[Path, list[Weights]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hospital of a test's own."""
    folder = tmp_path / "A"
    shutil.copytree(worked[0], folder)
    monkeypatch.setenv("RELAY_SITE", str(folder / "site.toml"))
    enter_run(1)
    return folder


@pytest.fixture
def site(home: Path) -> SiteConfig:
    return load_site(home / "site.toml")


def validation_dices(site: SiteConfig, models: list[Weights]) -> list[float]:
    """By the site's record."""
    rows = offered(planned()[0], "A")
    found = []
    for row, weights in zip(rows, models, strict=True):
        node = Evaluate("A", row.fold, "validation", row.model)
        digest = digest_of(serialised(weights))
        scores = score_store.kept(site, stage_key(node, study=STUDY, weights=digest, environment=environment()))
        assert scores is not None
        found.append(scores.dice)
    return found


def best(site: SiteConfig, models: list[Weights], *, alone: bool = False) -> int:
    dices = validation_dices(site, models)
    rows = offered(planned()[0], "A")
    places = [k for k, row in enumerate(rows) if not alone or method_of(row.method).alone]
    entries = [{"method": rows[k].method, "route": rows[k].route, "dice": dices[k], "place": k} for k in places]
    return int(best_row(entries, "dice")["place"])


def nothing_was_written(home: Path) -> bool:
    return not (home / "private" / "received").exists()


def test_a_training_keeps_the_very_scores_that_scoring_its_weights_gives(
    site: SiteConfig, models: list[Weights]
) -> None:
    study = approved(site, STUDY.digest)
    (row, *_), weights = offered(planned()[0], "A"), models[0]
    node, digest = Evaluate("A", row.fold, "validation", row.model), digest_of(serialised(weights))
    key = stage_key(node, study=study, weights=digest, environment=environment())
    kept = score_store.kept(site, key)
    assert kept is not None
    cohort = gather(prepare(site, study.preprocessing).records, site, study.split)
    order = VerifiedOrder(site, study, node, key, cohort, environment(), digest, (digest,), weights, 0, (), "")
    reply = answer_evaluate(order, StageStore(site.private() / "elsewhere"))
    assert (reply.dice, reply.iou) == (kept.dice, kept.iou)
    assert score_store.kept(site, key) == kept
    assert reply.case_dices == tuple(patient.dice for patient in kept.patients)


def test_the_card_counts_the_models_that_were_scored_on_test_patients_in_all_studies(
    home: Path, site: SiteConfig, models: list[Weights]
) -> None:
    note(site, "e" * 64, "f" * 64)
    row = best(site, models)
    message = delivery(models, row, forgetting=())
    assert state_of(deliver(message, models[row])) == "done"
    card = load_card(site.private() / "received" / STUDY.digest / "selected.json")
    different = len({digest_of(serialised(weights)) for weights in models})
    assert (card.test_looks, card.test_studies) == (different + 1, 2)
    assert f"have been looked at {different + 1} times: so many models, of\n2 studies, were scored" in markdown(card)


def test_a_delivery_arrives_with_its_card(home: Path, site: SiteConfig, models: list[Weights]) -> None:
    row = best(site, models)
    message = delivery(models, row, forgetting=())
    assert state_of(deliver(message, None)) == "needs-weights"
    assert nothing_was_written(home)
    assert state_of(deliver(message, models[row])) == "done"
    (outcome,) = outcomes(site)
    card = outcome.selected.card
    assert card.weights == digest_of(serialised(models[row])) and card.checked
    kept = load_weights(outcome.selected.weights)
    assert all(torch.equal(kept[name], tensor) for name, tensor in models[row].items())
    assert (card.site, card.study, card.role) == ("A", STUDY.name, "selected")
    assert [hospital.patients for hospital in card.hospitals] == [5, 5, 6]
    expected = offered(planned()[0], "A")[row]
    assert (card.method, card.route, card.fold) == (expected.method, expected.route, expected.fold)
    assert {hospital.name for hospital in card.hospitals if hospital.trained} == set(expected.route)
    cohort = gather(prepare(site, STUDY.preprocessing).records, site, STUDY.split)
    slices = [load(record) for record in cohort.train(card.fold)]
    pixels = np.concatenate([one.image[one.selected].ravel() for one in slices]).astype(np.float64)
    assert (card.mean, card.std) == (pytest.approx(pixels.mean()), pytest.approx(pixels.std()))
    files = [path for path in (home / "private" / "received").rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert {path.parent.name for path in files} == {STUDY.digest}


def test_the_cards_scores_are_those_of_the_sites_own_test_patients(site: SiteConfig, models: list[Weights]) -> None:
    row = best(site, models)
    assert state_of(deliver(delivery(models, row), models[row])) == "done"
    (outcome,) = outcomes(site)
    card = outcome.selected.card
    rows = offered(planned()[0], "A")
    by_hand = {}
    for place in range(len(rows)):
        node = rows[place].test
        assert node is not None
        digest = digest_of(serialised(models[place]))
        scores = score_store.kept(site, stage_key(node, study=STUDY, weights=digest, environment=environment()))
        assert scores is not None
        (patient,) = scores.patients
        by_hand[digest] = 100 * patient.dice
    assert card.scores is not None and card.scores.dice.patients == 1
    assert card.scores.dice.mean == pytest.approx(by_hand[card.weights])
    (reference,) = card.references
    assert reference.method == "baseline" and reference.scores is not None
    assert reference.scores.dice.mean == pytest.approx(by_hand[reference.weights])
    if reference.weights != card.weights:
        assert reference.ahead is not None
        assert reference.ahead.mean == pytest.approx(by_hand[card.weights] - by_hand[reference.weights])


def test_the_same_delivery_again_changes_nothing_and_needs_no_weights(
    home: Path, site: SiteConfig, models: list[Weights]
) -> None:
    row = best(site, models)
    assert state_of(deliver(delivery(models, row), models[row])) == "done"
    folder = home / "private" / "received"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for weights in (None, models[row]):
        assert state_of(deliver(delivery(models, row), weights)) == "done"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_weights_that_were_damaged_are_told_and_come_again(home: Path, site: SiteConfig, models: list[Weights]) -> None:
    row = best(site, models)
    assert state_of(deliver(delivery(models, row), models[row])) == "done"
    (file,) = (home / "private" / "received").rglob("*.safetensors")
    content = file.read_bytes()
    for damaged in (content[:1000], content[:-1] + bytes([content[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        with pytest.raises(RelayError, match="not what its card says"):
            outcomes(site)
        assert state_of(deliver(delivery(models, row), None)) == "needs-weights"
        assert state_of(deliver(delivery(models, row), models[row])) == "done"
        assert file.read_bytes() == content
    assert len(outcomes(site)) == 1


def test_the_sites_own_model_comes_beside_another_that_was_selected(
    site: SiteConfig, models: list[Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = best(site, models, alone=True)
    assert state_of(deliver(delivery(models, alone, role="own"), models[alone])) == "done"
    assert outcomes(site) == [], "nothing is told of a study before what was selected is there"
    row = best(site, models)
    assert state_of(deliver(delivery(models, row), models[row])) == "done"
    (outcome,) = outcomes(site)
    if row == alone:
        assert outcome.own is None
    else:
        assert outcome.own is not None and outcome.own.card.weights == digest_of(serialised(models[alone]))


class TestAHostileCoordinator:
    """Of what is not right nothing is written, and a code is all that leaves."""

    def test_a_study_that_was_not_approved(self, home: Path, site: SiteConfig, models: list[Weights]) -> None:
        row = best(site, models)
        for study in ("0" * 64, small_study(name="other").digest):
            message = delivery(models, row, study=STUDY).model_copy(update={"study": study})
            assert refused(deliver(message, models[row]), Refusal.UNKNOWN_STUDY)
        assert nothing_was_written(home)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda weights, name: weights | {name: weights[name] + 1},
            lambda weights, name: weights | {"more": torch.ones(1)},
            lambda weights, name: {other: tensor for other, tensor in weights.items() if other != name},
            lambda weights, name: weights | {name: weights[name].double()},
            lambda weights, name: weights | {name: weights[name].flatten()},
            lambda weights, name: weights | {name: torch.full_like(weights[name], torch.nan)},
            lambda weights, name: {"../../model": torch.ones(1)},
            lambda weights, name: {},
        ],
    )
    def test_other_weights(
        self, home: Path, site: SiteConfig, models: list[Weights], spoil: Callable[[Weights, str], Weights]
    ) -> None:
        row = best(site, models)
        name = next(name for name, tensor in models[row].items() if tensor.dim() == 4)
        wrong = spoil(models[row], name)
        assert refused(deliver(delivery(models, row), wrong), Refusal.BAD_WEIGHTS)
        named = [wrong if k == row else weights for k, weights in enumerate(models)]
        assert refused(deliver(delivery(named, row), wrong), Refusal.NOT_SELECTED), "they were never scored here"
        assert nothing_was_written(home)

    def test_a_scored_model_in_the_place_of_a_better_one_that_is_named_otherwise(
        self, home: Path, site: SiteConfig, models: list[Weights]
    ) -> None:
        row = best(site, models)
        other = next(k for k in range(len(models)) if k != row)
        hidden = [{"x": torch.ones(1)} if k == row else weights for k, weights in enumerate(models)]
        assert refused(deliver(delivery(hidden, other), models[other]), Refusal.NOT_SELECTED)
        assert nothing_was_written(home)

    def test_a_better_model_that_is_said_to_be_left_out(
        self, home: Path, site: SiteConfig, models: list[Weights]
    ) -> None:
        """The approved study parks what an absent site is needed for; nothing of it is ever left out."""
        row = best(site, models)
        other = next(k for k in range(len(models)) if k != row)
        message = delivery(models, other).model_copy(update={"left_out": (row,)})
        assert refused(deliver(message, models[other]), Refusal.NOT_SELECTED)
        message = delivery(models, row).model_copy(update={"left_out": (99,)})
        assert refused(deliver(message, models[row]), Refusal.NOT_SELECTED)
        assert nothing_was_written(home)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "../../model.safetensors"),
            ("path", "/etc/passwd"),
            ("role", "../../own"),
            ("role", "/tmp/x"),
            ("row", "0"),
            ("row", "../../x"),
            ("row", 99),
            ("patients", ["Smith", "5", "6"]),
            ("patients", [1, 2]),
            ("models", ["../../x"] * 4),
            ("forgetting", [2.0, 0.1, 0.1]),
            ("census", 3),
        ],
    )
    def test_what_was_not_declared(
        self, home: Path, site: SiteConfig, models: list[Weights], field: str, value: Any
    ) -> None:
        row = best(site, models)
        record = to_record(delivery(models, row), models[row])
        record.config_records["message"][field] = value
        assert refused(call(DELIVER, record), Refusal.BAD_MESSAGE)
        assert nothing_was_written(home)

    def test_other_records_beside_it(self, home: Path, site: SiteConfig, models: list[Weights]) -> None:
        row = best(site, models)
        extra = {
            "card": ConfigRecord({"text": "trust me"}),
            "../letter.html": ConfigRecord({"text": "<script>"}),
            "more": ArrayRecord({"x": Array(np.zeros(3))}),
        }
        for name, content in extra.items():
            record: RecordDict = to_record(delivery(models, row), models[row])
            record[name] = content
            assert refused(call(DELIVER, record), Refusal.BAD_MESSAGE)
        assert nothing_was_written(home)

    def test_numbers_of_other_sites_or_hops(self, home: Path, site: SiteConfig, models: list[Weights]) -> None:
        row = best(site, models)
        two = {"patients": (1, 2), "test_patients": (1, 1), "slices": (3, 4)}
        for changes in (two, {"forgetting": (0.5,) * 9}):
            assert refused(deliver(delivery(models, row, **changes), models[row]), Refusal.BAD_MESSAGE)
        assert nothing_was_written(home)

    def test_weights_that_the_sites_own_validation_does_not_choose(
        self, home: Path, site: SiteConfig, models: list[Weights]
    ) -> None:
        row = best(site, models)
        dices = validation_dices(site, models)
        worse = [k for k in range(len(models)) if dices[k] < dices[row]]
        assert worse
        for place in worse:
            assert refused(deliver(delivery(models, place), models[place]), Refusal.NOT_SELECTED)
        alone = best(site, models, alone=True)
        rows = offered(planned()[0], "A")
        for place, other in enumerate(rows):
            if place != alone and not (method_of(other.method).alone and dices[place] == dices[alone]):
                code = Refusal.NOT_SELECTED if method_of(other.method).alone else Refusal.NOT_IN_STUDY
                assert refused(deliver(delivery(models, place, role="own"), models[place]), code)
        assert nothing_was_written(home)

    def test_rows_that_are_none_of_the_study(self, home: Path, site: SiteConfig, models: list[Weights]) -> None:
        row = best(site, models)
        for others in (models[:-1], [*models, models[0]]):
            place = min(row, len(others) - 1)
            assert refused(deliver(delivery(others, place), others[place]), Refusal.NOT_IN_STUDY)
        for changes in ({"choices": '{"A": ["B"]}'}, {"census": "[]"}, {"census": "{}"}):
            assert refused(deliver(delivery(models, row, **changes), models[row]), Refusal.NOT_IN_STUDY)
        assert nothing_was_written(home)

    def test_other_data_than_were_described(self, home: Path, site: SiteConfig, models: list[Weights]) -> None:
        row = best(site, models)
        message = delivery(models, row)
        own = described().train_slices
        for changes in (
            {"fingerprint": "0" * 64},
            {"census": json.dumps({**CENSUS, "A": [own[0] + 1, own[1]]})},
        ):
            assert refused(deliver(message.model_copy(update=changes), models[row]), Refusal.DATA_CHANGED)
        for path in (home / "images").glob("Case01*"):
            path.unlink()
        assert refused(deliver(message, models[row]), Refusal.DATA_CHANGED)
        assert nothing_was_written(home)

    def test_an_error_at_the_site_is_a_code(
        self, home: Path, site: SiteConfig, models: list[Weights], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = best(site, models)

        def fails(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left", f"/data/{home}")

        monkeypatch.setattr(client.delivery.accept, "write_atomically", fails)
        assert refused(deliver(delivery(models, row), models[row]), Refusal.DISK_FULL)
        assert outcomes(site) == []


def test_where_the_record_is_gone_the_card_says_that_it_was_not_checked(
    home: Path, site: SiteConfig, models: list[Weights]
) -> None:
    shutil.rmtree(home / "private" / "scores")
    for wrong in ({"x": torch.ones(1)}, models[0]):
        assert refused(deliver(delivery(models, 1), wrong), Refusal.BAD_WEIGHTS)
    assert state_of(deliver(delivery(models, 1), models[1])) == "done"
    (outcome,) = outcomes(site)
    card = outcome.selected.card
    assert not card.checked and card.scores is None and card.references == () and card.validation_dice is None
    assert outcome.selected.differences == {}
    assert card.mean > 0, "what predicting needs is worked out from the images"


def test_weights_that_still_lie_at_the_site_need_not_travel(
    home: Path, site: SiteConfig, models: list[Weights]
) -> None:
    row = best(site, models)
    node: Node = offered(planned()[0], "A")[row].model
    assert isinstance(node, FineTune)
    torch.manual_seed(0)
    starts = [build(STUDY.model).state_dict() for _ in range(2)]
    start = starts[offered(planned()[0], "A")[row].method == "sequential"]
    assert not send(order_of(node, start), start).has_error()
    assert state_of(deliver(delivery(models, row), None)) == "done"
    assert outcomes(site)[0].selected.card.weights == digest_of(serialised(models[row]))
