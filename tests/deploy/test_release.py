"""What is released: the same bytes for everybody, of committed files alone, and a package that runs from anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from deploy import release
from tests.deploy.cli.test_own_packages import STUDY
from tests.support.hospitals import REPO, write_hospitals

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (REPO / ".git").exists() or shutil.which("git") is None, reason="this is no git checkout, or git is absent"
    ),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return release.build(tmp_path_factory.mktemp("dist"))


def committed() -> set[str]:
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={REPO}", "ls-tree", "-r", "--name-only", "HEAD"],
        cwd=REPO,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return set(listed.stdout.splitlines())


def names_in(path: Path) -> set[str]:
    if path.suffix == ".whl":
        return set(zipfile.ZipFile(path).namelist())
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def test_the_same_commit_gives_the_same_bytes(built: list[Path], tmp_path: Path) -> None:
    # By a process of another umask, another locale and another folder for temporary files.
    (tmp_path / "temporary").mkdir()
    subprocess.run(
        [sys.executable, "-m", "deploy.release", str(tmp_path / "dist")],
        cwd=REPO,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary"), "LC_ALL": "C", "SOURCE_DATE_EPOCH": "1"},
        umask=0o077,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    for path in built:
        assert (tmp_path / "dist" / path.name).read_bytes() == path.read_bytes(), path.name


def test_only_what_is_committed_is_released(built: list[Path]) -> None:
    sdist, wheel = built
    known = committed()
    for name in names_in(wheel):
        folder = name.partition("/")[0]
        assert folder.endswith(".dist-info") or name in known or f"deploy/python/{name}" in known, name
    made = {"PKG-INFO", "setup.cfg"}
    for name in names_in(sdist):
        assert name in known or name in made or ".egg-info/" in name, name
    assert not any(name.startswith("tests/") for name in names_in(sdist) | names_in(wheel))
    for name in known:
        top, _, rest = name.partition("/")
        if top in ("client", "common", "deploy", "server") and name.endswith((".py", ".j2", ".css", ".template")):
            assert (rest.removeprefix("python/") if rest.startswith("python/") else name) in names_in(wheel), name


def test_the_sdist_gives_the_wheel(built: list[Path], tmp_path: Path) -> None:
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-c", release.BUILD, "wheel", str(tmp_path)],
        cwd=source,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    (again,) = tmp_path.glob("*.whl")
    one, other = zipfile.ZipFile(wheel), zipfile.ZipFile(again)
    assert {name: one.read(name) for name in one.namelist()} == {name: other.read(name) for name in other.namelist()}


@pytest.fixture(scope="module")
def bare(built: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel; what relay depends on is this one's."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "venv", symlinks=True)
    programs = folder / "venv" / "bin"
    install = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-index", "--no-deps"]
    subprocess.run([str(word) for word in (*install, built[1])], capture_output=True, check=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    # Files named .pth in these folders are not read, so that the checkout stays out.
    others = [entry for entry in sys.path if entry.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others) + "\n", encoding="utf-8")
    return programs


def started(bare: Path, *words: str | Path, cwd: Path, timeout: float = 300) -> str:
    """Run a program of the environment with nothing of the tests' own environment, and return what it printed."""
    done = subprocess.run(
        [str(bare / str(words[0])), *map(str, words[1:])],
        cwd=cwd,
        env={"PATH": f"{bare}:/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_runs_a_study_from_an_empty_folder(bare: Path, tmp_path: Path) -> None:
    where = started(bare, "python", "-c", "import relay, server; print(relay.__file__, server.__file__)", cwd=tmp_path)
    assert all(Path(path).is_relative_to(bare.parent) for path in where.split())
    assert "relay demo" in started(bare, "relay", "--help", cwd=tmp_path)
    hospitals = write_hospitals(tmp_path / "hospitals", {"A": 4, "B": 4}, slices=5)
    (tmp_path / "mine.toml").write_text(STUDY, encoding="utf-8")
    sites = [word for name, path in hospitals.items() for word in ("--site", f"{name}={path}")]
    assert "Target alone" in started(bare, "relay", "simulate", "mine.toml", *sites, "--out", "out", cwd=tmp_path)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<style>" in page and "Target alone" in page
    rows = started(bare, "python", "-c", "import relay; print(len(relay.load('out').rows))", cwd=tmp_path)
    assert rows == "2\n"
    digits = started(bare, "relay", "study", "hash", "real-three", cwd=tmp_path)
    assert re.fullmatch(r"([0-9a-f]{4} ){4}[0-9a-f]{4}\n", digits)


def test_the_wheel_makes_a_coordinator_and_a_hospital(bare: Path, tmp_path: Path) -> None:
    started(bare, "relay", "enroll", "coordinator", "--host", "localhost", cwd=tmp_path)
    started(bare, "relay", "site", "init", "site.toml", "--name", "A", cwd=tmp_path)
    assert (tmp_path / "site.toml").is_file()


@pytest.mark.nightly
def test_the_wheel_runs_the_demo(bare: Path, tmp_path: Path) -> None:
    assert "Target alone" in started(bare, "relay", "demo", cwd=tmp_path, timeout=1800)
