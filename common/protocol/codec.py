"""Conversion of messages to and from Flower's records.

A message is a single ConfigRecord named "message", which holds the fields of a model of `common.protocol.messages`. A
message with weights also has an ArrayRecord named "weights", whose only array is the safetensors file. Both sides
refuse everything else on arrival: a hospital and a coordinator may distrust each other.
"""

from __future__ import annotations

import json
from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import ValidationError

from common.model.weights import File, Weights, from_arrays, serialised, to_arrays
from common.protocol.messages import WireMessage

Kind = TypeVar("Kind", bound=WireMessage)


class BadMessage(Exception):
    """A received record is not the declared message."""


def to_record(message: WireMessage, weights: Weights | File | None = None) -> RecordDict:
    """Return a message as Flower's record.

    Args:
        message: the message.
        weights: tensors or their safetensors file, if weights travel along.
    """
    plain = message.model_dump(mode="json")
    # Flower drops the type of an empty list, so the field would arrive as no list: empty lists are left out.
    fields = {name: value for name, value in plain.items() if value != []}
    record = RecordDict({"message": ConfigRecord(fields)})
    if weights is not None:
        record["weights"] = to_arrays(serialised(weights) if isinstance(weights, dict) else weights)
    return record


def from_record(record: RecordDict, kind: type[Kind]) -> tuple[Kind, Weights | None]:
    """Return the message in Flower's record, and the weights, if any.

    Args:
        record: the received record.
        kind: the declared message.

    Raises:
        BadMessage: an undeclared record or key, a wrong type, or a text in a number's place.
    """
    if not set(record) <= {"message", "weights"} or not isinstance(record.get("message"), ConfigRecord):
        raise BadMessage("undeclared records")
    arrays = record.get("weights")
    if arrays is not None and not isinstance(arrays, ArrayRecord):
        raise BadMessage("the weights are no ArrayRecord")
    try:
        message = kind.model_validate_json(json.dumps(dict(record.config_records["message"])))
    except (ValidationError, TypeError, ValueError):
        # The text of the error would repeat untrusted content.
        raise BadMessage(f"not a {kind.__name__}") from None
    if arrays is None:
        return message, None
    try:
        return message, from_arrays(arrays)
    except Exception:  # weights from another machine can be wrong in many ways
        raise BadMessage("the weights cannot be read") from None
