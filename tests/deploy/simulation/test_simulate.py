"""`relay simulate` on a person's own hospitals: whole runs, started, stopped and disturbed from outside."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from client.governance.approval import approvals, approve, leave
from client.site_config import load_site
from common.config.study import load_study
from deploy.simulation import live
from deploy.simulation.simulate import simulate as in_this_process
from deploy.site.audit import audit
from deploy.site.forget import forget
from tests.support.hospitals import patient, write_hospitals, write_pair, write_site

pytestmark = pytest.mark.slow

STUDY = """\
name = "mine"
sites = ["A", "B"]
[model]
architecture = "Unet"
encoder = "mobilenet_v2"
encoder_weights = "none"
[preprocessing]
pixels = 32
spacing_mm = 2.0
[preprocessing.n4]
enabled = false
[split]
folds = 2
use_folds = 1
[training]
epochs = 1
batch = 8
[methods]
longer_baseline = false
pooled = POOLED
pooled_then_target = false
forgetting = false
federated = []
[methods.sequential]
routes = [["B", "A"]]
"""
SIGKILLED = -signal.SIGKILL


def study_file(folder: Path, *, pooled: bool = False, **changes: str) -> Path:
    text = STUDY.replace("POOLED", str(pooled).lower())
    for key, value in changes.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def command(study: Path, sites: dict[str, Path], out: Path, *more: str) -> list[str]:
    given = [word for name, path in sites.items() for word in ("--site", f"{name}={path}")]
    return [sys.executable, "-m", "deploy.cli", "simulate", str(study), *given, "--out", str(out), *more]


def simulate(study: Path, sites: dict[str, Path], out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(study, sites, out, *more),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def started(study: Path, sites: dict[str, Path], out: Path) -> subprocess.Popen[str]:
    """A run in a session of its own, which Ctrl-C reaches even if whoever runs the tests has it switched off."""
    return subprocess.Popen(
        command(study, sites, out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )


def wait_until(true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"{what} has not come to pass"
        time.sleep(0.02)


def session(pid: int) -> list[int]:
    """The processes of a session, those that have ended and wait to be noticed left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = entry.read_text(encoding="utf-8").split(" (", 1)
        except OSError:
            continue
        state, _, _, leader = rest.rpartition(") ")[2].split()[:4]
        if int(leader) == pid and state not in "ZX":
            found.append(int(number))
    return found


def stages(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "ledger").glob("*.json")}


def turned(sites: dict[str, Path]) -> dict[str, Path]:
    return dict(sorted(sites.items(), reverse=True))


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Path]:
    return write_hospitals(tmp_path / "hospitals", {"A": 4, "B": 4}, slices=5)


