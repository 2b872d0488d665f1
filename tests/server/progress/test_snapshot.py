"""What snapshot.json says while a study runs, and after."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import RelayError
from server.progress import snapshot
from server.progress.events import Event
from server.progress.snapshot import Recorder, read, recording
from tests.support.hospitals import small_study

STUDY = small_study()


class Clock:
    """Seconds that pass when told to: every event is written."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path, STUDY, clock=Clock())


def trains(site: str, epoch: int, **more: float) -> Event:
    return Event("running", site, "B → C", stage="fine-tune", fold=1, epoch=epoch, epochs=8, stages=20, **more)  # type: ignore[arg-type]


def test_before_anything_happens_all_sites_wait(recorder: Recorder, tmp_path: Path) -> None:
    found = read(tmp_path)
    assert (found.state, found.stages, found.parked) == ("running", 0, ())
    assert [(site.site, site.what) for site in found.sites] == [("A", "waiting"), ("B", "waiting"), ("C", "waiting")]


def test_who_does_what_since_when_and_how_far(recorder: Recorder, tmp_path: Path) -> None:
    recorder.observe(Event("preparing", "A", "patients prepared", epoch=3, epochs=30))
    recorder.observe(trains("C", 0, stages_done=4))
    since = read(tmp_path).sites[2].since
    recorder.observe(trains("C", 5, stages_done=4, dice=0.5, work_left=0.75, rate=0.001))
    found = read(tmp_path)
    assert (found.stages_done, found.stages, found.seconds_left) == (4, 20, 750.0)
    a, b, c = found.sites
    assert (a.what, a.done, a.of) == ("preparing patients", 3, 30)
    assert b.what == "waiting"
    assert (c.what, c.done, c.of, c.dice, c.since) == ("trains B → C, fold 2", 5, 8, 0.5, since)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(since)) < timedelta(minutes=1)


def test_a_finished_stage_is_counted_and_listed_latest_first(recorder: Recorder, tmp_path: Path) -> None:
    recorder.observe(trains("C", 5))
    recorder.observe(Event("done", "C", "B → C", stage="fine-tune", fold=1, dice=0.8125, stages_done=5, stages=20))
    recorder.observe(Event("done", "A", "B → C", stage="test", stages_done=6, stages=20))
    found = read(tmp_path)
    assert found.recent == ("A: test of B → C, fold 1", "C: B → C, fold 2, validation Dice 81.2 %")
    assert [(site.what, site.finished) for site in found.sites] == [("waiting", 1), ("waiting", 0), ("waiting", 1)]


def test_a_study_that_has_ended_is_left_as_it_is(recorder: Recorder, tmp_path: Path) -> None:
    recorder.close("The study cannot begin.")
    ended = read(tmp_path)
    recorder.observe(Event("preparing", "A", "patients prepared", epoch=3, epochs=30))
    assert read(tmp_path) == ended


def test_time_left_is_told_once_it_can_be_known(recorder: Recorder, tmp_path: Path) -> None:
    recorder.observe(trains("C", 1, work_left=0.99, rate=0.001))
    assert read(tmp_path).seconds_left is None


def test_a_site_that_is_away_says_so_and_nobody_says_how_long_it_takes(recorder: Recorder, tmp_path: Path) -> None:
    recorder.observe(trains("C", 5, work_left=0.5, rate=0.001))
    recorder.observe(Event("away", "C", ""))
    recorder.observe(trains("B", 5, work_left=0.5, rate=0.001))
    found = read(tmp_path)
    assert (found.sites[2].what, found.sites[2].of, found.seconds_left) == ("away", 0, None)
    recorder.observe(Event("back", "C", ""))
    assert read(tmp_path).sites[2].what == "there again"
    recorder.observe(trains("C", 6, work_left=0.5, rate=0.001))
    found = read(tmp_path)
    assert (found.sites[2].what, found.seconds_left) == ("trains B → C, fold 2", 500.0)


def test_what_is_left_out_is_listed(recorder: Recorder, tmp_path: Path) -> None:
    recorder.observe(Event("skipped", "C", "B → C", stage="fine-tune", fold=1))
    assert read(tmp_path).recent == ("C: B → C, fold 2 is left out, since the site is away",)


def test_what_is_parked_says_why_and_once(recorder: Recorder, tmp_path: Path) -> None:
    for _ in range(2):
        recorder.observe(Event("parked", "", "site C: it went away"))
    assert read(tmp_path).parked == ("site C: it went away",)


@pytest.mark.parametrize("kind", ["parked", "skipped"])
def test_a_site_whose_stage_was_given_up_is_not_said_to_train(recorder: Recorder, tmp_path: Path, kind: str) -> None:
    recorder.observe(trains("C", 5))
    recorder.observe(Event(kind, "C", "site C: it went away"))
    assert [(site.what, site.finished) for site in read(tmp_path).sites] == [("waiting", 0)] * 3


def test_the_end_is_told_and_how(tmp_path: Path) -> None:
    seen: list[Event] = []
    with recording(tmp_path, STUDY, seen.append) as observe:
        observe(trains("C", 5))
    assert read(tmp_path).state == "done" and read(tmp_path).sites[2].what == "waiting"
    assert len(seen) == 1
    with pytest.raises(RelayError), recording(tmp_path, STUDY, seen.append):
        raise RelayError("Site C went away.")
    found = read(tmp_path)
    assert (found.state, found.text) == ("stopped", "Site C went away.")


def test_a_study_that_says_nothing_any_more_is_not_believed_to_run(recorder: Recorder, tmp_path: Path) -> None:
    found = read(tmp_path)
    then = datetime.fromisoformat(found.at)
    assert not found.silent(then + timedelta(seconds=snapshot.BEAT))
    assert found.silent(then + timedelta(seconds=2 * snapshot.SILENCE))
    recorder.close()
    assert not read(tmp_path).silent(then + timedelta(days=1))


def test_it_beats_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(snapshot, "BEAT", 0.05)
    recorder = Recorder(tmp_path, STUDY)
    path = tmp_path / snapshot.NAME
    before = path.stat().st_ino
    until = time.monotonic() + 10
    while path.stat().st_ino == before and time.monotonic() < until:
        time.sleep(0.02)
    assert path.stat().st_ino != before, "each write is a new file in the old one's place"
    recorder.close()


@pytest.mark.parametrize("content", [None, b"", b"{", json.dumps({"study": "x"}).encode()])
def test_a_folder_without_a_sound_file_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / snapshot.NAME).write_bytes(content)
    with pytest.raises(RelayError, match="progress"):
        read(tmp_path)


def test_what_earlier_runs_finished_is_counted_after_a_resume(tmp_path: Path) -> None:
    with recording(tmp_path, STUDY, lambda _: None, finished={"A": 7}) as observe:
        observe(Event("done", "A", "A", stages=20, stages_done=8))
        assert [site.finished for site in read(tmp_path).sites][1:] == [0, 0]
    assert [site.finished for site in read(tmp_path).sites] == [8, 0, 0]
