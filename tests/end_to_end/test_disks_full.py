"""A disk that runs full in mid-study, at a hospital, at the coordinator or at the gateway: told, and gone on from."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.site_config import load_site
from tests.end_to_end.test_deployed import Bench, bench, ended, until_said
from tests.support.edited_relay import QUICKER, edited_relay
from tests.support.federation import Federation, wait_for
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.nightly

__all__ = ["bench"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture(scope="module")
def quicker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edited_relay(tmp_path_factory.mktemp("quicker"), edits=QUICKER)


def enrolled(bench: Bench, folder: Path, quicker: Path, *, gateway: bool = False) -> Federation:
    bench.fresh()
    for site in bench.sites.values():
        shutil.rmtree(load_site(site).folder / "keys", ignore_errors=True)
    made = Federation(folder, bench.sites, gateway=gateway)
    made.pythons |= {"superlink": quicker, "superexec": quicker}
    return made


def goes_on(bench: Bench, federation: Federation, out: Path) -> None:
    """The same command once more does the rest."""
    finished = {path.name: path.stat().st_mtime_ns for path in (out / "ledger").glob("*.json")}
    assert finished
    code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)))
    assert code == 0, errors + federation.told()
    bench.assert_equal(out)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "ledger").glob("*.json")}
    assert finished == {name: after[name] for name in finished}, "a stage was done twice"


def test_a_hospitals_disk(bench: Bench, tmp_path: Path, quicker: Path) -> None:
    private = load_site(bench.sites["A"]).folder
    with enrolled(bench, tmp_path, quicker) as federation:
        kept = tmp_path / "kept"
        shutil.copytree(private, kept)
        with small_disk(private, megabytes=120) as disk:
            subprocess.run(["cp", "-a", f"{kept}/.", private], check=True)
            federation.start("superlink", "superexec", "A", "B")
            out = tmp_path / "out"
            run = federation.study(str(bench.study), "--out", str(out))
            until_said(out, "[1/", federation)
            disk.fill()
            code, answer, errors = ended(federation, run)
            assert code == 1
            assert "the site's disk is full; make room there" in errors, errors + federation.told()
            assert json.loads(answer)["error"]["message"] == errors.strip().splitlines()[-1]
            wait_for(lambda: f"The disk that holds {private} is full" in federation.said("A"), seconds=30)
            disk.empty()
            wait_for(lambda: "There is room on the disk again." in federation.said("A"), seconds=30)
            goes_on(bench, federation, out)
            federation.kill("A")


def test_the_coordinators_disk(bench: Bench, disk: SmallDisk, quicker: Path) -> None:
    """Everything of the coordinator's lies there: the SuperLink's database, the study's results, the logs."""
    with enrolled(bench, disk.folder, quicker) as federation:
        federation.start("superlink", "superexec", "A", "B")
        out = disk.folder / "out"
        run = federation.study(str(bench.study), "--out", str(out))
        until_said(out, "[1/", federation)
        disk.fill()
        code, _, errors = ended(federation, run)
        assert code == 1
        assert "make room" in errors.strip().splitlines()[-1] and "disk" in errors, errors + federation.told()
        disk.empty()
        wait_for(lambda: "There is room on the disk again." in federation.said("superlink"), seconds=40)
        goes_on(bench, federation, out)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed here")
def test_the_gateways_folder_for_temporary_files(bench: Bench, tmp_path: Path, disk: SmallDisk, quicker: Path) -> None:
    """Bodies never touch it, so a study goes through; without it nginx does not begin, which is told."""
    with enrolled(bench, tmp_path, quicker, gateway=True) as federation:
        federation.environment["gateway"] = {"TMPDIR": str(disk.folder)}
        disk.fill()
        federation.start("superlink", "superexec", "gateway", "A", "B")
        wait_for(lambda: "No space left on device" in federation.said("gateway"), seconds=60, told=federation.told)
        assert "Up:" not in federation.said("gateway")
        disk.empty()
        wait_for(lambda: "Up:" in federation.said("gateway"), seconds=60, told=federation.told)
        disk.fill()
        out = tmp_path / "out"
        code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)))
        assert code == 0, errors + federation.told()
        bench.assert_equal(out)
