"""The messages' form as Flower's records.

A message is one ConfigRecord named "message", which holds the fields of one of the models of
`common.protocol.messages`, and, where weights travel, one ArrayRecord named "weights", whose one array is their
safetensors file. Anything else is refused on arrival, on either side: a hospital and a coordinator may distrust each
other.
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
    """What arrived is not the message that was declared."""


def to_record(message: WireMessage, weights: Weights | File | None = None) -> RecordDict:
    """Return a message as Flower carries it. Args: weights: tensors, or their file."""
    plain = message.model_dump(mode="json")
    # Flower drops the type of an empty list, so that it would come back as nothing: leave it out.
    fields = {name: value for name, value in plain.items() if value != []}
    record = RecordDict({"message": ConfigRecord(fields)})
    if weights is not None:
        record["weights"] = to_arrays(serialised(weights) if isinstance(weights, dict) else weights)
    return record


def from_record(record: RecordDict, kind: type[Kind]) -> tuple[Kind, Weights | None]:
    """Return a message as it was sent.

    Raises:
        BadMessage: an undeclared record or key, a wrong type, a text in a number's place.
    """
    if not set(record) <= {"message", "weights"} or not isinstance(record.get("message"), ConfigRecord):
        raise BadMessage("undeclared records")
    arrays = record.get("weights")
    if arrays is not None and not isinstance(arrays, ArrayRecord):
        raise BadMessage("the weights are no ArrayRecord")
    try:
        message = kind.model_validate_json(json.dumps(dict(record.config_records["message"])))
    except (ValidationError, TypeError, ValueError):
        # The text of the error would repeat what was sent; none of it is worth trusting.
        raise BadMessage(f"not a {kind.__name__}") from None
    if arrays is None:
        return message, None
    try:
        return message, from_arrays(arrays)
    except Exception:  # they come from elsewhere, and can be wrong in many ways
        raise BadMessage("the weights cannot be read") from None
