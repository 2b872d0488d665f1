"""Who follows a run tells what it says, and knows three ways in which it ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config.study import load_study, study_toml
from common.errors import RelayError, Unreachable
from common.fingerprint import format_fingerprint
from common.locks import exclusive
from deploy.coordinator import enroll, study_run
from deploy.coordinator.folder import Coordinator
from deploy.flower.control import Control
from deploy.site import keys
from tests.support.hospitals import small_study


class FakeControl:
    """A SuperLink's control interface; `runs` says what each submitted run writes into its log, and its status."""

    def __init__(self, out: Path, *runs: tuple[str, str]) -> None:
        self.out, self.runs = out, list(runs)
        self.submitted: list[str] = []
        self.bundles: list[list[str]] = []
        self.away = 0

    def ask(self, *words: str) -> dict[str, Any]:
        if self.away:
            self.away -= 1
            raise Unreachable("The SuperLink at x does not answer; start it on this machine: relay coordinator start.")
        if words[0] == "run":
            self.bundles.append(sorted(path.name for path in Path(words[1]).rglob("*")))
            self.submitted.append(words[3])
            run_id = str(100 + len(self.submitted))
            with (self.out / "study.log").open("a", encoding="utf-8") as log:
                log.write(self.runs[len(self.submitted) - 1][0].replace(" RUN ", f" {run_id} "))
            return {"run-id": run_id}
        if words[0] == "stop":
            self.runs[int(words[1]) - 101] = ("", "finished:stopped")
            return {"run-id": words[1]}
        assert words[:2] == ("list", "--run-id")
        return {"runs": [{"status": self.runs[int(words[2]) - 101][1]}]}


def line(text: str, level: str = "INFO", run: str = "RUN") -> str:
    """A line of the log; the run is the one that writes it, unless another is named."""
    return f"2026-01-01 00:00:00,000 {level} {run} {text}\n"


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeControl, list[str]]]:
    coordinator = Coordinator(tmp_path / "coordinator")
    enroll.set_up(coordinator, host="localhost", port=1, superlink="127.0.0.1:8000")
    for name in ("A", "B"):
        enroll.enroll(coordinator, name, keys.init(tmp_path / name / "site.toml", name=name)[2])
    study = tmp_path / "study.toml"
    study.write_text(study_toml(small_study(sites=("A", "B"), methods={"baseline": True})), encoding="utf-8")
    for name in ("LOOK_EVERY", "ASK_EVERY"):
        monkeypatch.setattr(study_run, name, 0.0)
    sleep = time.sleep
    monkeypatch.setattr(study_run.time, "sleep", lambda seconds: sleep(min(seconds, 0.5)) if seconds < 0.5 else None)

    def run(*runs: tuple[str, str], away: int = 0, prepare: Callable[[Path], None] = lambda _: None) -> Any:
        out = tmp_path / "out"
        out.mkdir()
        control = FakeControl(out, *runs)
        control.away = away
        monkeypatch.setattr(Coordinator, "control", lambda _: control)
        prepare(out)
        told: list[str] = []
        study_run.run(study, coordinator, out, patience=7200, notify=told.append)
        assert format_fingerprint(load_study(study).digest) in told[0], "hospitals compare the hash"
        return control, told[1:]

    return run


