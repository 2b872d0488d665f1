"""Keep the list of revoked certificates, apart from the hospitals' records, so that the list only grows.

The folder revoked/ holds a file for each certificate. A backup of the coordinator's folder that is unpacked over the
folder brings old records back, in which a hospital may take part that was revoked since; the files here stay.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from common.config.values import SiteName
from common.errors import RelayError
from common.files import write_atomically
from deploy.coordinator.folder import Coordinator


class Revoked(BaseModel):
    """Hold the content of the file revoked/SERIAL.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    site: SiteName
    serial: str = Field(pattern=r"^[0-9]{1,60}$")
    """The certificate's serial number, in decimal digits."""
    when: AwareDatetime
    """The time of the revocation."""


def add(coordinator: Coordinator, site: str, serials: Iterable[str], when: str) -> None:
    """Add certificates to the list; a certificate on the list keeps its first time.

    Args:
        coordinator: the coordinator's folder.
        site: the site's name.
        serials: serial numbers in decimal digits.
        when: the time of the revocation, in ISO 8601.
    """
    coordinator.revoked.mkdir(parents=True, exist_ok=True)
    for serial in serials:
        path = coordinator.revoked / f"{serial}.json"
        if not path.exists():
            entry = Revoked(site=site, serial=serial, when=datetime.datetime.fromisoformat(when))
            write_atomically(path, (entry.model_dump_json(indent=1) + "\n").encode(), durable=True)


def revoked(coordinator: Coordinator) -> dict[int, Revoked]:
    """Return the list, by serial number.

    Raises:
        RelayError: a file of the list cannot be read.
    """
    found = (_read(path) for path in sorted(coordinator.revoked.glob("*.json")))
    return {int(entry.serial): entry for entry in found}


def _read(path: Path) -> Revoked:
    try:
        return Revoked.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise RelayError(
            f"The file {path} of a revoked certificate cannot be read; restore it from a backup, so that the hospital"
            " stays out."
        ) from None
