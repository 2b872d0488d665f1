"""Where the coordinator keeps what. One folder a purpose, so that each program is given what it needs and no more.

ca/          the two authorities' private keys: for enrolling and revoking, and for nothing that runs
gateway/     what nginx reads: its certificate, the clients' authority, the list of the revoked, its settings
superlink/   what Flower's SuperLink and SuperExec read, and the SuperLink's database
sites/       a file a hospital: what it was enrolled with
kits/        what goes back to the hospitals
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
from deploy.pki.enrolment_files import Host, Port

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]


class Settings(BaseModel):
    """coordinator.toml: what `relay enroll coordinator` was told."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    host: Host
    """The name that hospitals dial."""
    port: Port
    superlink: Address
    """Where the SuperLink listens, for the gateway and for this machine."""


@dataclass(frozen=True)
class Coordinator:
    """The coordinator's folder."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca"

    @property
    def gateway(self) -> Path:
        return self.folder / "gateway"

    @property
    def superlink(self) -> Path:
        return self.folder / "superlink"

    @property
    def superexec(self) -> Path:
        return self.folder / "superexec"

    @property
    def control_folder(self) -> Path:
        return self.folder / "control"

    @property
    def sites(self) -> Path:
        return self.folder / "sites"

    @property
    def kits(self) -> Path:
        return self.folder / "kits"

    @property
    def settings_file(self) -> Path:
        return self.control_folder / "coordinator.toml"

    @property
    def secret(self) -> Path:
        return self.superexec / "superexec.secret"

    @property
    def superlink_ca(self) -> Path:
        """What the SuperLink's certificate is checked with."""
        return self.control_folder / "server-ca.crt"

    def settings(self) -> Settings:
        """Return what the coordinator was set up with.

        Raises:
            NotEnrolled: it is not set up in this folder.
        """
        if not self.settings_file.exists():
            raise NotEnrolled(
                f"No coordinator is set up in {self.folder}; set it up with relay enroll coordinator --host NAME,"
                " or name its folder with --dir."
            )
        return load_toml(self.settings_file, Settings, "coordinator's file")

    def control(self) -> Control:
        """Return the control interface of its SuperLink."""
        return Control(self.settings().superlink, self.superlink_ca)

    def private_folders(self) -> None:
        """Make the folders; those with private keys are their owner's alone."""
        for path in (self.ca, self.gateway, self.superlink, self.superexec):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.stat(path).st_mode & 0o077 and os.stat(path).st_uid == os.geteuid():
                path.chmod(0o700)
        for path in (self.control_folder, self.sites, self.kits):
            path.mkdir(parents=True, exist_ok=True)
