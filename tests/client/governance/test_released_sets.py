"""The record of the patients behind all that left: kept, obeyed, and no hindrance to what was said before."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from client.governance.released_sets import LOG, PatientSets, admit, admitted, released
from client.governance.simulation_mode import simulation_mode
from client.preprocessing.pipeline import prepare
from client.site_config import SiteConfig, load_site
from client.stages import describe
from client.stages.describe import describe_patients
from common.errors import RelayError
from common.protocol.refusals import Refusal, Refused
from tests.support.hospitals import small_study, write_hospitals, write_site

STUDY = "a" * 64


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    (tmp_path / "images").mkdir()
    return load_site(write_site(tmp_path, "A", patient_scores=False, minimum_patients=3))


def over(*sets: str, **persons: str) -> PatientSets:
    return PatientSets(tuple(map(frozenset, sets)), persons)


def lines(site: SiteConfig) -> int:
    path = site.private() / LOG
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def test_the_same_again_is_no_further_answer(site: SiteConfig) -> None:
    for _ in range(3):
        admit(site, over("abcdef", "abc"), study=STUDY)
    assert lines(site) == 1 and set(released(site).sets) == {frozenset("abcdef"), frozenset("abc")}
    admit(site, over("def"), study="b" * 64)  # follows from the others
    assert lines(site) == 2


@pytest.mark.parametrize("further", ["ab", "abcdefg", "bcd"])
@pytest.mark.parametrize("key", ["public", "site"])
def test_what_would_tell_of_two_is_refused_in_any_later_study(site: SiteConfig, further: str, key: str) -> None:
    site = site.model_copy(update={"split_key": key})
    admit(site, over("abcdef", "abc"), study=STUDY)
    with pytest.raises(Refused) as refusal:
        admit(site, over(further), study="b" * 64)
    assert refusal.value.refusal == Refusal.COMBINED
    assert not admitted(site, over(further), study="b" * 64) and lines(site) == 1
    assert admitted(site, over("ghi"), study="b" * 64)


def test_what_left_under_a_lower_minimum_counts_under_a_higher(site: SiteConfig) -> None:
    admit(site.model_copy(update={"minimum_patients": 1}), over("abcdef", "a"), study=STUDY)
    assert not admitted(site, over("xyz"), study=STUDY), "one patient can be told already: no further numbers"
    assert admitted(site, over("abcdef"), study=STUDY)


def test_visits_of_one_person_are_one_patient(site: SiteConfig) -> None:
    assert not admitted(site, over("abc", a="one person", b="one person"), study=STUDY)
    assert admitted(site, over("abcd", a="one person", b="one person"), study=STUDY)
    assert released(site).persons == {"a": "one person", "b": "one person"}


def test_a_simulation_leaves_no_trace(site: SiteConfig) -> None:
    with simulation_mode():
        admit(site, over("abc", "a"), study=STUDY)
    assert lines(site) == 0


def test_a_record_that_was_changed_is_refused(site: SiteConfig) -> None:
    for sets in ("abcdef", "abc"):
        admit(site, over(sets), study=STUDY)
    path = site.private() / LOG
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(RelayError, match="is damaged"):
        admit(site, over("xyz"), study=STUDY)


def test_a_damaged_record_does_not_stop_a_site_that_protects_nobody_by_it(
    site: SiteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    open_to_all = site.model_copy(update={"minimum_patients": 1})
    for sets in ("abcdef", "abc"):
        admit(open_to_all, over(sets), study=STUDY)
    path = site.private() / LOG
    path.write_bytes(b"no line\n" + path.read_bytes().splitlines(keepends=True)[1])
    with caplog.at_level("ERROR", "relay.site"):
        admit(open_to_all, over("xyz"), study=STUDY)
    assert "is damaged" in caplog.text and set(released(open_to_all).sets) == {frozenset("abc"), frozenset("xyz")}
    with pytest.raises(RelayError, match="is damaged"):
        admit(site, over("xyz"), study=STUDY)


def test_few_patients_left_out_are_not_told(tmp_path: Path) -> None:
    path = write_hospitals(tmp_path, {"A": 9}, slices=6)["A"]
    (path.parent / "images" / "Case08_segmentation.nii.gz").write_bytes(b"no volume")
    study = small_study(sites=("A",))
    open_site = load_site(path)
    assert prepare(open_site, study.preprocessing).left_out == 1
    told, _ = describe_patients(open_site, study)
    assert (told.patients_found, told.left_out) == (9, 1)
    strict, _ = describe_patients(open_site.model_copy(update={"minimum_patients": 2}), study)
    assert (strict.patients_found, strict.prepared, strict.left_out, strict.patients) == (8, 8, 0, 8)


@pytest.mark.parametrize(
    ("minimum", "done", "total", "told"),
    [
        (1, 3, 9, (9, 3)),
        (1, 8, 9, (9, 8)),
        (3, 5, 11, (9, 3)),
        (3, 10, 11, (9, 6)),
        (5, 3, 4, (4, 0)),
        (5, 6, 7, (5, 0)),
    ],
)
def test_the_progress_of_a_preparation_is_told_in_steps_of_the_minimum(
    site: SiteConfig, monkeypatch: pytest.MonkeyPatch, minimum: int, done: int, total: int, told: tuple[int, int]
) -> None:
    monkeypatch.setattr(describe, "prepare", lambda *_, **__: SimpleNamespace(done=done, total=total))
    site = site.model_copy(update={"minimum_patients": minimum})
    progress, behind = describe_patients(site, small_study(sites=("A",)))
    assert (progress.patients_found, progress.prepared) == told and not progress.complete and not behind.sets
