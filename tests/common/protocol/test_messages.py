"""What crosses the wire is what was declared, to the bit, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from common.model.weights import STYPE, serialised
from common.protocol.codec import BadMessage, from_record, to_record
from common.protocol.messages import (
    Delivery,
    Describe,
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    Receipt,
    WireMessage,
)
from common.protocol.refusals import REFUSALS, Refusal, refusal_error, refusal_text
from deploy.simulation.local_grid import enter_run

DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)
COUNT = st.integers(0, 10**9)
SHARE = st.floats(0, 1)
A, B = "a" * 64, "b" * 64


def many(values: st.SearchStrategy[Any], size: int | None = None) -> st.SearchStrategy[tuple[Any, ...]]:
    low, high = (0, 6) if size is None else (size, size)
    return st.lists(values, min_size=low, max_size=high).map(tuple)


@st.composite
def descriptions(draw: st.DrawFn) -> Description:
    if draw(st.booleans()):
        return Description(study=draw(DIGEST), site="A", patients_found=draw(COUNT), prepared=draw(COUNT))
    folds = draw(st.integers(2, 5))
    return Description(
        study=draw(DIGEST),
        site=draw(st.from_regex(r"\A[A-Za-z][A-Za-z0-9_-]{0,31}\Z")),
        patients_found=draw(COUNT),
        prepared=draw(COUNT),
        left_out=draw(COUNT),
        train_slices=draw(many(COUNT, folds)),
        train_patients=draw(many(COUNT, folds)),
        validation_patients=draw(many(COUNT, folds)),
        fingerprint=draw(DIGEST),
        torch=draw(st.sampled_from(["", "2.13.0+cpu"])),
        device=draw(st.sampled_from(["", "cpu", "cuda", "mps"])),
        precision=draw(st.sampled_from(["", "float32", "bfloat16"])),
    )


@st.composite
def fine_tune_replies(draw: st.DrawFn) -> FineTuneReply:
    epoch = draw(st.integers(1, 6))
    return FineTuneReply(
        study=draw(DIGEST),
        key=draw(DIGEST),
        state=draw(st.sampled_from(["running", "done"])),
        epoch=epoch,
        losses=draw(many(st.floats(-1e9, 1e9), epoch)),
        learning_rates=draw(many(st.floats(0, 1e6), epoch)),
        dices=draw(many(SHARE, epoch)),
        kept_epoch=draw(st.integers(1, epoch)),
        gradient_steps=draw(COUNT),
        weights=draw(DIGEST | st.just("")),
        validation_dice=draw(SHARE),
        validation_iou=draw(SHARE),
    )


@st.composite
def evaluate_replies(draw: st.DrawFn) -> EvaluateReply:
    if draw(st.booleans()):
        return EvaluateReply(study=draw(DIGEST), key=draw(DIGEST), state="needs-weights")
    numbers = draw(st.lists(COUNT, unique=True, max_size=6).map(tuple))
    patients = draw(COUNT)
    volumes, thirds, calibrated = (draw(st.integers(0, patients)) for _ in range(3))
    return EvaluateReply(
        study=draw(DIGEST),
        key=draw(DIGEST),
        state="done",
        dice=draw(SHARE),
        iou=draw(SHARE),
        dice_volume=draw(SHARE),
        patients=patients,
        slices=draw(COUNT),
        volume_error_ml=draw(st.floats(-1e5, 1e5)) if volumes else 0.0,
        absolute_volume_error_ml=draw(st.floats(0, 1e5)) if volumes else 0.0,
        volume_patients=volumes,
        **{key: draw(SHARE) for key in ("dice_apex", "dice_middle", "dice_base") if thirds},
        thirds_patients=thirds,
        calibration_error=draw(SHARE) if calibrated else 0.0,
        calibration_patients=calibrated,
        case_numbers=numbers,
        case_slices=draw(many(COUNT, len(numbers))),
        case_dices=draw(many(SHARE, len(numbers))),
        case_ious=draw(many(SHARE, len(numbers))),
        case_volume_dices=draw(many(SHARE, len(numbers))),
    )


def orders(kind: type[FineTuneOrder] | type[EvaluateOrder]) -> st.SearchStrategy[WireMessage]:
    return st.builds(
        kind,
        study=DIGEST,
        node=DIGEST,
        key=DIGEST,
        weights=DIGEST,
        census=st.text(st.characters(exclude_categories=("Cs",)), max_size=60),
        fingerprint=DIGEST,
        acknowledged=many(DIGEST),
    )


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    models = draw(st.lists(DIGEST, min_size=1, max_size=6).map(tuple))
    sites, hops = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    return Delivery(
        study=draw(DIGEST),
        census="{}",
        fingerprint=draw(DIGEST),
        role=draw(st.sampled_from(["selected", "own"])),
        models=models,
        row=draw(st.integers(0, len(models) - 1)),
        patients=draw(many(COUNT, sites)),
        test_patients=draw(many(COUNT, sites)),
        slices=draw(many(COUNT, sites)),
        forgetting=draw(many(SHARE, sites * hops)),
    )


MESSAGES = st.one_of(
    deliveries(),
    st.builds(Receipt, study=DIGEST, state=st.sampled_from(["needs-weights", "done"])),
    st.builds(Describe, study=DIGEST),
    descriptions(),
    orders(FineTuneOrder),
    orders(EvaluateOrder),
    fine_tune_replies(),
    evaluate_replies(),
)


def over_the_wire(record: RecordDict) -> tuple[RecordDict, bytes]:
    """Through Flower's own bytes, as between two machines."""
    enter_run(0)
    sent = message_to_proto(Message(record, dst_node_id=1, message_type="query.describe")).SerializeToString()
    arrived = message_from_proto(ProtoMessage.FromString(sent))
    again = message_to_proto(arrived).SerializeToString()
    assert again == sent
    return arrived.content, sent


