"""An event is put into words in one place, and every kind of event has its words there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.progress.events import Event
from server.progress.wording import WAITING, activity, count_of, known_of, line_of, result_of, stages_of

TRAINING = Event("running", "C", "B → C", stage="fine-tune", fold=1, epoch=5, epochs=8, dice=0.8125, stages=20)
SCORING = Event("running", "A", "B → C", stage="test", fold=1, stages=20)


@pytest.mark.parametrize(
    ("event", "does", "line"),
    [
        (Event("examining", "", "", epoch=1, epochs=3), None, "examining what is there, 33 %"),
        (Event("preparing", "A", "", epoch=3, epochs=30), "preparing patients", "A: 3 of 30 patients prepared"),
        (Event("preparing", "A", "", epoch=30, epochs=30), "patients prepared", "A: 30 of 30 patients prepared"),
        (
            TRAINING,
            "trains B → C, fold 2",
            "[0/20] C: B → C, fold 2, epoch 5 of 8, validation Dice 81.2 %",
        ),
        (SCORING, "scores B → C, fold 2", "[0/20] A: test of B → C, fold 2"),
        (
            Event("running", "A", "FedAvg, round 3, batch norm re-estimated", stage="re-estimate", stages=20),
            "computes FedAvg, round 3, batch norm re-estimated, fold 1",
            "[0/20] A: FedAvg, round 3, batch norm re-estimated, fold 1",
        ),
        (replace(TRAINING, kind="done", epoch=0), WAITING, "[0/20] C: B → C, fold 2, validation Dice 81.2 %, done"),
        (replace(SCORING, kind="known"), None, "[0/20] A: test of B → C, fold 2 is in the ledger already"),
        (
            replace(TRAINING, kind="skipped"),
            WAITING,
            "[0/20] C: B → C, fold 2 is left out, since the site is away",
        ),
        (Event("away", "C", ""), "away", "C: away; it is waited for"),
        (Event("back", "C", ""), "there again", "C: there again"),
        (Event("parked", "C", "site C: its disk is full"), WAITING, "parked: site C: its disk is full"),
        (Event("delivered", "C", "B → C"), "has its model", "C: delivered: B → C"),
    ],
)
def test_every_kind_of_event_has_its_words(event: Event, does: str | None, line: str) -> None:
    assert activity(event) == does
    assert line_of(event) == line


def test_what_is_counted_is_named_where_the_words_do_not_say_it() -> None:
    assert count_of("trains B → C, fold 2", 5, 8) == "epoch 5 of 8"
    assert count_of("trains B → C, fold 2", 5, 8, between="/") == "epoch 5/8"
    assert count_of("preparing patients", 3, 30) == "3 of 30"
    assert count_of("scores B → C, fold 2", 0, 0) == ""
    assert (known_of(1), known_of(2)) == (
        "1 stage is in the ledger already",
        "2 stages are in the ledger already",
    )
    assert stages_of(4, 20, 0, 1) == ["4 of 20 stages"]
    assert stages_of(0, 0, 2, 28) == ["study 3 of 28"]


def test_the_only_fold_is_not_named_in_what_a_site_does() -> None:
    assert activity(TRAINING, name_fold=False) == "trains B → C"
    assert result_of(replace(SCORING, kind="done")) == "A: test of B → C, fold 2"


def test_the_time_left_is_known_once_enough_is_done() -> None:
    assert replace(TRAINING, work_left=0.75, rate=0.001).seconds_left == 750.0
    assert replace(TRAINING, work_left=0.99, rate=0.001).seconds_left is None
    assert TRAINING.seconds_left is None and not TRAINING.tells_time_left
