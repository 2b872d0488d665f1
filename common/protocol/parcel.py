"""A message as a file: what the courier carries between the coordinator and a site without a network.

The file begins with the length of a JSON text (8 bytes, little-endian) and the text, and ends with the safetensors file
of the weights, if weights travel along. `deploy.pki.sealing` encrypts and signs it for the way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from common.digest import digest_of_json
from common.model.weights import STYPE, File, to_arrays

ACKNOWLEDGED = "acknowledged"
"""The field of an order that may differ in the same order after a restart of the coordinator."""


class BadParcel(Exception):
    """A file is not a parcel as it is declared."""


@dataclass(frozen=True)
class Parcel:
    """A message of Flower's, without Flower's form."""

    site: str
    """The site that the message is for, or that it comes from."""
    id: str
    """The number of the order: the same for an order and its answer, and for the same order after a restart."""
    type: str
    """Flower's type of the message."""
    fields: Mapping[str, Any]
    """The fields of the declared message; none of a refusal."""
    weights: File | None = None
    code: int = 0
    """Of a refusal, its code; 0 of any other message."""
    reason: str = ""
    """Of a refusal, its fixed text."""

    def record(self) -> RecordDict:
        """Return the message's content in Flower's form."""
        record = RecordDict({"message": ConfigRecord(dict(self.fields))})
        if self.weights is not None:
            record["weights"] = to_arrays(self.weights)
        return record


def parcel_of(message: Message, site: str, order: str = "") -> Parcel:
    """Return a message of Flower's as a parcel.

    Args:
        message: an order, or an answer.
        site: the site.
        order: of an answer, the number of its order; an order's own number is made of its content.
    """
    kind = message.metadata.message_type
    if message.has_error():
        return Parcel(site, order, kind, {}, code=message.error.code, reason=message.error.reason or "")
    fields = dict(message.content.config_records["message"])
    arrays = message.content.array_records.get("weights")
    weights = None if arrays is None else arrays[STYPE].data
    said = {name: value for name, value in fields.items() if name != ACKNOWLEDGED}
    number = order or digest_of_json({"site": site, "type": kind, "fields": said, "weights": weights is not None})
    return Parcel(site, number, kind, fields, weights)


def write_parcel(parcel: Parcel) -> list[bytes | memoryview]:
    """Return the file of a parcel as consecutive pieces."""
    names = ("site", "id", "type", "fields", "code", "reason")
    text = json.dumps({name: getattr(parcel, name) for name in names}).encode()
    return [len(text).to_bytes(8, "little"), text, *([] if parcel.weights is None else [parcel.weights])]


def read_parcel(file: File) -> Parcel:
    """Return the parcel in a file; its weights are a view of the file.

    Raises:
        BadParcel: the file is not one of `write_parcel`.
    """
    try:
        end = 8 + int.from_bytes(file[:8], "little")
        content = json.loads(bytes(file[8:end]))
        kinds = {"site": str, "id": str, "type": str, "fields": dict, "code": int, "reason": str}
        if content.keys() != kinds.keys() or not all(type(content[name]) is kind for name, kind in kinds.items()):
            raise ValueError
        ConfigRecord(content["fields"])
    except (ValueError, TypeError, KeyError, AttributeError, MemoryError, OverflowError, RecursionError):
        raise BadParcel("it is no parcel") from None
    return Parcel(**content, weights=file[end:] if len(file) > end else None)