@settings(max_examples=150, deadline=None)
@given(MESSAGES)
def test_every_message_comes_back_as_it_was_sent(message: WireMessage) -> None:
    arrived, _ = over_the_wire(to_record(message))
    back, weights = from_record(arrived, type(message))
    assert back == message
    assert weights is None
    assert dict(to_record(back).config_records["message"]) == dict(to_record(message).config_records["message"])


def test_weights_come_back_to_the_bit() -> None:
    weights = {
        "half": torch.tensor([1.0, 65504.0, 6e-8], dtype=torch.float16),
        "count": torch.tensor(2**62 + 1),
        "empty": torch.empty(0, 3),
        "layer": torch.randn(2, 3, 4, 4, generator=torch.manual_seed(0)).to(memory_format=torch.channels_last),
        "every other": torch.arange(10.0)[::2],
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    }
    arrived, _ = over_the_wire(to_record(Describe(study=A), weights))
    _, back = from_record(arrived, Describe)
    assert back is not None and back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert back[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


REPLY = FineTuneReply(
    study=A, key=B, state="running", epoch=1, losses=(0.5,), learning_rates=(1e-3,), dices=(0.5,), kept_epoch=1
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patient", "Smith"),  # undeclared
        ("patient", 3),
        ("epoch", "Smith"),  # a text in a number's place
        ("epoch", "1"),
        ("epoch", True),
        ("epoch", 1.0),
        ("epoch", -1),
        ("epoch", 10**9 + 1),
        ("epoch", 2**63 - 1),
        ("epoch", [1]),
        ("epoch", b"1"),
        ("losses", 0.5),
        ("losses", ["Smith"]),
        ("losses", [True]),
        ("losses", [float("nan")]),
        ("losses", [float("inf")]),
        ("losses", [0.5, 0.5]),  # more than there were epochs
        ("losses", []),
        ("learning_rates", [-1e-3]),
        ("dices", [1.5]),
        ("dices", [float("nan")]),
        ("kept_epoch", 2),
        ("validation_dice", "0.5"),
        ("validation_dice", float("nan")),
        ("state", "finished"),
        ("state", 1),
        ("key", "Smith"),
        ("key", "B" * 64),
        ("key", "b" * 64 + "\n"),
        ("key", "b" * 65),
        ("key", 5),
        ("weights", "../../etc/passwd"),
        ("study", ""),
    ],
)
def test_what_was_not_declared_is_refused(field: str, value: Any) -> None:
    record = to_record(REPLY)
    record.config_records["message"][field] = value
    with pytest.raises(BadMessage) as error:
        from_record(over_the_wire(record)[0], FineTuneReply)
    assert "Smith" not in str(error.value)


DELIVERY = Delivery(
    study=A,
    census="{}",
    fingerprint=A,
    role="selected",
    models=(A, B),
    row=1,
    patients=(4, 5),
    test_patients=(1, 2),
    slices=(7, 8),
    forgetting=(0.5, 0.25, 0.75, 1.0),
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "model.safetensors"),  # undeclared, as every name of a file is
        ("path", "../../etc/passwd"),
        ("licence", "none"),
        ("role", "../own"),
        ("role", "other"),
        ("models", ["../../etc/passwd", A]),
        ("models", []),
        ("row", "1"),
        ("row", 2),
        ("row", -1),
        ("row", True),
        ("patients", ["Smith", "5"]),
        ("patients", [4]),
        ("patients", [4.5, 5.5]),
        ("forgetting", [0.5]),
        ("forgetting", [1.5, 0.5]),
        ("forgetting", [float("nan"), 0.5]),
        ("study", "study.toml"),
    ],
)
def test_a_delivery_says_what_was_declared_and_names_no_file(field: str, value: Any) -> None:
    assert from_record(over_the_wire(to_record(DELIVERY))[0], Delivery) == (DELIVERY, None)
    record = to_record(DELIVERY)
    record.config_records["message"][field] = value
    with pytest.raises(BadMessage):
        from_record(over_the_wire(record)[0], Delivery)


