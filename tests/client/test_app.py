"""The hospital's app, called as Flower calls it: it does what its approved study asks, once, and nothing else."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

import client.stages.evaluate
import client.stages.fine_tune
import client.stages.order
import client.training.collapse
from client.app import app
from client.data.survey import survey
from client.evaluation.evaluate import evaluate, volume_mean
from client.evaluation.scoring import predictions, validated
from client.governance.approval import approvals, approve, leave
from client.governance.disclosure import disclosure_of
from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import prepare
from client.site_config import load_site
from client.training.batches import statistics
from client.training.device import choose_device, place
from common.digest import digest_of
from common.model.network import build
from common.model.weights import Weights, serialised
from common.plan import plan
from common.plan.graph import Ensemble, Evaluate, FineTune, Start
from common.plan.stage_key import ExecutionEnvironment, ensemble_digest, stage_key
from common.protocol.codec import from_record, to_record
from common.protocol.messages import (
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    Describe,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    WireMessage,
)
from common.protocol.refusals import REFUSALS, Refusal
from common.scores import CALIBRATION, GLAND
from deploy.simulation.local_grid import enter_run
from tests.support.hospitals import approve_everywhere, small_study, write_hospitals
from tests.support.site_calls import CENSUS, STUDY, call, described, first, order_of, planned, refused, send, trained

LEGS = small_study(methods={"baseline": True}, training={"leg_minutes": 0.0})
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hospital A, its data prepared and no stage done yet."""
    folder = tmp_path_factory.mktemp("hospital")
    sites = write_hospitals(folder, {"A": 4}, slices=5)
    approve_everywhere(sites, STUDY)
    approve_everywhere(sites, LEGS)
    return sites["A"].parent


