"""Progress: a live line a hospital that fits the terminal, and few plain lines where there is none."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from deploy.console import bar, terminal
from deploy.simulation.live import LOG_EVERY, SILENCE, Board, Lines
from server.progress.events import Event


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


TRAINING = Event(
    "running",
    "B",
    "A → C → B",
    stage="fine-tune",
    fold=1,
    epoch=3,
    epochs=12,
    dice=0.7123,
    stages_done=20,
    stages=80,
    work_left=0.75,
    rate=0.005,
)


def shown(board: Board, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=False).print(board)
    return file.getvalue().splitlines()


def test_a_line_a_hospital_says_what_it_does_and_the_last_line_what_is_to_come() -> None:
    clock = Clock()
    board = Board(["A", "B", "C", "pooled"], folds=5, clock=clock)
    clock.now += 65
    board.observe(Event("preparing", "A", "patients prepared", epoch=3, epochs=8))
    board.observe(TRAINING)
    board.observe(
        replace(TRAINING, site="C", text="fedavg, best round", stage="validation", epoch=0, epochs=0, dice=None)
    )
    a, b, c, pooled, last = shown(board, 100)
    assert a.startswith("A ") and "preparing patients" in a and "3/8" in a
    assert b.startswith("B ") and "trains A → C → B, fold 2" in b and "epoch 3/12" in b and "Dice 71.2 %" in b
    assert c.startswith("C ") and "scores fedavg, best round, fold 2" in c and "epoch" not in c
    assert pooled.startswith("all data") and "waiting" in pooled
    assert last.strip() == "20 of 80 stages · about 2 min 30 s left · 1 min 5 s so far"
    clock.now += 30
    assert "about 2 min left" in shown(board, 100)[-1]


def test_a_hospital_that_is_done_waits() -> None:
    board = Board(["B"])
    board.observe(TRAINING)
    board.observe(replace(TRAINING, kind="done", stages_done=21))
    line, last = shown(board, 80)
    assert "waiting" in line and "Dice" not in line
    assert "21 of 80 stages" in last


def test_one_fold_is_not_named() -> None:
    board = Board(["B"], folds=1)
    board.observe(TRAINING)
    assert "fold" not in shown(board, 80)[0]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal_or_broken_in_two(width: int) -> None:
    board = Board(["A", "Universitaetsklinik-Nord", "pooled"], folds=5)
    way = " → ".join(["Universitaetsklinik-Nord", "A"] * 3)
    board.observe(replace(TRAINING, site="Universitaetsklinik-Nord", text=way, epoch=150, epochs=200))
    lines = shown(board, width)
    assert len(lines) == 4
    assert max(map(len, lines)) <= width


def test_time_left_is_not_guessed_from_nothing() -> None:
    board = Board(["B"])
    board.observe(replace(TRAINING, work_left=0.995, rate=0.001))
    assert "left" not in shown(board, 80)[-1]


def test_which_of_several_studies_is_at_work_is_told() -> None:
    board = Board(["B"])
    board.observe(replace(TRAINING, variant=2, variants=28))
    assert shown(board, 100)[-1].strip().startswith("study 3 of 28 · 20 of 80 stages")
    (line,) = told([(0.5, replace(TRAINING, kind="done", stages_done=21, variant=2, variants=28))])
    assert "3 of 28: [21/80] B: A → C → B" in line


def told(events: list[tuple[float, Event]]) -> list[str]:
    clock, lines = Clock(), list[str]()
    log = Lines(lines.append, clock=clock)
    for pause, event in events:
        clock.now += pause
        log.observe(event)
    return lines


def test_plain_lines_name_each_training_once_when_it_is_done() -> None:
    events = [(0.5, replace(TRAINING, epoch=epoch)) for epoch in range(13)]
    assert told([*events, (0.5, replace(TRAINING, kind="done", stages_done=21))]) == [
        "  0:07 [21/80] B: A → C → B, fold 2, epoch 3 of 12, validation Dice 71.2 %, done"
    ]


def test_plain_lines_tell_of_a_long_training_now_and_then() -> None:
    lines = told([(LOG_EVERY / 4, replace(TRAINING, epoch=epoch)) for epoch in range(13)])
    assert len(lines) == 3
    assert lines[0] == "  0:20 [20/80] B: A → C → B, fold 2, epoch 3 of 12, validation Dice 71.2 %"


def test_scorings_are_told_where_nothing_else_is() -> None:
    """The end of a study is scorings alone: half a minute without a line looks as if it hung."""
    scoring = replace(TRAINING, kind="done", stage="test", epoch=0, epochs=0, dice=None)
    lines = told([(SILENCE / 4, replace(scoring, stages_done=21 + k)) for k in range(12)])
    assert [line.split()[1] for line in lines] == ["[24/80]", "[28/80]", "[32/80]"]
    assert lines[0] == "  0:05 [24/80] B: test of A → C → B, fold 2, done"
    fast = [(0.1, replace(TRAINING, kind="done")), (0.1, scoring), (0.1, scoring)]
    assert len(told(fast)) == 1


def test_plain_lines_count_what_is_in_the_ledger_already() -> None:
    events = [(0.0, replace(TRAINING, kind="known", stages_done=number)) for number in range(1, 41)]
    lines = told([*events, (1.0, replace(TRAINING, kind="done", stages_done=41))])
    assert len(lines) == 2
    assert "40 stages are in the ledger already" in lines[0]


def test_what_is_left_for_another_run_is_always_told() -> None:
    parked = Event("parked", "C", "site C: the site's disk is full; make room there")
    assert told([(0.0, parked)]) == ["  0:00 parked: site C: the site's disk is full; make room there"]


def test_who_reads_the_lines_may_go() -> None:
    def gone(line: str) -> None:
        raise BrokenPipeError

    Lines(gone).observe(replace(TRAINING, kind="done"))


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_leaves_no_trace_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")
    file: Any = io.StringIO()
    assert terminal(file) is None
    with bar("Reading", unit="patients", stream=file) as progress:
        progress(1, 2)
    assert file.getvalue() == ""


def test_a_quick_task_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    file = FakeTerminal()
    with bar("Reading", unit="patients", stream=file) as progress:
        progress(1, 2)
    assert "Reading" not in file.getvalue()


def test_a_slow_task_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("deploy.console.PATIENCE", 0.01)
    file = FakeTerminal()
    with bar("Reading", unit="patients", stream=file) as progress:
        progress(1, 2)
        for _ in range(200):
            if "1/2 patients" in file.getvalue():
                break
            time.sleep(0.02)
    assert "Reading" in file.getvalue() and "1/2 patients" in file.getvalue()
