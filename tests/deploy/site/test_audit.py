"""`relay site audit` and `relay site forget`: what left is listed line by line, and what is kept can be taken away."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.governance.site_lock import shared_lock
from client.site_config import SiteConfig, load_site
from common.config.study import Study, study_toml
from common.errors import RelayError
from common.fingerprint import format_fingerprint
from deploy.simulation.local_grid import LocalGrid
from deploy.site.approve import leave_study
from deploy.site.audit import audit
from deploy.site.forget import forget
from server.study_run import run_study
from tests.support.hospitals import approve_everywhere, small_study, write_hospitals

pytestmark = pytest.mark.slow

ONE = small_study(name="one", sites=("A",), split={"use_folds": 1}, training={"epochs": 1}, methods={"baseline": True})
OTHER = small_study(**(ONE.model_dump() | {"name": "other", "training": {"epochs": 1, "learning_rate": 1e-3}}))
ELSE = small_study(**(ONE.model_dump() | {"name": "else", "seed": 7, "preprocessing": {"minimum_mask_pixels": 150}}))


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital after three studies: two of the same preparation, and one of another."""
    folder = tmp_path_factory.mktemp("hospitals")
    sites = write_hospitals(folder, {"A": 4}, slices=5)
    with LocalGrid(sites, at_once=1) as grid:
        for study in (ONE, OTHER, ELSE):
            approve_everywhere(sites, study)
            run_study(grid, study, folder / study.name, beside=folder, observe=lambda _: None)
    return folder


@pytest.fixture
def path(hospitals: Path, tmp_path: Path) -> Path:
    """Site file of hospital A, copied."""
    shutil.copytree(hospitals / "A", tmp_path / "A")
    return tmp_path / "A" / "site.toml"


@pytest.fixture
def site(path: Path) -> SiteConfig:
    return load_site(path)


def log_of(site: SiteConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site.folder / "egress.jsonl").read_bytes().splitlines()]


