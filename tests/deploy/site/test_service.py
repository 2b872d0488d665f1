"""What is printed for systemd and for compose names this site's own paths, and nothing else of the machine."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from client.site_config import load_site
from common.errors import RelayError
from deploy.site.service import compose, unit
from tests.support.hospitals import write_site

ODD = pytest.mark.parametrize("folder", ["a", "a b", '50% of $HOME, "all" \\ it\'s: Zürich #2'])


def words(value: str) -> list[str]:
    """As systemd reads a list of paths, or a command."""
    return [word.replace("%%", "%") for word in shlex.split(value)]


@ODD
def test_the_unit_runs_the_site_and_shuts_the_rest_of_the_machine(tmp_path: Path, folder: str) -> None:
    path = write_site(tmp_path / folder, "A", layout="nci-isbi", masks="labels")
    parsed = configparser.RawConfigParser(strict=True)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(unit(path))
    service = parsed["Service"]
    command = [word.replace("$$", "$") for word in words(service["ExecStart"])]
    assert command == [sys.executable, "-I", "-m", "deploy.cli", "site", "start", str(path)]
    assert words(service["ReadOnlyPaths"]) == [str(path.parent / "images"), str(path.parent / "labels")]
    assert words(service["ReadWritePaths"]) == [str(load_site(path).folder)]
    assert service["ProtectSystem"] == "strict" and service["NoNewPrivileges"] == "yes"


def test_an_ordinary_path_stands_in_the_unit_as_it_is(tmp_path: Path) -> None:
    path = write_site(tmp_path / "a", "A")
    assert f"ReadWritePaths={load_site(path).folder}\n" in unit(path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not there")
@ODD
def test_systemd_takes_the_unit(tmp_path: Path, folder: str) -> None:
    path = write_site(tmp_path / folder, "A")
    written = tmp_path / "relay-site-A.service"
    written.write_text(unit(path), encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", written], capture_output=True, encoding="utf-8", timeout=60)
    assert written.name not in done.stderr and str(tmp_path) not in done.stderr


@ODD
def test_the_compose_file_gives_a_container_its_folder_and_the_images_to_read(tmp_path: Path, folder: str) -> None:
    path = write_site(tmp_path / folder, "A")
    site = yaml.safe_load(compose(path).replace("$$", "$"))["services"]["site"]
    private = load_site(path).folder
    readings = {str(path): True, str(private): False, str(path.parent / "images"): True}
    assert site["volumes"] == [
        {"type": "bind", "source": place, "target": place, "read_only": only} for place, only in readings.items()
    ]
    assert site["command"] == ["site", "start", str(path), "--health", "127.0.0.1:9097"]
    assert site["read_only"] is True and site["cap_drop"] == ["ALL"]
    assert site["user"] == f"{private.stat().st_uid}:{private.stat().st_gid}"


def test_a_path_that_such_a_file_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    path = write_site(tmp_path / "a\nUser=root", "A")
    for make in (unit, compose):
        with pytest.raises(RelayError, match="cannot stand in such a file"):
            make(path)
