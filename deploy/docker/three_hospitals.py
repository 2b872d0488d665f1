"""What docker-compose.yml's `setup` does once: everybody's first day, in one place.

It plays the coordinator and the three hospitals in turn, each in volumes of its own: makes their keys, exchanges
requests and kits, writes synthetic patients where a hospital has none, and approves the study there. In earnest each
of them does its part on its own machine; the commands are those of `docs/how-to/`. What is there is left as it is.

    python -m deploy.docker.three_hospitals STUDY.toml

The volumes: /coordinator/…, and for each hospital /hospitals/NAME/site (what it keeps) and /hospitals/NAME/data.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import tomli_w

from client.governance.approval import approvals
from client.site_config import SiteConfig, load_site
from common.config.study import Study, load_study
from common.errors import RelayError
from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from deploy.phantom import write_hospitals
from deploy.site import keys
from deploy.site.approve import approve_study

ROOT = Path("/")
PATIENTS = {"A": 6, "B": 6, "C": 5}
IN_CONTAINER = Path("/data")
"""Where a hospital's own container sees its data."""


def set_up(study: Study, root: Path = ROOT) -> None:
    """Make what is missing."""
    coordinator = Coordinator(root / "coordinator")
    if not coordinator.settings_file.exists():
        enroll.set_up(coordinator, host="gateway", port=8443, superlink="coordinator:8000")
        _say("The coordinator has its authorities, certificates and gateway.")
    for name in study.sites:
        place = root / "hospitals" / name.lower()
        site_file, data = place / "site" / "site.toml", place / "data"
        if not site_file.exists():
            _write_patients(name, site_file, data)
        site = load_site(site_file)
        if not (site.folder / keys.FOLDER / keys.KIT).exists():
            _, request, request_path = keys.init(site_file, name=name)
            _, kit = enroll.enroll(coordinator, name, request_path, heard=request.fingerprint)
            keys.join(site_file, kit)
            _say(f"Hospital {name} made its keys, and the coordinator admitted it.")
        if not any(record.study == study.digest for record in approvals(site)):
            # As `relay site approve --yes` does. What a hospital has left since is not approved for it again.
            approve_study(_seen_from_here(site, data), study, yes=True)


def _write_patients(name: str, site_file: Path, data: Path) -> None:
    """Synthetic patients, and a site file that says where the hospital's container sees them."""
    if any(data.iterdir()) and not (data / "phantom.json").exists():
        raise RelayError(
            f"Hospital {name} has data of its own and no site.toml; write one into its site folder, with its images"
            f" under {IN_CONTAINER} (docs/how-to/three-hospitals-in-docker.md)."
        )
    if name not in PATIENTS:
        raise RelayError(f"There are synthetic patients for {', '.join(PATIENTS)}, and none for {name}.")
    written = write_hospitals(data, patients={name: PATIENTS[name]})[name]
    settings = tomllib.loads(written.read_text(encoding="utf-8"))
    for key in ("images", "masks"):
        if key in settings:
            settings[key] = str(IN_CONTAINER / settings[key])
    site_file.write_text(tomli_w.dumps(settings | {"folder": "private"}), encoding="utf-8")
    _say(f"Hospital {name} has {PATIENTS[name]} synthetic patients.")


def _seen_from_here(site: SiteConfig, data: Path) -> SiteConfig:
    """Return a hospital whose data are somewhere else here than in its own container."""

    def here(path: Path) -> Path:
        return data / path.relative_to(IN_CONTAINER) if path.is_relative_to(IN_CONTAINER) else path

    return site.model_copy(update={"images": here(site.images), "masks": site.masks and here(site.masks)})


def _say(sentence: str) -> None:
    print(sentence, flush=True)


if __name__ == "__main__":
    try:
        set_up(load_study(Path(sys.argv[1])))
    except RelayError as error:
        sys.exit(str(error))