def test_a_folder_without_a_coordinator_is_named(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(study_toml(small_study(sites=("A", "B"), methods={"baseline": True})), encoding="utf-8")
    with pytest.raises(RelayError, match="No coordinator is set up in .*none"):
        study_run.run(study, Coordinator(tmp_path / "none"), tmp_path / "out", patience=1, notify=print)


def test_a_run_that_is_done_is_told_to_its_end(follow: Any) -> None:
    control, told = follow((line("[1/2] A: A, fold 1") + line("a warning", "WARNING") + line("Done."), "running"))
    assert told == ["Submitted as run 101.", "[1/2] A: A, fold 1", "a warning"]
    settings = dict(word.split("=", 1) for word in control.submitted[0].split())
    assert json.loads(settings["patience"]) == 7200
    assert json.loads(settings["study"]).endswith("/study.toml") and json.loads(settings["out"]).endswith("/out")


def test_the_bundle_that_is_submitted_holds_names_and_no_code(follow: Any) -> None:
    control, _ = follow((line("Done."), "running"))
    assert control.bundles == [["pyproject.toml"]]


def test_why_not_all_was_done_is_the_sentence(follow: Any) -> None:
    with pytest.raises(RelayError, match="^Site B of the study is not there; start it.$"):
        follow((line("Site B of the study is not there; start it.", "ERROR"), "finished:failed"))


def test_a_program_that_dies_is_submitted_again(follow: Any) -> None:
    control, told = follow((line("[1/2] A"), "finished:failed"), (line("[2/2] A") + line("Done."), "running"))
    assert len(control.submitted) == 2
    assert "submitted again" in told[2] and told[-1] == "[2/2] A"


def test_one_that_was_only_taken_for_dead_is_waited_for(follow: Any) -> None:
    held = line("Another study is writing to /results; wait for it, or give another folder with --out.", "ERROR")
    control, _ = follow(("", "finished:failed"), (held, "finished:failed"), (line("Done."), "running"))
    assert len(control.submitted) == 3


def test_another_study_in_the_folder_is_an_error_all_the_same(follow: Any) -> None:
    with pytest.raises(RelayError, match="Another study is writing"):
        follow((line("Another study is writing to /results; wait for it.", "ERROR"), "finished:failed"))


def test_one_that_dies_each_time_is_given_up(follow: Any) -> None:
    with pytest.raises(RelayError, match="died 5 times without finishing a stage"):
        follow(*[("", "finished:failed")] * 9)


def test_a_superlink_that_is_started_again_is_waited_for(follow: Any) -> None:
    _, told = follow((line("Done."), "running"), away=4)
    assert (
        told[0]
        == "The SuperLink at x does not answer; start it on this machine: relay coordinator start. Waiting for it."
    )
    assert told[1:] == ["Submitted as run 101."]


def test_a_run_under_way_is_followed_and_not_submitted_twice(follow: Any) -> None:
    def prepare(out: Path) -> None:
        (out / "run-id").write_text("101")
        log = line("Done.", run="7") + line("x", run="101") + line("Done.", run="101")
        (out / "study.log").write_text(log)

    control, told = follow(("", "running"), prepare=prepare)
    assert control.submitted == []
    assert told == ["Run 101 of this study is under way; following it.", "x"]


def test_a_superlink_that_is_down_is_told_before_a_run_under_way_is_asked_for(follow: Any) -> None:
    def prepare(out: Path) -> None:
        (out / "run-id").write_text("101")
        (out / "study.log").write_text(line("Done.", run="101"))

    _, told = follow(("", "running"), prepare=prepare, away=2)
    assert told[0].startswith("The SuperLink at x does not answer;") and told[0].endswith("Waiting for it.")


def test_a_line_that_is_not_yet_whole_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "study.log"
    log.write_text(line("other", run="2") + line("one", run="1")[:-8])
    lines = study_run._lines(log, "1")
    assert next(lines) == (None, "")
    with log.open("a") as file:
        file.write(line("one", run="1")[-8:] + "a traceback's line\n")
    assert next(lines) == ("INFO", "one")
    assert next(lines) == (None, "")


def test_another_studys_folder_is_refused_by_its_hash_and_nothing_of_it_is_followed(
    follow: Any, tmp_path: Path
) -> None:
    other = small_study(sites=("A", "B"), name="another", methods={"baseline": True})

    def prepare(out: Path) -> None:
        (out / "run-id").write_text("101")
        (out / "study.toml").write_text(study_toml(other), encoding="utf-8")

    with pytest.raises(RelayError, match=f'"another" with the hash {format_fingerprint(other.digest)}; give another'):
        follow(("", "running"), prepare=prepare)


def test_a_run_of_another_study_is_not_followed_before_it_has_written_its_study_file(follow: Any) -> None:
    other = "ab" * 32

    def prepare(out: Path) -> None:
        (out / "run-id").write_text(f"101 {other}")

    with pytest.raises(RelayError, match=f"Run 101 of another study, with the hash {format_fingerprint(other)}"):
        follow(("", "running"), prepare=prepare)


def test_a_second_terminals_refused_run_blinds_nobody(follow: Any) -> None:
    """Both write into one log; each line says whose it is."""
    log = line("[1/2] A") + line("Another study is writing to /out.", "ERROR", run="102") + line("[2/2] A")
    _, told = follow((log + line("Done."), "running"))
    assert told == ["Submitted as run 101.", "[1/2] A", "[2/2] A"]


def test_two_terminals_submit_one_run(follow: Any, tmp_path: Path) -> None:
    """The second finds the first's, also where both begin at the same moment."""
    out = tmp_path / "out"
    taken = []

    def prepare(_: Path) -> None:
        def other() -> None:
            with exclusive(out / study_run.TURN):
                taken.append(True)
                time.sleep(0.3)
                (out / "run-id").write_text("101")
                (out / "study.log").write_text(line("x", run="101") + line("Done.", run="101"))

        threading.Thread(target=other).start()
        while not taken:
            pass

    control, told = follow(("", "running"), prepare=prepare)
    assert control.submitted == [] and told[-1] == "x"


def test_a_stopped_run_ends_with_a_sentence_and_is_not_submitted_again(follow: Any, tmp_path: Path) -> None:
    with pytest.raises(RelayError, match="Run 101 was stopped by relay study stop; what is finished is kept"):
        follow((line("[1/2] A"), "finished:stopped"))


def test_stop_tells_the_superlink_and_names_a_folder_where_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = FakeControl(tmp_path, ("", "running"))
    monkeypatch.setattr(Coordinator, "control", lambda _: control)
    with pytest.raises(RelayError, match="No study is under way in"):
        study_run.stop(Coordinator(tmp_path), tmp_path, print)
    (tmp_path / "run-id").write_text("101")
    study_run.stop(Coordinator(tmp_path), tmp_path, print)
    assert control.runs == [("", "finished:stopped")]
    assert not (tmp_path / "run-id").exists()


@pytest.mark.parametrize(
    ("out", "told", "kind"),
    [
        ('{"success": true, "nodes": []}', "", None),
        ('{"success": false, "error-message": "All connection attempts failed"}', "", Unreachable),
        ('{"success": false, "error-message": "Run ID not found"}', "", RelayError),
        ("", "Traceback: ConnectError", Unreachable),
        ("", "", RelayError),
    ],
)
def test_what_flowers_command_answers_is_understood(out: str, told: str, kind: type[Exception] | None) -> None:
    control = Control("x:1", Path("ca.crt"))
    if kind is None:
        assert control._answer(out, told)["nodes"] == []
    else:
        with pytest.raises(RelayError) as error:
            control._answer(out, told)
        assert type(error.value) is kind