@pytest.fixture
def home(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hospital A of a test's own."""
    folder = tmp_path / "A"
    shutil.copytree(prepared, folder)
    monkeypatch.setenv("RELAY_SITE", str(folder / "site.toml"))
    enter_run(1)
    return folder


@pytest.fixture(scope="module")
def start() -> Weights:
    torch.manual_seed(0)
    return build(STUDY.model).state_dict()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for every epoch that was trained."""
    epochs: list[int] = []
    real = client.stages.fine_tune.fine_tune

    def counted(*args: Any, **more: Any) -> Iterator[Any]:
        for state in real(*args, **more):
            epochs.append(state.epoch)
            yield state

    monkeypatch.setattr(client.stages.fine_tune, "fine_tune", counted)
    return epochs


def test_a_site_says_how_much_it_has(home: Path) -> None:
    description = described()
    assert (description.site, description.patients_found, description.patients) == ("A", 4, 4)
    assert description.test_patients == 1 and description.left_out == 0
    assert sorted(description.validation_patients) == [1, 2]
    assert [a + b for a, b in zip(description.train_patients, description.validation_patients, strict=True)] == [3, 3]
    assert (description.device, description.torch) == ("cpu", torch.__version__)
    assert description == described()


def test_a_study_that_was_not_approved_is_refused(home: Path) -> None:
    other = small_study(name="other", methods={"baseline": True})
    assert refused(call(DESCRIBE, to_record(Describe(study=other.digest))), Refusal.UNKNOWN_STUDY)
    order = order_of(first(FineTune), {}).model_copy(update={"study": other.digest})
    assert refused(send(order, None), Refusal.UNKNOWN_STUDY)


def test_an_approved_file_that_was_changed_is_approved_no_longer(home: Path) -> None:
    path = load_site(home / "site.toml").private() / "approved" / f"{STUDY.digest}.toml"
    path.write_text(path.read_text().replace("epochs = 2", "epochs = 3"))
    assert refused(call(DESCRIBE, to_record(Describe(study=STUDY.digest))), Refusal.UNKNOWN_STUDY)


@pytest.mark.slow
def test_a_stage_is_trained_and_scored(home: Path, start: Weights) -> None:
    reply, weights = trained(send(order_of(first(FineTune), start), start))
    assert reply.state == "done" and reply.epoch == 2 and weights is not None
    assert reply.weights == digest_of(serialised(weights))
    (node,) = (n for n in planned()[0].nodes if isinstance(n, Evaluate) and n.weights == first(FineTune))
    answer = send(order_of(node, weights), None)  # it made these weights and still has them
    score, nothing = from_record(answer.content, EvaluateReply)
    assert score.state == "done" and score.patients == 1 and nothing is None
    assert 0 <= score.iou <= score.dice <= 1
    assert len(score.case_numbers) == 1


def test_figures_of_gland_and_probabilities_are_of_test_patients_alone(home: Path, start: Weights) -> None:
    study = small_study(methods={"baseline": False, "federated": ({"strategy": "fedavg", "rounds": 1},)})
    approve_everywhere({"A": home / "site.toml"}, study)
    nodes = [node for node in planned(study)[0].nodes if isinstance(node, Evaluate) and node.site == "A"]
    for split in ("validation", "test"):
        node = next(node for node in nodes if node.split == split)
        reply, _ = from_record(send(order_of(node, start, study), start).content, EvaluateReply)
        assert reply.state == "done"
        found = {name: getattr(reply, name) for name in ("volume_patients", "thirds_patients", "calibration_patients")}
        assert found == dict.fromkeys(found, reply.patients if split == "test" else 0)
        values = [getattr(reply, score.key) for score in (*GLAND, *CALIBRATION)]
        assert any(values) == (split == "test")


def test_without_the_weights_a_stage_asks_for_them(home: Path, start: Weights, trainings: list[int]) -> None:
    for kind, reply in ((FineTune, FineTuneReply), (Evaluate, EvaluateReply)):
        answer = send(order_of(first(kind), start), None)  # type: ignore[arg-type]
        found: Any = from_record(answer.content, reply)[0]
        assert found.state == "needs-weights"
    assert trainings == []


def test_an_order_that_comes_twice_is_answered_from_disk(home: Path, start: Weights, trainings: list[int]) -> None:
    order = order_of(first(FineTune), start)
    once, weights = trained(send(order, start))
    assert trainings == [1, 2]
    for brought in (start, None):
        again, same = trained(send(order, brought))
        assert again == once
        assert same is not None and weights is not None
        assert digest_of(serialised(same)) == digest_of(serialised(weights))
    assert trainings == [1, 2]


@pytest.mark.slow
def test_a_stage_whose_answer_was_refused_is_worked_out_from_its_beginning(
    home: Path, start: Weights, trainings: list[int]
) -> None:
    order = order_of(first(FineTune), start)
    once, _ = trained(send(order, start))
    restart = order.model_copy(update={"restart_token": "0" * 16})
    again, _ = trained(send(restart, start))
    assert again == once
    assert trainings == [1, 2, 1, 2]
    assert trained(send(restart, start))[0] == once
    assert trainings == [1, 2, 1, 2], "the same order, which came twice"
    # Any number of tokens would repeat the training any number of times; not even what was acknowledged begins again.
    for acknowledged in ((), (order.key,)):
        further = restart.model_copy(update={"restart_token": "1" * 16, "acknowledged": acknowledged})
        assert refused(send(further, start), Refusal.RESTARTED)
    assert trainings == [1, 2, 1, 2]
    approve_everywhere({"A": home / "site.toml"}, STUDY)
    trained(send(restart.model_copy(update={"restart_token": "1" * 16}), start))
    assert trainings == [1, 2, 1, 2, 1, 2]


def test_kept_weights_whose_loss_is_not_finite_are_answered_as_a_diverged_training(
    home: Path, start: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the kept weights is measured only where a training may have collapsed."""
    study = small_study(methods={"sequential": {"routes": (("B", "A"),)}}, collapse=0.99)
    approve_everywhere({"A": home / "site.toml"}, study)
    hop = next(node for node in planned(study)[0].nodes if isinstance(node, FineTune) and node.site == "A")
    assert not isinstance(hop.parent, Start)
    monkeypatch.setattr(client.training.collapse, "loss_of", lambda *_: torch.tensor(torch.inf))
    reply = send(order_of(hop, start, study), start)
    assert refused(reply, Refusal.DIVERGED)
    assert not list(home.glob("private/stages/*/reply.json"))


@pytest.mark.slow
def test_a_score_that_is_asked_for_twice_is_not_worked_out_twice(
    home: Path, start: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(first(Evaluate), start)
    once = from_record(send(order, start).content, EvaluateReply)
    monkeypatch.setattr(client.stages.evaluate, "evaluate", lambda *_, **__: pytest.fail("it was worked out again"))
    assert from_record(send(order, None).content, EvaluateReply) == once


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["lost", "cut off", "changed"])
def test_an_answer_whose_weights_are_lost_is_worked_out_again(
    home: Path, start: Weights, trainings: list[int], damage: str
) -> None:
    order = order_of(first(FineTune), start)
    once, _ = trained(send(order, start))
    (path,) = home.glob("private/stages/*/weights.safetensors")
    content = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(content[:1000] if damage == "cut off" else content[:-1] + bytes([content[-1] ^ 1]))
    again, weights = trained(send(order, start))
    assert trainings == [1, 2, 1, 2]
    assert again == once
    assert weights is not None and digest_of(serialised(weights)) == once.weights


def test_legs_go_on_where_they_stopped(home: Path, start: Weights, trainings: list[int]) -> None:
    order = order_of(first(FineTune, LEGS), start, LEGS)
    one, nothing = trained(send(order, start))
    assert (one.state, one.epoch, nothing) == ("running", 1, None)
    two, weights = trained(send(order, None))
    assert (two.state, two.epoch) == ("done", 2) and weights is not None
    assert trainings == [1, 2]
    assert two.losses[:1] == one.losses


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_its_epochs_and_nothing_else(
    home: Path, start: Weights, trainings: list[int]
) -> None:
    order = order_of(first(FineTune, LEGS), start, LEGS)
    whole = [trained(send(order, start))[0] for _ in range(2)][-1]
    shutil.rmtree(home / "private" / "stages")
    trained(send(order, start))
    (path,) = home.glob("private/stages/*/checkpoint.pt")
    path.write_bytes(path.read_bytes()[:500])
    states = [trained(send(order, None))[0] for _ in range(2)]
    assert [state.epoch for state in states] == [1, 2]
    assert states[-1] == whole


@pytest.mark.slow
def test_what_is_acknowledged_is_dropped(home: Path, start: Weights) -> None:
    order = order_of(first(FineTune), start)
    trained(send(order, start))
    (folder,) = (home / "private" / "stages").iterdir()
    assert folder.name == order.key
    send(order_of(first(Evaluate), start, acknowledged=(order.key,)), start)
    assert not folder.exists()
    # An order does not drop itself.
    trained(send(order.model_copy(update={"acknowledged": (order.key,)}), start))
    assert folder.exists()


class TestWhatIsNotInTheStudy:
    """A coordinator may ask for anything; a site works out the nodes of its approved study's graph, and its own."""

    def test_another_sites_stage(self, home: Path, start: Weights) -> None:
        for kind in (FineTune, Evaluate):
            order = order_of(first(kind, site="C"), start)  # type: ignore[arg-type]
            assert refused(send(order, start), Refusal.NOT_IN_STUDY)

    def test_a_stage_of_no_study(self, home: Path, start: Weights) -> None:
        order = order_of(first(FineTune), start, node="0" * 64)
        assert refused(send(order, start), Refusal.NOT_IN_STUDY)

    def test_a_score_in_a_trainings_place(self, home: Path, start: Weights) -> None:
        order = order_of(first(Evaluate), start)
        fine = FineTuneOrder.model_validate(order.model_dump(exclude={"members", "member"}))
        assert refused(send(fine, start), Refusal.NOT_IN_STUDY)

    def test_another_key(self, home: Path, start: Weights, trainings: list[int]) -> None:
        order = order_of(first(FineTune), start, key="0" * 64)
        assert refused(send(order, start), Refusal.ANOTHER_KEY)
        assert trainings == [] and not list(home.glob("private/stages/*"))

    @pytest.mark.parametrize(
        "census",
        [
            "",
            "null",
            "[]",
            "3",
            '"A"',
            "{}",
            '{"A": null, "B": [1, 1], "C": [1, 1]}',
            '{"A": [1], "B": [1], "C": [1]}',
            '{"A": ["x", "y"], "B": [1, 1], "C": [1, 1]}',
            '{"A": [NaN, 1], "B": [1, 1], "C": [1, 1]}',
            '{"A": [1e999, 1], "B": [1, 1], "C": [1, 1]}',
            '{"A": [[1], [1]], "B": [1, 1], "C": [1, 1]}',
            "[" * 50_000,
            '{"A": [' + "9" * 5000 + ', 1], "B": [1, 1], "C": [1, 1]}',
        ],
    )
    def test_a_hostile_census(self, home: Path, start: Weights, trainings: list[int], census: str) -> None:
        reply = send(order_of(first(FineTune), start, census=census), start)
        assert reply.has_error()
        codes = (Refusal.NOT_IN_STUDY, Refusal.DATA_CHANGED)
        assert any(refused(reply, code) for code in codes)
        assert trainings == []

    @pytest.mark.parametrize("owner", ["plan", "check_limits"])
    def test_a_fault_of_this_program_is_told_as_that_and_logged(
        self, home: Path, start: Weights, monkeypatch: pytest.MonkeyPatch, owner: str
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise TypeError("a fault of our own")

        monkeypatch.setattr(client.stages.order, owner, fail)
        assert refused(send(order_of(first(FineTune), start), start), Refusal.FAILED)
        assert "TypeError: a fault of our own" in (home / "private" / "site.log").read_text(encoding="utf-8")

    def test_a_census_that_is_not_the_sites_own(self, home: Path, start: Weights) -> None:
        own = described().train_slices
        for census in ({**CENSUS, "A": (own[0] + 1, own[1])}, {**CENSUS, "A": (*own, 1)}):
            order = order_of(first(FineTune), start, census=json.dumps(census))
            assert refused(send(order, start), Refusal.DATA_CHANGED)


LONGER = small_study(methods={"longer_baseline": True, "sequential": {"routes": (("B", "A"),)}})


@pytest.fixture
def bounded(home: Path) -> Path:
    """Hospital A has approved a study, with at most 40 training slices at each other site."""
    approve(load_site(home / "site.toml"), LONGER, largest_elsewhere=40)
    return home


def longest(census: dict[str, tuple[int, ...]]) -> FineTune:
    trainings = [node for node in plan(LONGER, census).nodes if isinstance(node, FineTune) and node.site == "A"]
    return max(trainings, key=lambda node: node.schedule.epochs)


@pytest.mark.slow
def test_a_forged_census_cannot_order_a_training_without_end(
    bounded: Path, start: Weights, trainings: list[int]
) -> None:
    """The baseline trains as long as the longest route, whose length the coordinator tells."""
    own = described(LONGER).train_slices
    for count in (41, 4_000, 10**9):
        census = {"A": own, "B": (count, 40), "C": (1, 1)}
        stage = longest(census)
        order = order_of(stage, start, LONGER, census=json.dumps(census))
        assert refused(send(order, start), Refusal.BEYOND_APPROVAL)
    assert stage.schedule.epochs > 10**6
    assert trainings == []
    # What is approved is trained: as long as it was said to be, and no longer.
    census = {"A": own, "B": (40, 40), "C": (1, 1)}
    surveys = [survey(load_site(bounded / "site.toml"), variant) for variant in LONGER.variants]
    shown = disclosure_of("A", LONGER, surveys, largest_elsewhere=40, patient_scores=True)
    trained(send(order_of(longest(census), start, LONGER, census=json.dumps(census)), start))
    assert max(trainings) == max(epochs for epochs, _ in shown.of_epochs)


@pytest.mark.slow
def test_a_second_census_asks_for_nothing_more(bounded: Path, start: Weights, trainings: list[int]) -> None:
    own = described(LONGER).train_slices
    first = {"A": own, "B": (30, 30), "C": (1, 1)}
    trained(send(order_of(longest(first), start, LONGER, census=json.dumps(first)), start))
    done = len(trainings)
    for second in (first | {"B": (40, 40)}, first | {"C": (1, 2)}):
        order = order_of(longest(second), start, LONGER, census=json.dumps(second))
        assert refused(send(order, start), Refusal.ANSWERED)
    assert len(trainings) == done


def log_of_what_left(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "private" / "egress.jsonl").read_bytes().splitlines()]


def test_of_a_study_that_was_left_nothing_more_leaves(
    home: Path, start: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a stage that is being worked out: it ends with its epoch, and is not sent."""
    site = load_site(home / "site.toml")
    order, score = order_of(first(FineTune), start), order_of(first(Evaluate), start)
    real, epochs = client.stages.fine_tune.fine_tune, []

    def left_meanwhile(*args: Any, **more: Any) -> Iterator[Any]:
        for state in real(*args, **more):
            epochs.append(state.epoch)
            leave(site, next(record for record in approvals(site) if STUDY.digest in record.variants))
            yield state

    monkeypatch.setattr(client.stages.fine_tune, "fine_tune", left_meanwhile)
    before = log_of_what_left(home)
    assert refused(send(order, start), Refusal.LEFT)
    assert epochs == [1]
    for message in (
        send(order, start),
        send(score, start),
        call(DESCRIBE, to_record(Describe(study=STUDY.digest))),
    ):
        assert refused(message, Refusal.LEFT)
    assert log_of_what_left(home) == before
    assert not call(DESCRIBE, to_record(Describe(study=LEGS.digest))).has_error(), "another study goes on"


def test_a_score_that_is_worked_out_while_the_site_leaves_is_not_sent(
    home: Path, start: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = load_site(home / "site.toml")
    order, real = order_of(first(Evaluate), start), client.stages.evaluate.evaluate

    def left_meanwhile(*args: Any, **more: Any) -> Any:
        leave(site, next(record for record in approvals(site) if STUDY.digest in record.variants))
        return real(*args, **more)

    monkeypatch.setattr(client.stages.evaluate, "evaluate", left_meanwhile)
    before = log_of_what_left(home)
    assert refused(send(order, start), Refusal.LEFT)
    assert log_of_what_left(home) == before


def test_changed_data_are_told_and_not_trained_on(home: Path, start: Weights, trainings: list[int]) -> None:
    order = order_of(first(FineTune), start)
    image = home / "images" / "Case01.nii.gz"
    mask = home / "images" / "Case01_segmentation.nii.gz"
    image.unlink()
    mask.unlink()
    assert refused(send(order, start), Refusal.DATA_CHANGED)
    assert trainings == []


def test_another_fingerprint_is_told(home: Path, start: Weights) -> None:
    order = order_of(first(FineTune), start, fingerprint="0" * 64)
    assert refused(send(order, start), Refusal.DATA_CHANGED)


def wrong_weights(start: Weights) -> dict[str, Weights]:
    name = next(name for name, tensor in start.items() if tensor.is_floating_point())
    return {
        "other values than named": start | {name: start[name] + 1},
        "a tensor more": start | {"more": torch.ones(1)},
        "a tensor less": {other: tensor for other, tensor in start.items() if other != name},
        "another type": start | {name: start[name].double()},
        "not a number": start | {name: torch.full_like(start[name], torch.nan)},
    }


@pytest.mark.parametrize("wrong", [*wrong_weights({"a": torch.ones(1)})])
def test_weights_that_are_not_what_was_declared_are_refused(
    home: Path, start: Weights, trainings: list[int], wrong: str
) -> None:
    weights = wrong_weights(start)[wrong]
    named = start if wrong == "other values than named" else weights
    for kind in (FineTune, Evaluate):
        order = order_of(first(kind), named)  # type: ignore[arg-type]
        assert refused(send(order, weights), Refusal.BAD_WEIGHTS)
    assert trainings == []


@pytest.mark.parametrize("kind", [DESCRIBE, FINE_TUNE, EVALUATE])
@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"message": ConfigRecord({"study": "a" * 64, "patient": "Smith"})}),
        RecordDict({"message": ConfigRecord({"study": 3})}),
        RecordDict({"config": ConfigRecord({"path": "/etc/passwd"})}),
    ],
)
def test_what_is_no_message_is_refused(home: Path, kind: str, content: RecordDict) -> None:
    assert refused(call(kind, content), Refusal.BAD_MESSAGE)


def test_a_site_without_a_file_says_so_to_nobody_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_SITE", raising=False)
    monkeypatch.delenv("RELAY_SITES", raising=False)
    enter_run(1)
    assert refused(call(DESCRIBE, to_record(Describe(study=STUDY.digest))), Refusal.DATA_UNUSABLE)


def test_a_site_whose_file_was_spoilt_while_it_runs_says_so_in_its_own_log(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = home / "private" / "site.log"
    monkeypatch.setenv("RELAY_SITE_LOG", str(log))
    (home / "site.toml").write_text("nmae = 'A'\n", encoding="utf-8")
    logging.getLogger("relay.site").handlers.clear()  # as in a fresh process
    before = log.stat().st_size if log.exists() else 0
    assert refused(call(DESCRIBE, to_record(Describe(study=STUDY.digest))), Refusal.DATA_UNUSABLE)
    assert "site.toml, the key" in log.read_text(encoding="utf-8")[before:]


@pytest.mark.parametrize("harm", ["it is a folder", "its folder is a file"])
def test_a_log_that_cannot_be_opened_leaves_no_path_in_an_answer(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    log = home / "private" / "site.log"
    if harm == "it is a folder":
        log.unlink(missing_ok=True)
        log.mkdir(parents=True)
    else:
        log.parent.rename(home / "moved")
        log.parent.write_text("", encoding="utf-8")
    logger = logging.getLogger("relay.site")  # as in a fresh process, which has no other handlers either
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    enter_run(1)
    reply = call(DESCRIBE, to_record(Describe(study=STUDY.digest)))
    assert reply.has_error() and reply.error.reason in REFUSALS.values()
    assert str(log.parent) in capsys.readouterr().err, "what the site started says it in its own place"


def test_a_machine_that_plays_several_sites_takes_the_one_of_its_number(
    home: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RELAY_SITE")
    monkeypatch.setenv("RELAY_SITES", f"{home / 'none.toml'}:{home / 'site.toml'}")
    message: WireMessage = Describe(study=STUDY.digest)
    for number, found in ((0, False), (1, True), (2, False)):
        context = Context(run_id=1, node_id=1, node_config={"partition-id": number}, state=RecordDict(), run_config={})
        reply = app(Message(to_record(message), dst_node_id=1, message_type=DESCRIBE), context)
        assert reply.has_error() != found


def test_a_stage_is_answered_for_the_weights_that_it_was_first_asked_with_alone(home: Path, start: Weights) -> None:
    """Else one approved stage would let a coordinator ask the data any number of questions."""
    stage = first(Evaluate)
    other = {name: tensor * 1.5 if tensor.is_floating_point() else tensor for name, tensor in start.items()}
    assert not send(order_of(stage, start), start).has_error()
    assert refused(send(order_of(stage, other), other), Refusal.ANSWERED)
    assert not send(order_of(stage, start), start).has_error()
    approve_everywhere({"A": home / "site.toml"}, STUDY)  # by the site's own will, once more
    assert not send(order_of(stage, other), other).has_error()


def test_the_sites_present_will_decides_whether_single_patients_scores_leave(home: Path, start: Weights) -> None:
    order = order_of(first(Evaluate), start)
    permitted = (home / "site.toml").read_text(encoding="utf-8")
    assert "patient_scores = true" in permitted

    def cases(text: str) -> int:
        (home / "site.toml").write_text(text, encoding="utf-8")
        reply, _ = from_record(send(order, start).content, EvaluateReply)
        assert reply.patients > 0
        return len(reply.case_numbers)

    withdrawn = permitted.replace("patient_scores = true", "patient_scores = false")
    assert cases(withdrawn) == 0
    assert cases(permitted) > 0  # the same answer, from disk
    assert cases(withdrawn) == 0


ENSEMBLES = small_study(
    name="ensembles",
    methods={"more": ("consensus", "target-folds")},
    split={"folds": 2},
    postprocessing={"clean_up": True},
)


@pytest.fixture
def several(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """A hospital that approved a study with ensembles, and weights of three models."""
    folder = tmp_path / "A"
    shutil.copytree(prepared, folder)
    approve_everywhere({"A": folder / "site.toml"}, ENSEMBLES)
    monkeypatch.setenv("RELAY_SITE", str(folder / "site.toml"))
    enter_run(1)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(build(ENSEMBLES.model).state_dict())
    return models


def ensemble_order(models: list[Weights], method: str, split: str = "test", **changes: Any) -> EvaluateOrder:
    """The order for the scoring of an ensemble at A, as an honest coordinator sends it, with changes."""
    row = next(row for row in planned(ENSEMBLES)[0].rows if (row.method, row.target) == (method, "A"))
    node = Evaluate("A", row.fold, split, row.model)  # type: ignore[arg-type]
    digests = tuple(digest_of(serialised(model)) for model in models)
    found = described(ENSEMBLES)
    environment = ExecutionEnvironment(found.fingerprint, found.torch, found.device, found.precision)
    weights = changes.pop("weights", ensemble_digest(digests))
    key = stage_key(node, study=ENSEMBLES, weights=weights, environment=environment)
    order = order_of(node, models[0], ENSEMBLES, members=digests, key=key, **changes)
    assert isinstance(order, EvaluateOrder)
    return order.model_copy(update={"weights": weights})


def scored(reply: Message) -> EvaluateReply:
    assert not reply.has_error(), reply.error
    return from_record(reply.content, EvaluateReply)[0]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_members_of_an_ensemble_are_asked_for_one_by_one(several: list[Weights], split: str) -> None:
    order = ensemble_order(several, "consensus", split)
    assert scored(send(order, None)).member == 0
    for number in (0, 1):
        reply = scored(send(order.model_copy(update={"member": number}), several[number]))
        assert (reply.state, reply.member) == ("needs-weights", number + 1)
        again = scored(send(order.model_copy(update={"member": number}), several[number]))
        assert again == reply, "the same message twice counts once"
    done = scored(send(order.model_copy(update={"member": 2}), several[2]))
    assert done.state == "done" and done.patients > 0
    assert scored(send(order, None)) == done, "answered from the disk"


def test_an_ensemble_of_equal_members_has_the_members_scores(several: list[Weights]) -> None:
    equal = [several[0]] * 3
    order = ensemble_order(equal, "consensus")
    for number in range(3):
        reply = scored(send(order.model_copy(update={"member": number}), several[0]))
    row = next(row for row in planned(ENSEMBLES)[0].rows if (row.method, row.target) == ("consensus", "A"))
    assert isinstance(row.model, Ensemble)
    site = load_site(Path(os.environ["RELAY_SITE"]))
    cohort = gather(prepare(site, ENSEMBLES.preprocessing).records, site, ENSEMBLES.split)
    network = build(ENSEMBLES.model)
    network.load_state_dict(several[0])
    device = choose_device("cpu", "auto")
    place(network, device)
    model = predictions(network, device, statistics(cohort.train(0), ENSEMBLES.training), ENSEMBLES.model)
    _, cleaned = validated(model, cohort.validation(0), ENSEMBLES)
    alone = evaluate(model, cohort.test(), cleaned=cleaned, surfaces=True)
    assert reply.state == "done" and reply.dice_volume == volume_mean(alone) and reply.cleaned == cleaned
    assert sorted(reply.case_dices) == sorted(score.dice for score in alone)


def test_nothing_but_the_stages_ensemble_is_scored(several: list[Weights]) -> None:
    order = ensemble_order(several, "consensus")
    assert refused(send(ensemble_order(several[:2], "consensus"), several[0]), Refusal.BAD_MESSAGE), "a member less"
    assert refused(send(ensemble_order(several, "target-folds"), several[0]), Refusal.BAD_MESSAGE), "a member more"
    other = digest_of(serialised(several[0]))
    assert refused(send(ensemble_order(several, "consensus", weights=other), several[0]), Refusal.BAD_MESSAGE)
    assert refused(send(order, several[1]), Refusal.BAD_WEIGHTS), "another member than the message says"
    assert scored(send(order, None)).member == 0, "and nothing of it was counted"


@pytest.mark.slow
def test_an_ensemble_whose_sums_are_lost_begins_again_and_comes_to_the_same(several: list[Weights]) -> None:
    order = ensemble_order(several, "consensus")
    messages = [order.model_copy(update={"member": number}) for number in range(3)]
    for message, weights in zip(messages[:2], several, strict=False):
        send(message, weights)
    (folder,) = Path(os.environ["RELAY_SITE"]).parent.glob("private/stages/*/ensemble")
    next(folder.glob("*.npz")).unlink()
    again = scored(send(messages[2], several[2]))
    assert (again.state, again.member) == ("needs-weights", 0)
    replies = [scored(send(message, weights)) for message, weights in zip(messages, several, strict=True)]
    assert replies[-1].state == "done" and not folder.exists()
    home = Path(os.environ["RELAY_SITE"]).parent
    shutil.rmtree(home / "private" / "stages")
    undisturbed = [scored(send(message, weights)) for message, weights in zip(messages, several, strict=True)]
    assert undisturbed[-1] == replies[-1]


UNSEEN = small_study(
    name="unseen",
    methods={"leave_out": True, "federated": ({"strategy": "fedavg", "rounds": 1, "then_target": False},)},
    postprocessing={"clean_up": True},
)


def test_no_validation_patient_of_an_unseen_site_decides_on_a_clean_up(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Weights
) -> None:
    folder = tmp_path / "A"
    shutil.copytree(prepared, folder)
    approve_everywhere({"A": folder / "site.toml"}, UNSEEN)
    monkeypatch.setenv("RELAY_SITE", str(folder / "site.toml"))
    enter_run(1)
    looked_at: list[int] = []

    def always(model: Any, patients: Any, study: Any) -> Any:
        looked_at.append(len(patients))
        return validated(model, patients, study)[0], True

    monkeypatch.setattr(client.stages.evaluate, "validated", always)
    rows = {row.method: row for row in planned(UNSEEN)[0].rows if (row.target, row.fold) == ("A", 0)}
    tests = {method: rows[method].test for method in ("fedavg", "fedavg-unseen")}
    assert isinstance(tests["fedavg"], Evaluate) and isinstance(tests["fedavg-unseen"], Evaluate)
    plain = scored(send(order_of(tests["fedavg"], start, UNSEEN), start))
    assert plain.cleaned and looked_at, "or nothing is shown"
    looked_at.clear()
    unseen = scored(send(order_of(tests["fedavg-unseen"], start, UNSEEN), start))
    assert (unseen.patients, unseen.cleaned, looked_at) == (plain.patients, False, [])
