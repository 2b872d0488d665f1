"""Set up a coordinator and three hospitals in containers: the service `setup` of docker-compose.yml.

This module acts as the coordinator and the three hospitals in turn, each in volumes of its own: the module makes keys,
exchanges requests and kits, writes synthetic patients where a hospital has none, and approves the study at each
hospital. In a real study the coordinator and each hospital run the commands of `docs/how-to/` on their own machines.
Existing files are left unchanged.

    python -m deploy.docker.three_hospitals STUDY.toml

The volumes are /coordinator/… and, for each hospital, /hospitals/NAME/site (the site file and the private folder) and
/hospitals/NAME/data.
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
"""The path of a hospital's data in the hospital's own container."""


def set_up(study: Study, root: Path = ROOT) -> None:
    """Make the coordinator and the hospitals of a study, as far as they do not exist yet.

    Args:
        study: the study for every hospital to approve.
        root: the folder in which the volumes are mounted.

    Raises:
        RelayError: a hospital has data of its own and no site file, or the study names a site without synthetic
            patients.
    """
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
            # The approval is the same as by `relay site approve --yes`. A study left by the hospital is not approved
            # again.
            approve_study(_seen_from_here(site, data), study, yes=True)


def _write_patients(name: str, site_file: Path, data: Path) -> None:
    """Write synthetic patients, and a site file with the data paths of the hospital's own container."""
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
    """Return a hospital's settings with the data paths of this container in place of the hospital's own."""

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
