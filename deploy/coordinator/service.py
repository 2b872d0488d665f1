"""Generate a systemd unit to keep `relay coordinator start` running; it is printed and not installed."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.coordinator.folder import Coordinator
from deploy.unit_words import unit_word

UNIT = """\
# /etc/systemd/system/relay-coordinator.service
#   systemctl daemon-reload && systemctl enable --now relay-coordinator
#   journalctl -u relay-coordinator
# Of several coordinators on one machine, each gets a file of its own name.
[Unit]
Description=relay: coordinator of {dialled}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
ExecStart={python} -I -m deploy.cli coordinator start --dir {argument}
Restart=always
RestartSec=30
# A study's result folder may lie anywhere that this user may write to, so that only the system's own folders are
# closed.
ProtectSystem=full
ReadWritePaths={folder}
NoNewPrivileges=yes
{rights}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""

BIND = "AmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE"
"""The one right of root's by which the gateway may take a port below 1024."""


def unit(coordinator: Coordinator) -> str:
    """Return a systemd unit for a coordinator, which runs as the owner of the coordinator's folder.

    Raises:
        RelayError: no coordinator is set up in the folder, or its path cannot stand in a unit.
    """
    settings, folder = coordinator.settings(), coordinator.folder.absolute()
    return UNIT.format(
        dialled=settings.dialled,
        user=folder.owner(),
        python=unit_word(Path(sys.executable)),
        # In arguments, systemd would read a dollar sign as the beginning of a variable.
        argument=unit_word(folder).replace("$", "$$"),
        folder=unit_word(folder),
        rights=BIND if settings.port < 1024 else "CapabilityBoundingSet=",
    )