def audited(path: Path, capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    capsys.readouterr()
    assert audit(path, **({"verify": False, "study": "", "noted": "", "as_json": False} | how)) == 0
    return capsys.readouterr().out


def test_all_that_left_is_listed(path: Path, site: SiteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    lines = log_of(site)
    text = audited(path, capsys, verify=True)
    rows = [row for row in text.splitlines() if row.lstrip()[:1].isdigit() and " UTC " in row]
    assert len(rows) == len(lines) > 6
    for row, line in zip(rows, lines, strict=True):
        assert line["study"][:8] in row and line["digest"][:8] in row and line["time"][:10] in row
    with_weights = [line for line in lines if line["weights"]]
    assert len(with_weights) == 3, "one training a study"
    assert f"{len(lines)} messages, 3 of them with weights" in text
    assert sum("a training's numbers and weights" in row for row in rows) == 3
    assert f"{len(lines)} lines of egress.jsonl, 3 lines of approvals.jsonl and 3 lines of looks.jsonl are as" in text
    told = json.loads(audited(path, capsys, as_json=True, verify=True))
    added = {"line", "what", "name"}
    assert [{key: line[key] for key in line.keys() - added} for line in told["lines"]] == lines
    assert all(line["what"] in row and line["name"] in row for line, row in zip(told["lines"], rows, strict=True))
    assert told["faults"] == []


def test_what_left_for_one_study_is_listed_alone(
    path: Path, site: SiteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.toml").write_text(study_toml(ONE), encoding="utf-8")
    of_one = [line for line in log_of(site) if line["study"] == ONE.digest]
    for named in (str(tmp_path / "one.toml"), format_fingerprint(ONE.digest)):
        told = json.loads(audited(path, capsys, as_json=True, study=named))
        assert [line["digest"] for line in told["lines"]] == [line["digest"] for line in of_one]
    assert "Nothing has left." in audited(path, capsys, study="0" * 64)


@pytest.mark.parametrize("log", ["egress.jsonl", "approvals.jsonl", "looks.jsonl"])
@pytest.mark.parametrize("how", ["changed", "taken out", "cut off"])
def test_a_log_that_was_touched_is_told(
    path: Path, site: SiteConfig, capsys: pytest.CaptureFixture[str], log: str, how: str
) -> None:
    file = site.folder / log
    lines = file.read_bytes().splitlines(keepends=True)
    if how == "changed":
        lines[1] = lines[1].replace(b'"time":"2', b'"time":"1')
    else:
        del lines[-1 if how == "cut off" else 1]
    file.write_bytes(b"".join(lines))
    audited(path, capsys)
    with pytest.raises(RelayError, match=f"{log} is not as it was written"):
        audited(path, capsys, verify=True)


def test_the_exit_code_says_whether_the_log_is_whole(path: Path, site: SiteConfig) -> None:
    assert relay("audit", path, "--verify").returncode == 0
    (site.folder / "egress.jsonl").write_bytes(b"")
    done = relay("audit", path, "--verify", "--json")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert [fault.partition(":")[0] for fault in json.loads(done.stdout)["faults"]] == ["egress.jsonl"]


def test_who_rewrites_the_log_and_its_note_is_found_by_what_was_noted_elsewhere(
    path: Path, site: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    text = audited(path, capsys)
    end = text.partition("The log's end: line ")[2].partition(", ")[2][:24]
    assert "is line" in audited(path, capsys, noted=end)
    for name in ("egress.jsonl", "egress.end"):
        (site.folder / name).unlink()
    audited(path, capsys, verify=True)
    with pytest.raises(RelayError, match="that was noted"):
        audited(path, capsys, noted=end)
    with pytest.raises(RelayError, match="wants the digits"):
        audited(path, capsys, noted="12")


def relay(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "site", *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


# -- forgetting ------------------------------------------------------------------------------------


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def images(site: SiteConfig) -> Iterator[None]:
    """No command touches them."""
    before = {file: file.read_bytes() for file in site.images.iterdir()}
    yield
    assert {file: file.read_bytes() for file in site.images.iterdir()} == before


@pytest.mark.usefixtures("images")
def test_what_could_be_made_again_goes_and_the_rest_stays(
    path: Path, site: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(site.folder)
    assert any(name.startswith("cache/") for name in before) and any(name.startswith("stages/") for name in before)
    size = sum((site.folder / name).stat().st_size for name in before)
    assert forget(path) == 0
    text = capsys.readouterr().out
    after = files(site.folder)
    gone = before - after
    assert {name.split("/")[0] for name in gone} >= {"cache", "stages", "page.html"}
    assert {name.split("/")[0] for name in after} >= {
        "approved", "answered", "egress.jsonl", "looks.jsonl", "site.key", "site.log",
    }  # fmt: skip
    counted = sum(map(int, re.findall(r": (\d+) files?,", text)))
    assert counted == len(gone)
    assert "cannot be called back" in text
    left = sum((site.folder / name).stat().st_size for name in after if not name.startswith("received/"))
    assert left < size / 100
    audited(path, capsys, verify=True)


@pytest.mark.usefixtures("images")
def test_what_is_kept_of_one_study_goes_alone(path: Path, site: SiteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    def stages(study: Study) -> set[str]:
        nodes = [file for file in (site.folder / "answered" / study.digest).iterdir() if len(file.name) == 64]
        keys = {file.read_text(encoding="ascii") for file in nodes}
        return {key for key in keys if (site.folder / "stages" / key).exists()}

    slices = len(list((site.folder / "cache" / "slices").iterdir()))
    assert slices == 8, "four patients in two preparations"
    leave_study(site, ELSE.digest)
    kept = stages(ONE)
    assert kept and stages(ELSE)
    assert forget(path, study=ELSE.digest) == 0
    text = capsys.readouterr().out
    assert 'of "else"' in text and "cannot be called back" in text
    assert stages(ONE) == kept and not stages(ELSE)
    assert len(list((site.folder / "cache" / "slices").iterdir())) == 4
    # What another study still uses stays.
    assert forget(path, study=ONE.digest) == 0
    assert not stages(ONE) and stages(OTHER)
    assert len(list((site.folder / "cache" / "slices").iterdir())) == 4
    with pytest.raises(RelayError, match="never approved"):
        forget(path, study="0" * 64)


@pytest.mark.usefixtures("images")
def test_everything_goes_only_if_the_sites_name_is_given(
    path: Path, site: SiteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(site.folder)
    for how in ({}, {"ask": lambda: "yes"}, {"ask": lambda: "B"}):
        with pytest.raises(RelayError):
            forget(path, everything=True, **how)
    assert files(site.folder) == before
    assert forget(path, everything=True, ask=lambda: "A\n") == 0
    assert not site.folder.exists() and not path.exists()
    assert "relay enroll revoke" in capsys.readouterr().out


def test_a_site_that_is_at_work_is_not_emptied(path: Path, site: SiteConfig) -> None:
    before = files(site.folder)
    with shared_lock(site), shared_lock(site), pytest.raises(RelayError, match="is at work"):
        forget(path)
    assert before <= files(site.folder)
    assert forget(path) == 0


@pytest.mark.usefixtures("images")
def test_links_are_removed_and_never_followed(path: Path, site: SiteConfig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("here")
    os.symlink(outside, site.folder / "cache" / "link")
    os.symlink(site.images, site.folder / "cache" / "images")
    shutil.rmtree(site.folder / "stages")
    os.symlink(outside, site.folder / "stages")
    assert forget(path) == 0
    assert (outside / "precious").read_text() == "here"
    assert not os.path.lexists(site.folder / "stages") and not os.path.lexists(site.folder / "cache")


@pytest.mark.parametrize("everything", [False, True])
def test_images_that_lie_in_the_folder_itself_are_left(path: Path, site: SiteConfig, everything: bool) -> None:
    """By whatever name the site's file reaches them."""
    inside = site.folder / "cache" / "images"
    shutil.move(site.images, inside)
    os.symlink(inside, site.images)
    before = files(inside)
    with pytest.raises(RelayError):
        forget(path, everything=everything, yes=True)
    assert files(inside) == before and before


def test_a_site_that_keeps_nothing_says_so(path: Path, site: SiteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(site.folder)
    assert forget(path) == 0
    assert "keeps nothing" in capsys.readouterr().out
