"""Messages to and from a site without a network: files in the result folder, which a courier carries.

An order lies as a file under courier/SITE/waiting/ until its answer lies under courier/SITE/answered/ (`relay courier
pack` and `relay courier take` bring them out and in). A file's name is made of the order's content: the same order
after a restart of the coordinator has the same file, and an answer that arrived in the meantime is found.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Error, Message, RecordDict

from common.files import write_atomically
from common.model.weights import mapped
from common.protocol.parcel import Parcel, parcel_of, read_parcel, write_parcel

log = logging.getLogger("relay.coordinator")

FOLDER, WAITING, ANSWERED = "courier", "waiting", "answered"
"""The folder in the result folder, with a folder for each site by courier, and the two folders in that."""
NODE = 1
"""The number of the only node of a `CourierMail`."""
LOOK_EVERY = 1.0
"""Seconds between two looks for an answer."""


@dataclass(frozen=True)
class CourierNode:
    """A site without a network in the form of Flower's nodes: always there, and slow."""

    name: str
    node_id: int = NODE
    status: str = "online"
    last_activated_at: str = "courier"


@dataclass(frozen=True)
class CarriedAnswer:
    """An answer that a courier brought, in the form of Flower's messages."""

    parcel: Parcel

    def has_error(self) -> bool:
        """Return whether the site refused the order."""
        return self.parcel.code != 0

    @property
    def error(self) -> Error:
        """The refusal."""
        return Error(self.parcel.code, self.parcel.reason)

    @property
    def content(self) -> RecordDict:
        """The answer's content."""
        return self.parcel.record()


@dataclass(frozen=True)
class CourierMail:
    """The mail of one site, in the place of Flower's grid.

    Args:
        folder: the site's folder in the result folder.
        site: the site's name.
    """

    folder: Path
    site: str

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Lay orders ready for the courier, and remove the files of the orders before, whose answers are in the ledger.

        Returns:
            The orders' numbers.
        """
        parcels = [parcel_of(message, self.site) for message in messages]
        for made in (WAITING, ANSWERED):
            (self.folder / made).mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.folder / made).iterdir():
                if path.name not in {parcel.id for parcel in parcels}:
                    path.unlink()
        for parcel in parcels:
            write_atomically(self.folder / WAITING / parcel.id, write_parcel(parcel), durable=True, mode=0o600)
            if not (self.folder / ANSWERED / parcel.id).exists():
                log.info("Site %s has no network: an order waits for relay courier pack %s.", self.site, self.site)
        return [parcel.id for parcel in parcels]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[CarriedAnswer]:
        """Return the answers that the courier brought; an answer stays until the next order, a refusal does not."""
        found = []
        for number in message_ids:
            path = self.folder / ANSWERED / number
            if path.exists():
                with path.open("rb") as file:
                    found.append(CarriedAnswer(read_parcel(mapped(file))))
                if found[-1].has_error():
                    path.unlink()
        return found

    def get_nodes(self) -> Iterable[CourierNode]:
        """Return the site's only node."""
        return [CourierNode(self.site)]

    def wait_for(self, message_id: str, seconds: float) -> tuple[()]:
        """Wait some seconds for an answer: no question is sent behind an order, and no progress is known."""
        if seconds and not (self.folder / ANSWERED / message_id).exists():
            time.sleep(min(seconds, LOOK_EVERY))
        return ()


def couriers_in(folder: Path) -> dict[str, CourierMail]:
    """Return the mail of each site of a result folder that a courier serves."""
    return {path.name: CourierMail(path, path.name) for path in sorted((folder / FOLDER).glob("*")) if path.is_dir()}