def test_a_study_with_bad_patients_runs_without_them_and_names_them_at_their_site_alone(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    images = sites["B"].parent / "images"
    image, mask = patient(99, slices=5)
    write_pair(images, "Xylander-Zeros", np.zeros_like(image), mask)
    write_pair(images, "Xylander-Alone", image, mask)
    (images / "Xylander-Alone.nii.gz").unlink()
    study, out = study_file(tmp_path, pooled=True), tmp_path / "out"

    done = simulate(study, turned(sites), out)

    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "\x1b" not in done.stdout
    for told in ("A: 4 of 4 patients prepared", "B → A, fold 1", "Target alone", "All data", "→ A", "→ B"):
        assert told in done.stdout
    assert "2 hospitals (A, B): 1 + 1 test patients, 1 epoch a stage." in done.stdout
    assert done.stdout.splitlines()[-1] == str(out / "report.html")
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {site["name"]: site["left_out"] for site in results["sites"]} == {"A": 0, "B": 2}
    assert {site["name"]: site["patients"] for site in results["sites"]} == {"A": 4, "B": 4}
    assert {(row["method"], row["target"]) for row in results["rows"]} == {
        ("baseline", "A"), ("baseline", "B"), ("sequential", "A"), ("pooled", "A"), ("pooled", "B"),
    }  # fmt: skip
    log = (sites["B"].parent / "private" / "site.log").read_text(encoding="utf-8")
    assert "left out: Xylander-Zeros: " in log and "left out: Xylander-Alone: " in log
    assert "Xylander" not in done.stdout
    shared = [path for path in out.rglob("*") if path.is_file() and "pooled" not in path.parts]
    assert len(shared) > 10
    for path in shared:
        assert b"Xylander" not in path.read_bytes(), path

    before = stages(out)
    again = simulate(study, sites, out, "--json")
    assert again.returncode == 0 and again.stderr == ""
    assert again.stdout == (out / "results.json").read_text(encoding="utf-8")
    assert json.loads(again.stdout) == results
    assert stages(out) == before

    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = simulate(study_file(tmp_path, epochs="2"), sites, out)
    assert other.returncode == 1
    assert other.stderr.splitlines() == [f"{out} holds the results of another study; give another folder with --out."]
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == whole


def test_a_simulation_leaves_what_a_hospital_decided_as_it_was(
    sites: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study_path = study_file(tmp_path)
    study, hospitals = load_study(study_path), {name: load_site(path) for name, path in sites.items()}
    leave(hospitals["A"], approve(hospitals["A"], study, largest_elsewhere=1))
    decided = {name: approvals(site) for name, site in hospitals.items()}
    done = simulate(study_path, sites, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {name: approvals(site) for name, site in hospitals.items()} == decided == {"A": decided["A"], "B": []}
    assert not any((site.folder / "answered").exists() for site in hospitals.values())
    assert audit(sites["A"], verify=True, study=str(study_path), noted="", as_json=False) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if study.digest[:8] in row]
    assert rows and all("mine" in row and "(a simulation on this machine)" in row for row in rows)
    assert any((hospitals["A"].folder / "stages").iterdir())
    assert forget(sites["A"], study=str(study_path)) == 0
    assert not any((hospitals["A"].folder / "stages").iterdir())
    assert "Nothing of it has left this site." in capsys.readouterr().out


def test_a_site_whose_patients_are_all_bad_is_told_with_the_words_of_its_own_log(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    images = sites["B"].parent / "images"
    for number in range(4):
        image, mask = patient(number, slices=5)
        write_pair(images, f"Case{number:02}", np.zeros_like(image), mask)
    done = simulate(study_file(tmp_path), sites, tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert "site B: the site's data cannot be used" in line
    assert "all 4 are left out" in line and str(sites["B"].parent / "private" / "site.log") in line


def test_a_site_may_stop_at_a_bad_patient(sites: dict[str, Path], tmp_path: Path) -> None:
    write_site(sites["B"].parent, "B", bad_patients="stop")
    image, mask = patient(5, slices=5)
    images = sites["B"].parent / "images"
    write_pair(images, "Zeros", np.zeros_like(image), mask)
    study = study_file(tmp_path)
    (line,) = simulate(study, sites, tmp_path / "out").stderr.splitlines()
    assert "patient Zeros" in line and "same value (0) everywhere" in line
    (images / "Zeros_segmentation.nii.gz").unlink()
    done = simulate(study, sites, tmp_path / "out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Site B stops at a bad patient" in line and "patient Zeros" in line and "has no mask" in line


def test_every_epoch_of_a_long_leg_is_shown_when_it_ends_and_every_patient_when_it_is_prepared(
    sites: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "LOG_EVERY", 0.0)
    study = load_study(study_file(tmp_path, epochs="3"))
    assert study.training.leg_minutes == 10, "a stage is one leg"
    in_this_process(study, sites, tmp_path / "out", beside=tmp_path, at_once=1)
    lines = capsys.readouterr().out.splitlines()
    trained = [line for line in lines if "validation Dice" in line]
    for way in ("A: A", "B: B", "A: B → A"):
        for epoch in (1, 2, 3):
            assert any(f"{way}, fold 1, epoch {epoch} of 3, validation Dice " in line for line in trained), lines
    for site in sites:
        prepared = [int(done) for done in re.findall(rf"{site}: (\d) of 4 patients prepared", "\n".join(lines))]
        assert prepared == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted by /proc, which is Linux's")
@pytest.mark.parametrize("way", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.nightly)])
def test_a_run_that_is_stopped_leaves_no_worker_and_the_next_goes_on(
    way: signal.Signals, sites: dict[str, Path], tmp_path: Path
) -> None:
    study, out = study_file(tmp_path, epochs="3", leg_minutes="0.0"), tmp_path / "out"
    run = started(study, sites, out)
    wait_until(lambda: len(stages(out)) >= 2 or run.poll() is not None, "a finished stage")
    assert run.poll() is None, run.communicate()
    kept = stages(out)
    if way is signal.SIGINT:
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to every process
    else:
        run.kill()
    _, stderr = run.communicate(timeout=60)
    if way is signal.SIGINT:
        assert run.returncode == 130
        assert stderr.splitlines() == [
            "Stopped; every stage that was finished is kept, and the same command goes on from there."
        ]
    else:
        assert run.returncode == SIGKILLED
    wait_until(lambda: not session(run.pid), "the end of all workers", 10.0)
    assert not (out / "results.json").exists()

    done = simulate(study, sites, out)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[1-9]\d* stages? (is|are) in the ledger already", done.stdout)
    assert kept.items() <= stages(out).items()


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[None]:
    """A real disk that is soon full; a test without the right to mount one is skipped."""
    place.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_room(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2g", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="a small disk is mounted as Linux does")
@pytest.mark.parametrize("whose", ["the coordinator's", "a site's"])
def test_a_disk_that_fills_up_loses_nothing(whose: str, sites: dict[str, Path], tmp_path: Path) -> None:
    study, out = study_file(tmp_path), tmp_path / "disk" / "out"
    if whose == "a site's":
        out = tmp_path / "out"
        place = sites["B"].parent / "private"
    else:
        place = tmp_path / "disk"
    # Weights are 27 MB: room for the first ones at the coordinator, for none at a site.
    with small_disk(place, 40_000 if whose == "the coordinator's" else 10_000):
        done = simulate(study, sites, out)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        (line,) = done.stderr.splitlines()
        assert "make room" in line and (whose == "a site's" or str(out) in line), line
        if whose == "a site's":
            again = shlex.join(["relay", *command(study, sites, out)[3:]])
            assert "(Routes: B → A; Target alone at B)" in line and f"run `{again}` to go on" in line
        kept = stages(out)
        make_room(place)
        done = simulate(study, sites, out)
        assert done.returncode == 0, done.stderr
        assert kept.items() <= stages(out).items()
