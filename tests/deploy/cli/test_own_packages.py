"""`relay` runs its own code beside other packages named `client`, `common`, `deploy` or `server`, in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.hospitals import REPO, write_hospitals

PACKAGES = ("client", "common", "deploy", "server")
STUDY = """\
name = "mine"
sites = ["A", "B"]
[model]
architecture = "Unet"
encoder = "mobilenet_v2"
encoder_weights = "none"
[preprocessing]
pixels = 32
[preprocessing.n4]
enabled = false
[split]
folds = 2
use_folds = 1
[training]
epochs = 1
[methods]
longer_baseline = false
federated = []
pooled = false
forgetting = false
[methods.sequential]
routes = "none"
"""
STARTS = """\
import importlib, multiprocessing, subprocess, sys
import prostate_relay

def origin(name):
    return importlib.import_module(name).__file__

if __name__ == "__main__":
    prostate_relay.use_own_packages()
    for way in ("spawn", "forkserver"):
        with multiprocessing.get_context(way).Pool(1) as pool:
            print(*pool.map(origin, prostate_relay.PACKAGES), flush=True)
    for name in prostate_relay.PACKAGES:
        subprocess.run([sys.executable, "-c", f"import {name}; print({name}.__file__)"], check=True)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The command as pip writes it."""
    entry = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]["relay"]
    module, _, function = entry.partition(":")
    script = tmp_path / "bin" / "relay"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\n"
        f"if __name__ == '__main__':\n    sys.exit({function}())\n",
        encoding="utf-8",
    )
    script.chmod(0o700)
    return script


class Elsewhere:
    """A folder of somebody else's packages, which note that they were imported."""

    def __init__(self, folder: Path, names: tuple[str, ...] = PACKAGES, *, content: str = "__init__.py") -> None:
        self.folder = folder
        for name in names:
            place = folder / name if content else folder
            place.mkdir(parents=True, exist_ok=True)
            (place / (content or f"{name}.py")).write_text(
                f"open({str(folder / 'imported')!r}, 'a').write({name!r})\n", encoding="utf-8"
            )

    @property
    def imported(self) -> str:
        note = self.folder / "imported"
        return note.read_text(encoding="utf-8") if note.exists() else ""


def started(command: list[str | Path], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.mark.parametrize("content", ["__init__.py", "notes.py", ""], ids=["package", "folder", "module"])
def test_other_packages_in_the_folder_or_on_the_path_are_not_imported(
    installed: Path, tmp_path: Path, content: str
) -> None:
    here, there = (Elsewhere(tmp_path / name, content=content) for name in ("here", "there"))
    for command in ([installed], [sys.executable, "-m", "prostate_relay"]):
        done = started([*command, "site", "init", "x.toml"], here.folder, PYTHONPATH=str(there.folder))
        assert done.returncode == 1 and "There is no site file x.toml" in done.stderr, done.stderr
    for name in PACKAGES[:2] + PACKAGES[3:]:  # this form names `deploy` itself
        beside = Elsewhere(tmp_path / name, (name,), content=content)
        done = started([sys.executable, "-m", "deploy.cli", "site", "init", "x.toml"], beside.folder)
        assert done.returncode == 1 and "There is no site file x.toml" in done.stderr, done.stderr
        assert not beside.imported
    assert not here.imported and not there.imported


def test_importing_relay_takes_other_packages_off_the_path_or_names_them(tmp_path: Path) -> None:
    here, there, installed = (Elsewhere(tmp_path / name) for name in ("here", "there", "installed"))
    own = str(REPO / "deploy" / "python")
    code = "import relay; print(relay.Study.load('demo').name)"
    path = os.pathsep.join([str(there.folder), own])
    done = started([sys.executable, "-c", code], here.folder, PYTHONPATH=path)
    assert done.stdout == "demo\n", done.stderr
    code = (
        f"import sys; sys.path.insert(1, {str(installed.folder)!r})\n"
        "try: import relay\nexcept ImportError as error: print(error)"
    )
    done = started([sys.executable, "-c", code], tmp_path, PYTHONPATH=own)
    assert str(installed.folder) in done.stdout and "stands in the place of its own package" in done.stdout, done.stderr
    assert not here.imported and not there.imported and not installed.imported


@pytest.mark.slow
def test_every_process_of_a_study_runs_its_own_code(installed: Path, tmp_path: Path) -> None:
    here, there = Elsewhere(tmp_path / "here"), Elsewhere(tmp_path / "there")
    sites = write_hospitals(tmp_path / "hospitals", {"A": 4, "B": 4}, slices=5)
    (here.folder / "mine.toml").write_text(STUDY, encoding="utf-8")
    given = [word for name, path in sites.items() for word in ("--site", f"{name}={path}")]
    # A folder that holds none of the names stays on the path.
    path = os.pathsep.join([str(there.folder), str(tmp_path / "bin")])
    done = started([installed, "simulate", "mine.toml", *given, "--json"], here.folder, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert {row["target"] for row in json.loads(done.stdout)["rows"]} == {"A", "B"}
    assert not here.imported and not there.imported


def test_processes_that_are_started_in_whatever_way_see_no_other_packages(tmp_path: Path) -> None:
    here, there = Elsewhere(tmp_path / "here"), Elsewhere(tmp_path / "there")
    script = tmp_path / "script.py"
    script.write_text(STARTS, encoding="utf-8")
    path = os.pathsep.join(["", str(there.folder), str(REPO)])
    done = started([sys.executable, script], here.folder, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {str(REPO / name / "__init__.py") for name in PACKAGES}
    assert not here.imported and not there.imported


@pytest.mark.parametrize(
    "how", ["import sys; sys.path.insert(1, {0!r})", "import sys; sys.path.insert(1, {0!r}); import common"]
)
def test_what_cannot_be_left_out_is_named(tmp_path: Path, how: str) -> None:
    """Such as a package that somebody else installed into the same environment."""
    there = Elsewhere(tmp_path / "there")
    code = how.format(str(there.folder)) + "; import prostate_relay; prostate_relay.main()"
    done = started([sys.executable, "-c", code], tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert str(there.folder / "c") in sentence and "stands in the place of its own package" in sentence