def test_a_key_that_is_missing_is_refused() -> None:
    for field in ("study", "key", "state"):
        record = to_record(REPLY)
        del record.config_records["message"][field]
        with pytest.raises(BadMessage):
            from_record(record, FineTuneReply)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.__setitem__("more", ConfigRecord({"patient": "Smith"})),
        lambda record: record.__setitem__("more", MetricRecord({"a": 1})),
        lambda record: record.__setitem__("more", ArrayRecord()),
        lambda record: record.__setitem__("weights", MetricRecord({"a": 1})),
        lambda record: record.__setitem__("weights", ConfigRecord({"patient": "Smith"})),
        lambda record: record.__delitem__("message"),
        lambda record: record.__setitem__("message", MetricRecord({"a": 1})),
        lambda record: record.__setitem__("message", ArrayRecord()),
    ],
)
def test_records_that_were_not_declared_are_refused(change: Any) -> None:
    record = to_record(REPLY)
    change(record)
    with pytest.raises(BadMessage):
        from_record(over_the_wire(record)[0], FineTuneReply)


def as_weights(data: bytes) -> ArrayRecord:
    """Bytes in the place of the weights' file."""
    return ArrayRecord({STYPE: Array(dtype="uint8", shape=(len(data),), stype=STYPE, data=data)})


SOUND = serialised({"layer": torch.ones(3), "count": torch.tensor(2)})


def with_header(change: Callable[[str], str]) -> bytes:
    length = int.from_bytes(SOUND[:8], "little")
    header = change(SOUND[8 : 8 + length].decode().rstrip()).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + SOUND[8 + length :]


HIDDEN = {
    "no more than itself": (with_header(str), True),
    "metadata": (with_header(lambda text: '{"__metadata__":{"patient":"Smith"},' + text[1:]), False),
    "spaces": (with_header(lambda text: text + " " * 80), False),
    "spaces within": (with_header(lambda text: text.replace(",", ", ")), False),
    "another order of keys": (with_header(lambda text: json.dumps(dict(reversed(json.loads(text).items())))), False),
    "more bytes behind": (SOUND + b"Smith", False),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_nothing_travels_in_the_file_of_the_weights_beside_the_tensors(name: str) -> None:
    data, sound = HIDDEN[name]
    record = to_record(REPLY)
    record["weights"] = as_weights(data)
    arrived = over_the_wire(record)[0]
    if sound:
        _, weights = from_record(arrived, FineTuneReply)
        assert weights is not None and weights.keys() == {"layer", "count"}
        return
    with pytest.raises(BadMessage, match="the weights cannot be read"):
        from_record(arrived, FineTuneReply)


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord(),
        ArrayRecord({"layer": Array(np.ones(3))}),
        ArrayRecord({"Smith": as_weights(SOUND)[STYPE]}),
        ArrayRecord({STYPE: as_weights(SOUND)[STYPE], "more": Array(np.ones(3))}),
        ArrayRecord({STYPE: Array(dtype="uint8", shape=(len(SOUND),), stype="Smith", data=SOUND)}),
        ArrayRecord({STYPE: Array(dtype="Smith", shape=(len(SOUND),), stype=STYPE, data=SOUND)}),
        ArrayRecord({STYPE: Array(dtype="uint8", shape=(1, len(SOUND)), stype=STYPE, data=SOUND)}),
    ],
)
def test_weights_in_any_other_record_are_refused(record: ArrayRecord) -> None:
    sent = to_record(REPLY)
    sent["weights"] = record
    with pytest.raises(BadMessage, match="the weights cannot be read"):
        from_record(over_the_wire(sent)[0], FineTuneReply)


@pytest.mark.parametrize("data", [b"", b"Smith", b"\x93NUMPY\x01\x00" + b"\xff" * 40, SOUND[:-1], b"\xff" * 64])
def test_weights_that_cannot_be_read_are_refused(data: bytes) -> None:
    record = to_record(REPLY)
    record["weights"] = as_weights(data)
    with pytest.raises(BadMessage, match="the weights cannot be read"):
        from_record(over_the_wire(record)[0], FineTuneReply)


