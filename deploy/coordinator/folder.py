"""Name the coordinator's files: a folder for each purpose, so that a program is given only its own files.

ca/          the two authorities' private keys, for enrolling and revoking; no long-running program reads them
gateway/     files of nginx: its certificate, the clients' authority, the revocation list, the settings
superlink/   files of Flower's SuperLink, and the SuperLink's database and log
superexec/   files of Flower's SuperExec, and the SuperExec's log
control/     the coordinator's settings, and the authority's certificate for checking the SuperLink
sites/       a record for each enrolled hospital
kits/        the kits for the hospitals
courier/     the key by which orders are signed that a courier carries, made when the first is packed
revoked/     a file for each certificate that was revoked; files are added, and never changed or taken away
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from common.config.toml import load_toml
from common.errors import NotEnrolled
from deploy.flower.control import Control
from deploy.pki.enrolment_files import Host, Port, dialled

USUAL_FOLDER = Path("relay-coordinator")
"""The coordinator's folder where none is named, in the folder that a command is called in."""
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]


class Settings(BaseModel):
    """Hold the content of coordinator.toml: the arguments of `relay enroll coordinator`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    host: Host
    """The gateway's name or address, dialled by hospitals."""
    port: Port
    superlink: Address
    """HOST:PORT at which the SuperLink listens, for the gateway and for this machine."""
    health_port: Port = 8081
    """The gateway's port for health checks, which is open on the gateway's own machine alone."""

    @property
    def dialled(self) -> str:
        """Return HOST:PORT dialled by hospitals."""
        return dialled(self.host, self.port)


@dataclass(frozen=True)
class Coordinator:
    """Give the paths in the coordinator's folder."""

    folder: Path

    @property
    def ca(self) -> Path:
        """Return the folder of the authorities' private keys."""
        return self.folder / "ca"

    @property
    def gateway(self) -> Path:
        """Return the folder of nginx's files."""
        return self.folder / "gateway"

    @property
    def superlink(self) -> Path:
        """Return the folder of the SuperLink: its certificate, its database and its log."""
        return self.folder / "superlink"

    @property
    def superexec(self) -> Path:
        """Return the folder of the SuperExec: its secret and its log."""
        return self.folder / "superexec"

    @property
    def control_folder(self) -> Path:
        """Return the folder of the settings and of the authority's certificate for checking the SuperLink."""
        return self.folder / "control"

    @property
    def sites(self) -> Path:
        """Return the folder of the hospitals' records."""
        return self.folder / "sites"

    @property
    def revoked(self) -> Path:
        """Return the folder of the revoked certificates."""
        return self.folder / "revoked"

    @property
    def kits(self) -> Path:
        """Return the folder of the hospitals' kits."""
        return self.folder / "kits"

    @property
    def courier(self) -> Path:
        """Return the folder of the key for orders that a courier carries."""
        return self.folder / "courier"

    @property
    def settings_file(self) -> Path:
        """Return the path of coordinator.toml."""
        return self.control_folder / "coordinator.toml"

    @property
    def secret(self) -> Path:
        """Return the path of the secret with which the SuperExec authenticates itself to the SuperLink."""
        return self.superexec / "superexec.secret"

    @property
    def superlink_ca(self) -> Path:
        """Return the path of the authority's certificate, with which the SuperLink's certificate is checked."""
        return self.control_folder / "server-ca.crt"

    def settings(self) -> Settings:
        """Read the coordinator's settings.

        Raises:
            NotEnrolled: no coordinator is set up in this folder.
        """
        if not self.settings_file.exists():
            raise NotEnrolled(
                f"No coordinator is set up in {self.folder}; set it up with relay enroll coordinator --host NAME,"
                " or name its folder with --dir."
            )
        return load_toml(self.settings_file, Settings, "coordinator's file")

    def control(self) -> Control:
        """Return the control interface of the coordinator's SuperLink."""
        return Control(self.settings().superlink, self.superlink_ca)

    def private_folders(self) -> None:
        """Make the folders; folders with private keys or secrets can be entered by their owner alone."""
        for path in (self.ca, self.gateway, self.superlink, self.superexec):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.stat(path).st_mode & 0o077 and os.stat(path).st_uid == os.geteuid():
                path.chmod(0o700)
        for path in (self.control_folder, self.sites, self.kits, self.revoked):
            path.mkdir(parents=True, exist_ok=True)
