"""The egress filter: what may leave, the log of what left, and nothing in an error's place."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict

from client.governance.egress import LOG, release, scrub
from client.site_config import SiteConfig, load_site
from common.config.model import ModelConfig
from common.digest import digest_of
from common.errors import BadPatient, RelayError
from common.model.network import build
from common.model.weights import Weights, serialised, size_in_bytes
from common.plan.graph import Stays
from common.protocol.codec import BadMessage, from_record, to_record
from common.protocol.messages import Describe, Description, EvaluateReply, FineTuneReply, WireMessage
from common.protocol.refusals import REFUSALS, Refusal, Refused
from deploy.simulation.local_grid import enter_run
from tests.support.hospitals import write_site

MODEL = ModelConfig(architecture="Unet", encoder="mobilenet_v2")
A, B = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return build(MODEL).state_dict()


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return load_site(write_site(tmp_path, "A", patient_scores=False, minimum_patients=2))


def done(weights: Weights | None = None, **changes: Any) -> FineTuneReply:
    reply = FineTuneReply(
        study=A,
        key=B,
        state="done",
        epoch=1,
        losses=(0.5,),
        learning_rates=(1e-3,),
        dices=(0.5,),
        kept_epoch=1,
        train_patients=4,
        validation_patients=2,
        weights=digest_of(serialised(weights)) if weights else "",
    )
    return reply.model_copy(update=changes)


def score(**changes: Any) -> EvaluateReply:
    return EvaluateReply(study=A, key=B, state="done", dice=0.5, patients=2, slices=9).model_copy(update=changes)


def description(**changes: Any) -> Description:
    folds = {"train_slices": (9, 9), "train_patients": (3, 3), "validation_patients": (2, 2)}
    fields = {"study": A, "site": "A", "patients_found": 9, "prepared": 9, "fingerprint": B, "test_patients": 2}
    return Description.model_validate({**fields, **folds, **changes})


def lines(site: SiteConfig) -> list[bytes]:
    path = site.private() / LOG
    return path.read_bytes().splitlines() if path.exists() else []


def refusal(answer: Any, weights: Weights | None, site: SiteConfig) -> Refusal:
    before = lines(site)
    with pytest.raises(Refused) as refused:
        release(answer, weights, site=site, model=MODEL)
    assert lines(site) == before, "what did not leave is not in the log of what left"
    return refused.value.refusal


def test_the_declared_answers_leave_as_they_are(site: SiteConfig, weights: Weights) -> None:
    answers: list[tuple[Any, Weights | None]] = [
        (description(), None),
        (Description(study=A, site="A", patients_found=9, prepared=1), None),
        (FineTuneReply(study=A, key=B, state="needs-weights"), None),
        (done(state="running"), None),
        (done(weights), weights),
        (score(), None),
        (EvaluateReply(study=A, key=B, state="needs-weights"), None),
    ]
    for answer, brought in answers:
        found, arrived = from_record(release(answer, brought, site=site, model=MODEL), type(answer))
        assert found == answer
        assert (arrived is None) == (brought is None)
        if arrived is not None:
            assert digest_of(serialised(arrived)) == done(weights).weights


def spoilt(weights: Weights) -> list[Weights]:
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    count = next(name for name, tensor in weights.items() if not tensor.is_floating_point())

    def with_one(value: float) -> torch.Tensor:
        tensor = weights[name].clone()
        tensor.view(-1)[-1] = value
        return tensor

    return [
        weights | {"patients": torch.ones(3)},
        weights | {"": torch.ones(1)},
        {other: value for other, value in weights.items() if other != name},
        {f"{other}s" if other == name else other: value for other, value in weights.items()},
        *(weights | {name: with_one(float(value))} for value in ("nan", "inf", "-inf")),
        weights | {name: weights[name].double()},
        weights | {name: weights[name].half()},
        weights | {count: weights[count].float()},
        weights | {count: weights[count].reshape(1)},
        weights | {name: weights[name].flatten()},
        weights | {name: weights[name][..., :-1]},
        weights | {name: weights[name].unsqueeze(0)},
        {},
    ]


def test_weights_that_are_not_the_declared_networks_stay(site: SiteConfig, weights: Weights) -> None:
    for other in spoilt(weights):
        assert refusal(done(weights), other, site) == Refusal.BLOCKED


def test_weights_with_tensors_that_stay_are_blocked(site: SiteConfig, weights: Weights) -> None:
    """By the kind of layer: every tensor of every batch-norm layer, and of a personal model every tensor."""
    layers = {name for name, layer in build(MODEL).named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    norm = {name for name in weights if name.rpartition(".")[0] in layers}
    assert len(norm) == 5 * len(layers) > 100
    shared = {name: tensor for name, tensor in weights.items() if name not in norm}

    def sent(brought: Weights | None, stays: Stays, own: str = B) -> Refusal | None:
        answer = done(brought).model_copy(update={"own": own})
        before = len(lines(site))
        try:
            release(answer, brought, site=site, model=MODEL, stays=stays)
        except Refused as refused:
            assert len(lines(site)) == before
            return refused.refusal
        return None

    assert sent(shared, "batch-norm") is None and sent(None, "everything") is None
    blocked = [sent(shared | {name: weights[name]}, "batch-norm") for name in sorted(norm)[::40]]
    blocked += [sent(weights, "batch-norm"), sent(weights, "everything"), sent(shared, "everything")]
    blocked += [sent(dict(list(weights.items())[:1]), "everything"), sent(shared, "")]
    # Nor may a reply say that something stayed where nothing stays, or the other way about.
    blocked += [sent(weights, ""), sent(shared, "batch-norm", own=""), sent(None, "everything", own="")]
    assert set(blocked) == {Refusal.BLOCKED}


def test_the_parts_of_a_network_that_belong_to_a_site_are_blocked(site: SiteConfig) -> None:
    model = ModelConfig.model_validate({"architecture": "MSNet"})
    torch.manual_seed(0)
    whole = build(model, whole=True).state_dict()
    shared = {name: tensor for name, tensor in whole.items() if not name.startswith("auxiliary.")}
    parts = [name for name in whole if name not in shared]
    assert len(parts) > 50

    def sent(brought: Weights, model: ModelConfig = model, **changes: Any) -> Refusal | None:
        try:
            release(done(brought, **changes), brought, site=site, model=model)
        except Refused as refused:
            return refused.refusal
        return None

    assert sent(shared, parts=A) is None
    blocked = [sent(shared | {name: whole[name]}, parts=A) for name in parts[::20]]
    blocked += [sent(whole, parts=A), sent({name: whole[name] for name in parts}, parts=A)]
    # The reply to a training says what stayed, and no other reply does.
    blocked += [sent(shared), sent(build(MODEL).state_dict(), MODEL, parts=A)]
    estimate = {"epoch": 0, "losses": (), "learning_rates": (), "dices": (), "kept_epoch": 0}
    blocked += [sent(shared, parts=A, **estimate)]
    assert set(blocked) == {Refusal.BLOCKED}
    assert sent(shared, **estimate) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"surface_patients": 3, "hd95_mm": 4.0},  # of two patients
        {"hd95_mm": 4.0},
        {"assd_mm": 1.0},
        {"surface_patients": 2, "hd95_mm": -1.0},
        {"surface_patients": 2, "hd95_mm": float("inf")},
        {"volume_patients": 3, "volume_error_ml": -4.0, "absolute_volume_error_ml": 5.0},
        {"volume_error_ml": -4.0},
        {"absolute_volume_error_ml": 4.0},
        {"volume_patients": 2, "absolute_volume_error_ml": -4.0},
        {"volume_patients": 2, "volume_error_ml": float("-inf")},
        {"thirds_patients": 3, "dice_apex": 0.5},
        {"dice_apex": 0.5},
        {"surface_patients": 2, "volume_patients": 2, "dice_middle": 0.5},
        {"dice_base": 0.5},
        {"thirds_patients": 2, "dice_base": 1.5},
        {"calibration_error": 0.05},
        {"calibration_patients": 3, "calibration_error": 0.05},
        {"calibration_patients": 2, "calibration_error": 5.0},
    ],
)
def test_a_figure_that_only_some_patients_have_leaves_with_those_behind_it_alone(
    site: SiteConfig, changes: dict[str, Any]
) -> None:
    assert refusal(score(**changes), None, site) == Refusal.BLOCKED


def test_weights_leave_with_a_finished_training_alone(site: SiteConfig, weights: Weights) -> None:
    for answer in (done(weights, state="running"), score(), description()):
        assert refusal(answer, weights, site) == Refusal.BLOCKED


class Undeclared(WireMessage):
    patient: str = "Smith"


class Richer(FineTuneReply):
    patient: str = "Smith"


def test_an_undeclared_message_stays(site: SiteConfig) -> None:
    richer = Richer(study=A, key=B, state="needs-weights")
    for answer in (Undeclared(study=A), Describe(study=A), richer, {"patient": "Smith"}, "Smith", None):
        assert refusal(answer, None, site) == Refusal.BLOCKED


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": ("Smith",)},
        {"dices": ("0.5",)},
        {"epoch": "Smith"},
        {"train_patients": 4.5},
        {"validation_dice": float("nan")},
        {"validation_dice": 7.0},
        {"gradient_steps": 10**30},
        {"key": "Smith"},
        {"weights": "Smith"},
        {"state": "Smith"},
        {"losses": (0.1,) * 99},
        {"dices": (0.5, float("inf"))},
    ],
)
def test_a_text_in_a_numbers_place_stays(site: SiteConfig, changes: dict[str, Any]) -> None:
    assert refusal(done().model_copy(update=changes), None, site) == Refusal.BLOCKED


@pytest.mark.parametrize(
    "answer",
    [
        done(train_patients=1),
        done(validation_patients=1),
        done(state="running", validation_patients=0),
        score(patients=1),
        score(surface_patients=1, hd95_mm=4.0, assd_mm=1.0),
        score(volume_patients=1, volume_error_ml=-4.0, absolute_volume_error_ml=4.0),
        score(thirds_patients=1, dice_apex=0.5, dice_middle=0.5, dice_base=0.5),
        score(calibration_patients=1, calibration_error=0.05),
        description(test_patients=1),
        description(train_patients=(3, 1)),
        description(validation_patients=(1, 2)),
    ],
)
def test_numbers_of_too_few_patients_stay(site: SiteConfig, answer: Any) -> None:
    assert refusal(answer, None, site) == Refusal.TOO_FEW_PATIENTS


def test_scores_of_single_patients_need_the_sites_word(site: SiteConfig) -> None:
    answer = score(
        case_numbers=(1, 2),
        case_slices=(4, 5),
        case_dices=(0.4, 0.6),
        case_ious=(0.3, 0.5),
        case_volume_dices=(0.2, 0.6),
    )
    assert refusal(answer, None, site) == Refusal.BLOCKED
    release(answer, None, site=site.model_copy(update={"patient_scores": True}), model=MODEL)


def test_scores_of_single_validation_patients_need_the_sites_word_too(site: SiteConfig, weights: Weights) -> None:
    cases = {"case_numbers": (1, 2), "case_slices": (4, 5)}
    cases |= dict.fromkeys(("case_dices", "case_ious", "case_volume_dices"), (0.4, 0.6))
    answer = done(weights, **cases)
    assert refusal(answer, weights, site) == Refusal.BLOCKED
    release(answer, weights, site=site.model_copy(update={"patient_scores": True}), model=MODEL)


def test_the_log_says_what_left_in_a_chain(site: SiteConfig, weights: Weights) -> None:
    for _ in range(3):
        release(description(), None, site=site, model=MODEL)
        release(done(weights), weights, site=site, model=MODEL)
        release(score(), None, site=site, model=MODEL)
    found = lines(site)
    assert len(found) == 9
    before = hashlib.sha256(b"").hexdigest()
    for line in found:
        assert json.loads(line)["before"] == before
        before = hashlib.sha256(line).hexdigest()
    entry = json.loads(found[1])
    assert entry["kind"] == "FineTuneReply" and entry["stage"] == B and entry["study"] == A
    assert entry["weights"] == done(weights).weights
    assert entry["digest"] == hashlib.sha256(done(weights).model_dump_json().encode()).hexdigest()
    assert entry["bytes"] == len(done(weights).model_dump_json()) + size_in_bytes(weights)
    assert json.loads(found[2])["weights"] == ""
    assert stat.S_IMODE((site.private() / LOG).stat().st_mode) == 0o600


@pytest.mark.parametrize("change", ["a line is gone", "a line is changed", "two change places"])
def test_a_changed_log_shows(site: SiteConfig, change: str) -> None:
    for patients in (2, 3, 4):
        release(score(patients=patients), None, site=site, model=MODEL)
    found = lines(site)
    changed = {
        "a line is gone": [found[0], found[2]],
        "a line is changed": [found[0].replace(b"Evaluate", b"FineTune"), *found[1:]],
        "two change places": [found[1], found[0], found[2]],
    }[change]
    (site.private() / LOG).write_bytes(b"\n".join(changed) + b"\n")
    release(score(), None, site=site, model=MODEL)
    before, whole = hashlib.sha256(b"").hexdigest(), True
    for line in lines(site):
        whole = whole and json.loads(line)["before"] == before
        before = hashlib.sha256(line).hexdigest()
    assert not whole


@pytest.fixture
def site_log(tmp_path: Path) -> Iterator[Callable[[], str]]:
    handler = logging.FileHandler(tmp_path / "told.log")
    logger = logging.getLogger("relay.site")
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    yield lambda: (tmp_path / "told.log").read_text()
    handler.close()
    logger.handlers, logger.propagate = before


def test_of_what_is_blocked_the_coordinator_gets_a_code_and_the_site_a_line_in_its_log(
    site: SiteConfig, weights: Weights, site_log: Callable[[], str]
) -> None:
    enter_run(1)
    message = Message(to_record(Describe(study=A)), dst_node_id=1, message_type="query.describe")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    answers: list[tuple[Any, Weights | None, Refusal]] = [
        *((done(weights), other, Refusal.BLOCKED) for other in spoilt(weights)),
        (done(weights, state="running"), weights, Refusal.BLOCKED),
        (Richer(study=A, key=B, state="needs-weights"), None, Refusal.BLOCKED),
        (done(losses=("Smith",)), None, Refusal.BLOCKED),
        (
            score(case_numbers=(1,), case_slices=(1,), case_dices=(0.5,), case_ious=(0.5,), case_volume_dices=(0.5,)),
            None,
            Refusal.BLOCKED,
        ),
        (score(patients=1), None, Refusal.TOO_FEW_PATIENTS),
        (Description(study=A, site="A", patients_found=1, prepared=0), None, Refusal.TOO_FEW_PATIENTS),
    ]
    for number, (answer, brought, code) in enumerate(answers, start=1):

        def answered(asked: Message, _: Context, answer: Any = answer, brought: Weights | None = brought) -> Message:
            return Message(release(answer, brought, site=site, model=MODEL), reply_to=asked)

        reply = scrub(message, context, answered)
        assert reply.has_error() and not reply.has_content()
        assert (reply.error.code, reply.error.reason) == (int(code), REFUSALS[code])
        assert site_log().count("Blocked at the door") == number
    assert lines(site) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(Refusal.NOT_IN_STUDY), Refusal.NOT_IN_STUDY),
        (BadMessage("patient Smith"), Refusal.BAD_MESSAGE),
        (RelayError("/data/Smith has no mask."), Refusal.DATA_UNUSABLE),
        (BadPatient("Smith", "Smith's image is empty."), Refusal.DATA_UNUSABLE),
        (MemoryError("Smith"), Refusal.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("Smith"), Refusal.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "no space for Smith"), Refusal.DISK_FULL),
        (PermissionError(errno.EACCES, "denied", "/data/Smith"), Refusal.FAILED),
        (ValueError("Smith"), Refusal.FAILED),
        (RecursionError("Smith"), Refusal.FAILED),
        (UnicodeDecodeError("utf-8", b"Smith", 0, 1, "Smith"), Refusal.FAILED),
        (AssertionError("Smith"), Refusal.FAILED),
        (StopIteration("Smith"), Refusal.FAILED),
    ],
)
def test_of_what_goes_wrong_a_code_and_a_fixed_text_leave(
    error: Exception, code: Refusal, site_log: Callable[[], str]
) -> None:
    enter_run(1)
    message = Message(to_record(Describe(study=A)), dst_node_id=1, message_type="query.describe")

    def fail(*_: Any) -> Message:
        raise error

    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = scrub(message, context, fail)
    assert reply.has_error() and not reply.has_content()
    assert (reply.error.code, reply.error.reason) == (int(code), REFUSALS[code])
    told = site_log()
    assert told and (not isinstance(error, RelayError | OSError | ValueError) or "Smith" in told)


def test_no_path_leaves_where_the_log_itself_cannot_be_written(
    site: SiteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a log raises names its file; of what went wrong the coordinator hears the code all the same."""
    handler = logging.FileHandler(tmp_path / "Smith" / "site.log", delay=True)
    monkeypatch.setattr(logging.getLogger("relay.site"), "handlers", [handler])
    message = Message(to_record(Describe(study=A)), dst_node_id=1, message_type="query.describe")
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    for error, code in (
        (Refused(Refusal.NOT_IN_STUDY), Refusal.NOT_IN_STUDY),
        (BadMessage("Smith"), Refusal.BAD_MESSAGE),
        (RelayError("Smith"), Refusal.DATA_UNUSABLE),
        (ValueError("Smith"), Refusal.FAILED),
    ):

        def fail(*_: Any, error: Exception = error) -> Message:
            raise error

        enter_run(1)
        reply = scrub(message, context, fail)
        assert reply.has_error() and (reply.error.code, reply.error.reason) == (int(code), REFUSALS[code])