def test_weights_never_run_code() -> None:
    import io
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (pytest.fail, ("code from the wire ran",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    for data in (buffer.getvalue(), pickle.dumps(Evil())):
        record = to_record(REPLY)
        record["weights"] = as_weights(data)
        with pytest.raises(BadMessage):
            from_record(record, FineTuneReply)


def test_one_kind_of_message_is_not_taken_for_another() -> None:
    messages: list[WireMessage] = [
        Describe(study=A),
        Description(study=A, site="A", patients_found=1, prepared=0),
        FineTuneOrder(study=A, node=B, key=B, weights=A, census="{}", fingerprint=A),
        REPLY,
        EvaluateReply(study=A, key=B, state="done"),
        DELIVERY,
        Receipt(study=A, state="done"),
    ]
    for message in messages:
        for kind in {type(other) for other in messages} - {type(message)}:
            with pytest.raises(BadMessage):
                from_record(to_record(message), kind)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "done", "epoch": 1, "losses": (0.5,), "learning_rates": (0.1,), "dices": (0.5,), "kept_epoch": 0},
        {"state": "running", "epoch": 2, "losses": (0.5,), "learning_rates": (0.1,), "dices": (0.5,)},
        {"state": "running", "epoch": 1, "losses": (0.5,), "learning_rates": (0.1,), "dices": (0.5,), "kept_epoch": 2},
        {"state": "done", "epoch": 0, "kept_epoch": 1},
        {"state": "done", "epoch": 0, "gradient_steps": 3},
        {"state": "done", "epoch": 0, "losses": (0.5,)},
        {"state": "needs-weights", "validation_dice": 0.5},
        {"state": "needs-weights", "train_patients": 1},
    ],
)
def test_an_answer_that_contradicts_itself_is_none(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FineTuneReply(study=A, key=B, **fields)


def test_an_estimate_of_statistics_is_answered_without_an_epoch() -> None:
    reply = FineTuneReply(study=A, key=B, state="done", train_slices=10, weights=A, validation_dice=0.5)
    assert from_record(to_record(reply), FineTuneReply)[0] == reply


def test_scores_of_cases_stand_side_by_side_or_not_at_all() -> None:
    whole = {"case_numbers": (1, 2), "case_slices": (3, 4), "case_dices": (0.5, 0.6), "case_ious": (0.4, 0.5)}
    whole["case_volume_dices"] = (0.3, 0.7)
    EvaluateReply.model_validate({"study": A, "key": B, "state": "done", **whole})
    for change in [*({field: values[:1]} for field, values in whole.items()), {"case_numbers": (1, 1)}]:
        with pytest.raises(ValidationError):
            EvaluateReply.model_validate({"study": A, "key": B, "state": "done", **whole, **change})
    training = {"study": A, "key": B, "epoch": 1, "losses": (1.0,), "learning_rates": (1.0,), "dices": (0.5,)}
    FineTuneReply.model_validate(training | whole | {"state": "done", "kept_epoch": 1})
    for change in ({"state": "running"}, {"state": "done", "case_dices": ()}):
        with pytest.raises(ValidationError):
            FineTuneReply.model_validate(training | whole | {"kept_epoch": 1} | change)


def test_a_description_has_as_many_folds_everywhere() -> None:
    fields = {"study": A, "site": "A", "patients_found": 1, "prepared": 1, "fingerprint": B, "train_slices": (1, 2)}
    Description.model_validate(fields | {"train_patients": (1, 1), "validation_patients": (1, 1)})
    with pytest.raises(ValidationError):
        Description.model_validate(fields | {"train_patients": (1, 1), "validation_patients": (1,)})


def test_an_answer_that_says_it_knows_nothing_yet_says_nothing_else() -> None:
    with pytest.raises(ValidationError):
        Description(study=A, site="A", patients_found=1, prepared=0, slices=40)
    with pytest.raises(ValidationError):
        EvaluateReply(study=A, key=B, state="needs-weights", dice=0.5)


def test_a_refusal_is_a_number_and_our_own_text() -> None:
    assert set(REFUSALS) == set(Refusal)
    for code in Refusal:
        assert refusal_error(code).reason == REFUSALS[code]
        assert refusal_text(Error(int(code), "patient Smith has no mask")) == REFUSALS[code]
    assert refusal_text(Error(7, "patient Smith")) == "Flower reports error 7"
    assert refusal_text(Error(8, "patient Smith")) == (
        "the site's process ended without an answer, often for want of memory (Flower's error 8)"
    )
