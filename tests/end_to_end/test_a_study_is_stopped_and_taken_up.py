"""A study on real processes is followed by two terminals, stopped, gone on with, and keeps a site that has new keys."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from common.config.study import Study, study_toml
from tests.end_to_end.test_deployed import STUDY, Bench, bench, ended, federation, until_said
from tests.support.federation import Federation
from tests.support.hospitals import approve_everywhere

pytestmark = pytest.mark.slow

__all__ = ["bench", "federation"]

LONG = Study.model_validate({**STUDY.model_dump(), "training": STUDY.training.model_copy(update={"epochs": 150})})
"""A study that is still at work when somebody has typed a command."""


def test_two_terminals_follow_a_run_until_it_is_stopped_and_it_goes_on(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    approve_everywhere(bench.sites, LONG)
    study = tmp_path / "study.toml"
    study.write_text(study_toml(LONG), encoding="utf-8")
    federation.start("superlink", "superexec", "A", "B")
    out, folder = tmp_path / "out", str(federation.coordinator.folder)
    first = federation.study(str(study), "--out", str(out))
    until_said(out, "[1/", federation)
    second = federation.study(str(study), "--out", str(out))
    other = tmp_path / "other.toml"
    other.write_text(study_toml(Study.model_validate({**STUDY.model_dump(), "seed": 7})), encoding="utf-8")
    code, _, errors = ended(federation, federation.study(str(other), "--out", str(out)))
    assert code == 1 and "another study" in errors and "hash" in errors
    stopped = federation.relay("study", "stop", str(out), "--dir", folder)
    assert stopped.returncode == 0, stopped.stderr + federation.told()
    for terminal in (first, second):
        code, _, errors = ended(federation, terminal, seconds=60)
        assert code == 1 and "was stopped by relay study stop" in errors, errors
        assert "[1/" in errors and "died" not in errors
    again = federation.relay("study", "stop", str(out), "--dir", folder)
    assert again.returncode == 1 and "No study is under way" in again.stderr
    code, _, errors = ended(federation, federation.study(str(study), "--out", str(out)))
    assert code == 0, errors + federation.told()


@pytest.mark.nightly
def test_a_hospital_with_new_keys_is_taken_up_by_the_study_that_runs(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    federation.start("superlink", "superexec", "A", "B")
    out, folder = tmp_path / "out", str(federation.coordinator.folder)
    run = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "[1/", federation)
    federation.kill("A", signal.SIGTERM)
    assert federation.relay("enroll", "revoke", "A", "--dir", folder).returncode == 0
    site = str(bench.sites["A"])
    refused = federation.relay("enroll", "site", "A", str(bench.sites["A"].parent / "A.request"), "--dir", folder)
    assert "--new-keys" in refused.stderr
    for words in (
        ("site", "init", site, "--new-keys"),
        ("enroll", "site", "A", str(bench.sites["A"].parent / "A.request"), "--dir", folder),
        ("site", "join", site, str(federation.coordinator.kits / "A.kit")),
    ):
        done = federation.relay(*words)
        assert done.returncode == 0, done.stderr
    federation.start("A")
    try:
        code, _, errors = ended(federation, run, seconds=480)
        assert code == 0, errors + federation.told()
        bench.assert_equal(out)
    finally:
        for left in (bench.sites["A"].parent / "private").glob("keys-until-*"):
            shutil.rmtree(left)
