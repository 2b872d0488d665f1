"""Mutated records of the declared messages: taken as they are declared, or BadMessage; and a site's answer to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from common.model.weights import STYPE, serialised, to_arrays
from common.protocol.codec import BadMessage, from_record, to_record
from common.protocol.messages import (
    DELIVER,
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
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
from common.protocol.refusals import Refusal
from tests.fuzz import at_a_site
from tests.fuzz.child import Watched, tell
from tests.fuzz.plain import PHI, Random, harm
from tests.fuzz.planted import NAME, WARD, found_in
from tests.support.site_calls import call

A, B = "a" * 64, "b" * 64
ORDER: dict[str, Any] = {"study": at_a_site.STUDY.digest, "census": '{"A": [3, 3]}', "fingerprint": A}
ORDER |= {"node": A, "key": A, "weights": B, "acknowledged": (A,)}
TRAINED: dict[str, Any] = {"study": A, "key": A, "state": "done", "epoch": 1, "losses": (0.5,), "dices": (0.1,)}
SOUND: tuple[tuple[WireMessage, str], ...] = (
    (Describe(study=at_a_site.STUDY.digest), DESCRIBE),
    (FineTuneOrder(**ORDER), FINE_TUNE),
    (EvaluateOrder(**ORDER), EVALUATE),
    (
        Delivery(
            study=at_a_site.STUDY.digest, census='{"A": [3, 3]}', fingerprint=A, role="own", models=(A,), row=0,
            patients=(4, 4, 4), test_patients=(1, 1, 1), slices=(9, 9, 9),
        ),
        DELIVER,
    ),
    (Description(study=A, site="A", patients_found=3, prepared=1), ""),
    (FineTuneReply(**TRAINED, learning_rates=(0.1,), kept_epoch=1, weights=B), ""),
    (EvaluateReply(study=A, key=A, state="done", patients=3, slices=9, dice=0.5, iou=0.4, dice_volume=0.5), ""),
    (Receipt(study=A, state="done"), ""),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    0, -1, 1, 2**62, -(2**62), 1.5, float("nan"), float("inf"), -0.0, 1e308, True, False, "", "done", A, A.upper(),
    A + "\n", NAME, "x" * 200_000, "\0", '{"A": [1e999]}', '{"A": "x"}', "[" * 5000, "null",
    "NaN", '{"__proto__": 1}', b"", b"\xff", [0], [-1, 2**62], [1.5], [float("nan")], [True, False], [A], [NAME, A],
    [b"x"], [0] * 5000,
)  # fmt: skip


def record_of(seed: int) -> tuple[type[WireMessage], str, RecordDict]:
    """What arrives instead of a declared message, under that message's name."""
    rng = Random(f"records {seed}")
    message, kind = rng.choice(SOUND)
    weights = {"conv": torch.ones(2, 3), "count": torch.tensor(4)} if rng.random() < 0.5 else None
    record = to_record(message, weights)
    for _ in range(rng.choice((1, 1, 2, 3))):
        way = rng.randrange(10)
        fields = dict(record["message"]) if isinstance(record.get("message"), ConfigRecord) else {}
        if way < 6 and fields:
            name = rng.choice([*fields, *type(message).model_fields, NAME, ""])
            fields[name] = rng.choice(VALUES)
            if way == 5:
                del fields[rng.choice(list(fields))]
            record["message"] = ConfigRecord(fields)
        elif way < 9 and weights is not None:
            record["weights"] = ArrayRecord(
                {name: _array(rng) for name in rng.choice(((STYPE,), (STYPE,), ("", NAME), (STYPE, "b")))}
            )
        else:
            name = rng.choice(("message", "weights", "more", NAME, ""))
            record[name] = rng.choice((ConfigRecord({"a": NAME}), MetricRecord({"loss": 0.5}), ArrayRecord({})))
    return type(message), kind, record


def _array(rng: Random) -> Array:
    """An array whose type, shape or content may be anything."""
    sound = to_arrays(serialised({"x": torch.ones(2, 3), "count": torch.tensor(4)}))[STYPE]
    # Mostly the bytes alone are wrong, so that they are looked at.
    data = rng.choice((sound.data, b"", *(harm(sound.data, rng) for _ in range(8)), sound.data * 2, b"\x80\x04]." * 9))
    odd_types = ("O", "float99", "<U9", "V8", "i4,f8", "", NAME, "complex64", "M8")
    odd_shapes: tuple[tuple[int, ...], ...] = ((2, 4), (-1,), (0,), (2**40, 2**40), (2**31,), (), (1,) * 70)
    return Array(
        dtype=rng.choice((*(sound.dtype,) * 30, *odd_types)),
        shape=rng.choice((*((len(data),),) * 30, *odd_shapes)),
        stype=rng.choice((*(sound.stype,) * 10, "numpy.ndarray", "pickle")),
        data=data,
    )


def run(_: str, seeds: list[int], folder: Path, watched: Watched) -> None:
    site = at_a_site.at("nifti", folder / WARD)
    for seed in seeds:
        kind, address, record = record_of(seed)
        with watched.only(BadMessage, seeds=[seed], what=f"as {kind.__name__}", sentence=False):
            from_record(record, kind)
            watched.outcomes["read"] += 1
        arrived = _harmed_on_the_way(record, address, Random(seed))
        with watched.only(BadMessage, seeds=[seed], what="after Flower's own packing", sentence=False):
            if arrived is not None:
                from_record(arrived, kind)
        if address:
            _answer(address, record, site.private() / "site.log", folder, seed, watched)


def _harmed_on_the_way(record: RecordDict, address: str, rng: Random) -> RecordDict | None:
    """What Flower makes of a message with wrong bytes; None where it refuses it before anyone of ours sees it."""
    try:
        sent = Message(record, dst_node_id=1, message_type=address or DESCRIBE)
        packed = harm(message_to_proto(sent).SerializeToString(), rng)
        return message_from_proto(ProtoMessage.FromString(packed)).content
    except Exception:
        return None


def _answer(address: str, record: RecordDict, log: Path, folder: Path, seed: int, watched: Watched) -> None:
    reply = call(address, record)
    left = message_to_proto(reply).SerializeToString()
    if told := found_in(left, also=(str(folder), *PHI)):
        tell(fault=f"this would leave the site: {told}", seeds=[seed])
    if reply.has_error():
        watched.outcomes[Refusal(reply.error.code).name] += 1
        if reply.error.code == Refusal.FAILED:
            tell(fault=f"the site failed: {log.read_text(encoding='utf-8')[-3000:]}", seeds=[seed])
