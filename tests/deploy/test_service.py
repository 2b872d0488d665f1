"""What is printed for systemd and for compose names this site's own paths, and nothing else of the machine."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest
import yaml

from client.site import load_site
from common.errors import RelayError
from deploy.site.service import compose, unit
from tests.hospitals import write_site


def test_the_unit_runs_the_site_and_shuts_the_rest_of_the_machine(tmp_path: Path) -> None:
    path = write_site(tmp_path / "a", "A", layout="nci-isbi", masks="labels")
    parsed = configparser.ConfigParser(strict=True)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(unit(path))
    service = parsed["Service"]
    assert shlex.split(service["ExecStart"])[-3:] == ["site", "start", str(path)]
    assert service["ReadOnlyPaths"].split() == [str(path.parent / "images"), str(path.parent / "labels")]
    assert service["ReadWritePaths"] == str(load_site(path).folder)
    assert service["ProtectSystem"] == "strict" and service["NoNewPrivileges"] == "yes"


def test_the_compose_file_gives_a_container_its_folder_and_the_images_to_read(tmp_path: Path) -> None:
    path = write_site(tmp_path / "a", "A")
    site = yaml.safe_load(compose(path))["services"]["site"]
    folder = load_site(path).folder
    assert site["volumes"] == [
        f"{path}:{path}:ro",
        f"{folder}:{folder}",
        f"{path.parent / 'images'}:{path.parent / 'images'}:ro",
    ]
    assert site["command"][:3] == ["site", "start", str(path)]
    assert site["read_only"] is True and site["cap_drop"] == ["ALL"]
    assert site["user"] == f"{folder.stat().st_uid}:{folder.stat().st_gid}"


def test_a_path_that_such_a_file_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    path = write_site(tmp_path / "a b", "A")
    for make in (unit, compose):
        with pytest.raises(RelayError, match="cannot stand in such a file"):
            make(path)
