"""Over real SuperLink and SuperNode processes, TLS and node authentication, a study gives what it gives embedded.

That it does where nothing goes wrong is in `test_every_message_is_declared.py`; here parts of it die.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from client.site_config import load_site
from common.config.study import Study, study_toml
from tests.support.federation import Federation, descendants, wait_for
from tests.support.hospitals import approve_everywhere, forget_stages, run_on_grid, small_study, write_hospitals

pytestmark = pytest.mark.slow

STUDY = small_study(
    sites=("A", "B"),
    split={"use_folds": 1},
    training={"epochs": 3},
    methods={"sequential": {"routes": (("B", "A"),)}},
)


class Bench:
    """Two hospitals, and what the study gives when all is on one machine."""

    def __init__(self, folder: Path, sites: Mapping[str, Path]) -> None:
        self.folder, self.sites = folder, dict(sites)
        self.study = folder / "study.toml"
        self.study.write_text(study_toml(STUDY), encoding="utf-8")

    @cached_property
    def embedded(self) -> dict[str, Any]:
        """Worked out anew, and not answered from what the hospitals keep of a deployed run."""
        forget_stages(self.sites)
        results, _ = run_on_grid(STUDY, self.sites, self.folder / "embedded")
        return dict(json.loads(json.dumps(results)))

    def fresh(self) -> None:
        """The hospitals keep their patients, and have never worked out a stage."""
        forget_stages(self.sites)
        approve_everywhere(self.sites, STUDY)

    def assert_equal(self, out: Path) -> None:
        """Row for row, number for number; the weights are named by their digests."""
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        assert results["parked"] == []
        assert results == self.embedded
        weights = {path.name for path in (self.folder / "embedded" / "weights").iterdir()}
        assert {path.name for path in (out / "weights").iterdir()} == weights


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    return Bench(folder, write_hospitals(folder / "hospitals", {"A": 6, "B": 6}, slices=7))


@pytest.fixture
def federation(bench: Bench, tmp_path: Path) -> Iterator[Federation]:
    bench.fresh()
    for site in bench.sites.values():
        shutil.rmtree(load_site(site).folder / "keys", ignore_errors=True)
    with Federation(tmp_path, bench.sites) as made:
        yield made


def ended(federation: Federation, run: Any, seconds: float = 420) -> tuple[int, str, str]:
    try:
        out, errors = run.communicate(timeout=seconds)
    except Exception:
        run.kill()
        raise AssertionError(federation.told()) from None
    return run.returncode, out, errors


def until_said(out: Path, text: str, federation: Federation) -> None:
    wait_for(lambda: text in (out / "study.log").read_text(encoding="utf-8"), seconds=240, told=federation.told)


@pytest.mark.nightly
def test_a_hospital_whose_orders_a_scheduler_answers_changes_nothing(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    script, path = tmp_path / "srun", bench.sites["A"]
    script.write_text(f'#!/bin/sh\necho job >> {tmp_path}/jobs\ncd / && exec env -i "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    before = path.read_text(encoding="utf-8")
    path.write_text(f'launch = "{script}"\n{before}', encoding="utf-8")
    try:
        federation.start("superlink", "superexec", "A", "B")
        out = tmp_path / "out"
        code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)))
    finally:
        path.write_text(before, encoding="utf-8")
    assert code == 0, errors + federation.told()
    bench.assert_equal(out)
    assert len((tmp_path / "jobs").read_text(encoding="utf-8").splitlines()) >= 3  # described, trained, scored


@pytest.mark.nightly
@pytest.mark.parametrize(
    "how", ["killed with all its processes", "told to end", "only its supernode killed", "only its superexec killed"]
)
def test_a_hospital_that_dies_in_a_stage_changes_nothing(
    bench: Bench, federation: Federation, tmp_path: Path, how: str
) -> None:
    federation.start("superlink", "superexec", "A", "B")
    out = tmp_path / "out"
    run = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "A: B → A", federation)
    # Once its app is at work on the stage.
    wait_for(lambda: at_work(federation.pid("A")), seconds=60, told=federation.told)
    time.sleep(1.0)
    if how.startswith("only its "):
        part = f"deploy.site.{how.split()[2]}".encode()
        (one,) = (pid for pid in descendants(federation.pid("A")) if part in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(one, signal.SIGKILL)
    else:
        federation.kill("A", signal.SIGKILL if "killed" in how else signal.SIGTERM)
        time.sleep(3.0)
        federation.start("A")
    code, _, errors = ended(federation, run)
    assert code == 0, errors + federation.told()
    bench.assert_equal(out)


def at_work(pid: int) -> list[int]:
    """Launchers that have a message: they, and not the one that waits, talk to their SuperNode."""
    found = []
    for child in descendants(pid):
        process = Path(f"/proc/{child}")
        with suppress(OSError):
            launcher = b"deploy.site.launcher" in (process / "cmdline").read_bytes()
            if launcher and any(os.readlink(file).startswith("socket:") for file in (process / "fd").iterdir()):
                found.append(child)
    return found


@pytest.mark.nightly
def test_a_coordinator_that_dies_and_comes_back_changes_nothing(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    """Both its programs, and so the study's own: Flower never starts that again, the study's follower does."""
    federation.start("superlink", "superexec", "A", "B")
    out = tmp_path / "out"
    run = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "[1/", federation)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "ledger").glob("*.json")}
    federation.kill("superexec")
    federation.kill("superlink")
    time.sleep(5.0)
    federation.start("superlink", "superexec")
    code, _, errors = ended(federation, run)
    assert code == 0, errors + federation.told()
    assert "submitted again" in errors
    bench.assert_equal(out)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "ledger").glob("*.json")}
    assert before == {name: after[name] for name in before}, "a stage was done twice"


@pytest.mark.nightly
def test_a_follower_that_dies_finds_its_run_again(bench: Bench, federation: Federation, tmp_path: Path) -> None:
    federation.start("superlink", "superexec", "A", "B")
    out = tmp_path / "out"
    first = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "[1/", federation)
    first.kill()
    first.communicate()
    code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)))
    assert code == 0, errors + federation.told()
    assert "under way" in errors
    bench.assert_equal(out)


def test_what_keeps_a_study_from_beginning_is_one_sentence(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    """Nothing need run for it to be told."""
    other = bench.folder / "other.toml"
    for study, sentence in (
        (
            Study.model_validate({**STUDY.model_dump(), "sites": ("A", "B", "D")}),
            "Not all sites of the study are enrolled (missing: D;",
        ),
        (small_study(sites=("A", "B"), methods={"pooled": True}), "set pooled = false"),
    ):
        other.write_text(study_toml(study), encoding="utf-8")
        code, out, errors = ended(federation, federation.study(str(other), "--out", str(tmp_path / "out")))
        assert code == 1
        assert json.loads(out)["error"]["message"] == errors.strip(), "a script reads the same sentence"
        assert sentence in errors and len(errors.splitlines()) == 1
