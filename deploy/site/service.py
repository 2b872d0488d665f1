"""Generate a systemd unit or a compose file to keep `relay site start` running on a hospital's machine.

The unit and the compose file are printed and not installed; all paths are paths of the printing machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from client.site_config import SiteConfig, load_site
from deploy.unit_words import printable, unit_word

UNIT = """\
# /etc/systemd/system/relay-site-{name}.service
#   systemctl daemon-reload && systemctl enable --now relay-site-{name}
#   journalctl -u relay-site-{name}
[Unit]
Description=relay: hospital {name}
Wants=network-online.target
After=network-online.target

[Service]
User={user}
ExecStart={python} -I -m deploy.cli site start {site}
Restart=always
RestartSec=30

# The program reads the images and writes its own folder; the rest of the machine is not its business.
ProtectSystem=strict
ProtectHome=read-only
ReadOnlyPaths={reads}
ReadWritePaths={folder}
PrivateTmp=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""

COMPOSE = """\
# One hospital in a container: docker compose -f THIS up -d
# The image: docker build -f deploy/docker/Dockerfile --target relay -t relay:{version} . in the program's folder.
name: relay-site-{lower}

services:
  site:
    image: relay:{version}
    command: [site, start, {site}, "--health", "127.0.0.1:9097"]
    # Whom the keys and caches belong to.
    user: "{uid}:{gid}"
    read_only: true
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    init: true
    tmpfs: ["/tmp:mode=1777,size=1g"]
    pids_limit: 512
    mem_limit: 8g
    restart: unless-stopped
    volumes:
      # Under the same paths as outside, so that site.toml means the same in both places.
{volumes}
    healthcheck:
      test: ["CMD", "python", "-I", "-m", "deploy.flower.health", "127.0.0.1:9097"]
      interval: 30s
      timeout: 15s
      retries: 3
      start_period: 60s
    logging: {{options: {{max-size: 10m, max-file: "3"}}}}
"""


def unit(path: Path) -> str:
    """Return a systemd unit for a site, which runs as the owner of the site's private folder."""
    site, file = _loaded(path)
    return UNIT.format(
        name=site.name,
        user=site.private().owner(),
        python=unit_word(Path(sys.executable)),
        # In arguments, systemd would read a dollar sign as the beginning of a variable.
        site=unit_word(file).replace("$", "$$"),
        reads=" ".join(map(unit_word, _data(site))),
        folder=unit_word(site.folder),
    )


def compose(path: Path) -> str:
    """Return a compose file for a site, which runs as the owner of the site's private folder."""
    from importlib.metadata import version

    site, file = _loaded(path)
    owner = site.private().stat()
    mounts = [_mount(file, read_only=True), _mount(site.folder, read_only=False)]
    mounts += [_mount(folder, read_only=True) for folder in _data(site)]
    return COMPOSE.format(
        lower=site.name.lower(),
        version=version("prostate-relay"),
        site=_yaml_text(file),
        uid=owner.st_uid,
        gid=owner.st_gid,
        volumes="\n".join(f"      - {mount}" for mount in mounts),
    )


def _loaded(path: Path) -> tuple[SiteConfig, Path]:
    return load_site(path), path.absolute()


def _data(site: SiteConfig) -> list[Path]:
    return [site.images, *([site.masks] if site.masks else [])]


def _mount(path: Path, *, read_only: bool) -> str:
    text = _yaml_text(path)
    return f"{{type: bind, source: {text}, target: {text}, read_only: {str(read_only).lower()}}}"


def _yaml_text(path: Path) -> str:
    """Return a path as YAML's quoted text, with doubled dollar signs: compose reads a single one as a variable."""
    return json.dumps(printable(path).replace("$", "$$"), ensure_ascii=False)
