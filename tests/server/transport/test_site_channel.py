"""Whatever happens on the way, a stage is answered once, and a slow site is waited for."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo

from common.errors import RelayError
from common.protocol.codec import to_record
from common.protocol.messages import FINE_TUNE, Description
from server.transport import discovery, retry, site_channel
from server.transport.discovery import find_sites
from server.transport.outcomes import Parked
from server.transport.site_channel import SiteChannel, Traffic
from tests.support.fake_sites import FakeGrid, go, quick, study_of

__all__ = ["quick"]

NODE_UNAVAILABLE, MESSAGE_UNAVAILABLE, CRASHED = 5, 3, 8


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeSuperLink(FakeGrid):
    """One site behind a server like Flower's SuperLink: messages wait, are answered in their order, and may be lost.

    `fate` says what becomes of the orders, one entry an order: "answer", "lose" (the site is restarted while it
    holds the order, and nobody is told), "swallow" (the same, and no restart shows), an error's code, or the
    seconds that the site works on it.
    """

    def __init__(self, clock: Clock, *fate: str | int | float) -> None:
        super().__init__(study_of(baseline=True))
        self.clock, self.fate = clock, list(fate)
        self.pushed: list[Message] = []
        self.away_until = 0.0
        self.starts = self.looks = 0
        self._answers: dict[str, tuple[float, Message]] = {}
        self._answered: set[str] = set()
        self._free_at = 0.0

    @property
    def orders_pushed(self) -> int:
        return len(self.pushed) - self.questions_pushed

    @property
    def questions_pushed(self) -> int:
        return sum(message.metadata.group_id == "question" for message in self.pushed)

    def get_nodes(self) -> Iterable[NodeInfo]:
        self.looks += 1
        if self.clock.now < self.away_until:
            return []
        return [NodeInfo(node_id=1, name="A", status="online", last_activated_at=str(self.starts))]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        assert self.clock.now >= self.away_until, "pushed while the site was away"
        (message,) = messages
        name = str(len(self.pushed))
        message.metadata.__dict__["_message_id"] = name
        self.pushed.append(message)
        fate: str | int | float = "answer"
        if message.metadata.group_id != "question" and self.fate:
            fate = self.fate.pop(0)
        self.starts += fate == "lose"
        if fate in ("lose", "swallow"):
            return [name]
        self._free_at = max(self.clock.now, self._free_at) + (fate if isinstance(fate, float) else 0.0)
        content: Any = (
            Error(fate, "/home/someone") if isinstance(fate, int) else to_record(FakeGrid.describe(self, "A"))
        )
        self._answers[name] = self._free_at, Message(content, reply_to=message)
        return [name]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (name,) = message_ids
        ready, reply = self._answers.get(name, (float("inf"), None))
        if reply is None or self.clock.now < ready:
            return []
        assert name not in self._answered, "an answer was asked for twice"
        self._answered.add(name)
        return [reply]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (retry, site_channel, discovery):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(sleep=made.sleep, monotonic=made.monotonic))
    return made


def describe(grid: FakeSuperLink, **keys: Any) -> Description:
    return SiteChannel(grid, "A", 1, Traffic(), **keys).describe(grid.study, lambda *_: None)


def test_an_order_that_is_answered_costs_one_message(clock: Clock) -> None:
    grid = FakeSuperLink(clock, "answer")
    assert describe(grid).site == "A"
    assert (grid.orders_pushed, grid.questions_pushed) == (1, 0)


class Announcing(FakeSuperLink):
    """A server that can say when an answer has come, as the embedded grid can."""

    def wait_for(self, message_id: str, seconds: float) -> list[tuple[int, int, float | None]]:
        ready, _ = self._answers.get(message_id, (float("inf"), None))
        self.clock.now = max(self.clock.now, min(ready, self.clock.now + seconds))
        return []


@pytest.mark.parametrize(("kind", "late"), [(FakeSuperLink, True), (Announcing, False)])
def test_the_end_of_work_is_seen_at_once_where_the_grid_can_tell_it(
    clock: Clock, kind: type[FakeSuperLink], late: bool
) -> None:
    began, seconds = clock.now, 31.7
    describe(kind(clock, seconds))
    assert (clock.now > began + seconds) == late
    assert clock.now <= began + 1.05 * seconds + 0.1, "never more than a twentieth too late"


def test_what_the_grid_knows_of_an_order_on_its_way_is_passed_on(clock: Clock) -> None:
    """That all patients are ready is told once, with the answer, which has 9 of them."""
    known = [[(0, 9, None)], [(4, 9, None)], [(8, 9, None), (9, 9, None)]]

    class Knowing(Announcing):
        def wait_for(self, message_id: str, seconds: float) -> list[tuple[int, int, float | None]]:
            super().wait_for(message_id, seconds)
            return known.pop(0)

    heard: list[tuple[int, int]] = []
    grid = Knowing(clock, 0.15)
    SiteChannel(grid, "A", 1, Traffic()).describe(grid.study, lambda *news: heard.append(news))
    assert heard == [(0, 9), (4, 9), (8, 9), (9, 9)]


def test_a_grid_that_announces_answers_is_asked_no_question(clock: Clock) -> None:
    """On it a question behind a leg of preparation was a second leg, of ten minutes, without a sign of life."""
    grid = Announcing(clock, 2 * 3600.0)
    describe(grid)
    assert (grid.orders_pushed, grid.questions_pushed) == (1, 0)


def test_nothing_is_pushed_to_a_site_that_is_away_until_it_is_back(clock: Clock) -> None:
    grid = FakeSuperLink(clock, "answer")
    grid.away_until = clock.now + 3 * 3600
    describe(grid, patience=24 * 3600)
    assert grid.orders_pushed == 1
    assert grid.looks < 3 * 3600 / 20, "it was asked for all too often"


def test_a_site_that_stays_away_is_given_up_in_plain_words(clock: Clock) -> None:
    grid = FakeSuperLink(clock)
    grid.away_until = clock.now + 1e9
    with pytest.raises(Parked, match="it was away for 2 h"):
        describe(grid, patience=7200)
    assert not grid.orders_pushed


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, 30, 300])
def test_a_site_that_works_for_hours_is_waited_for_and_asked_once(clock: Clock, hours: int) -> None:
    """However short the time for which it may be away. A question may be lost: ever fewer of them follow."""
    grid = FakeSuperLink(clock, hours * 3600.0)
    describe(grid, patience=1.0)
    assert grid.orders_pushed == 1
    assert grid.questions_pushed <= math.log2(hours * 3600 / site_channel.QUIET + 1)


def test_an_order_lost_in_a_restart_is_sent_again(clock: Clock) -> None:
    grid = FakeSuperLink(clock, "lose", "answer")
    began = clock.now
    describe(grid)
    assert (grid.orders_pushed, grid.questions_pushed) == (2, 1)
    assert clock.now - began < 60


def test_an_answer_that_could_not_be_sent_is_missed_without_a_restart(clock: Clock) -> None:
    grid = FakeSuperLink(clock, "swallow", "answer")
    describe(grid)
    assert (grid.orders_pushed, grid.questions_pushed) == (2, 1)


def test_an_order_may_be_lost_several_times_over(clock: Clock) -> None:
    grid = FakeSuperLink(clock, "lose", NODE_UNAVAILABLE, "swallow", MESSAGE_UNAVAILABLE, "lose", "answer")
    describe(grid)
    assert grid.orders_pushed == 6


def test_an_order_that_is_lost_each_time_is_given_up(clock: Clock) -> None:
    grid = FakeSuperLink(clock, *["lose"] * 100)
    with pytest.raises(Parked, match="lost on the way 10 times"):
        describe(grid)
    assert grid.orders_pushed == 10


def test_a_node_that_went_away_is_no_failure_of_the_stage(clock: Clock) -> None:
    """Three of those would park the stage; an outage may give any number."""
    grid = FakeSuperLink(clock, *[NODE_UNAVAILABLE] * 6, "answer")
    describe(grid)
    assert grid.orders_pushed == 7


def test_a_stage_that_fails_is_asked_for_three_times(clock: Clock) -> None:
    grid = FakeSuperLink(clock, *[CRASHED] * 9)
    with pytest.raises(Parked, match="error 8") as parked:
        describe(grid)
    assert grid.orders_pushed == 3
    assert "/home" not in str(parked.value)


def test_an_order_that_the_superlink_does_not_take_is_given_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FakeSuperLink(clock)
    monkeypatch.setattr(grid, "push_messages", lambda _: [""])
    with pytest.raises(Parked, match="lost on the way"):
        describe(grid)


class Failed(Exception):
    """As the SuperLink's client raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.response = types.SimpleNamespace(status_code=status)


@pytest.mark.parametrize("what", ["push_messages", "pull_messages", "get_nodes"])
@pytest.mark.parametrize(
    ("status", "times", "survived"), [(500, 5, True), (503, 5, True), (500, 99, False), (403, 1, False)]
)
def test_a_superlink_whose_database_is_busy_is_asked_again(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, what: str, status: int, times: int, survived: bool
) -> None:
    grid = FakeSuperLink(clock, "answer")
    asked = getattr(grid, what)
    left = [times]

    def fails(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise Failed(status)
        return asked(*arguments)

    monkeypatch.setattr(grid, what, fails)
    if survived:
        assert describe(grid).site == "A"
    else:
        with pytest.raises(Failed):
            describe(grid)
    assert grid.orders_pushed == (what == "pull_messages" or survived)


@pytest.mark.usefixtures("quick")
def test_two_answers_to_one_stage_are_counted_once(tmp_path: Path) -> None:
    """The order was thought lost and sent again; the site answers both. The second answer is for nobody."""
    lost: list[Message] = []

    class Twice(FakeGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            replies = list(super().pull_messages(message_ids))
            if replies and not lost and replies[0].metadata.message_type == FINE_TUNE:
                lost.extend(replies)
                return [Message(Error(NODE_UNAVAILABLE, ""), reply_to=replies[0])]
            return replies

    grid = Twice(study_of(baseline=True))
    undisturbed = go(FakeGrid(grid.study), tmp_path / "undisturbed")
    run = go(grid, tmp_path / "twice")
    assert lost
    assert run.parked == {}
    assert {node.id: record for node, record in run.records.items()} == {
        node.id: record for node, record in undisturbed.records.items()
    }


def test_a_node_is_known_by_its_registered_name_alone(clock: Clock) -> None:
    grid = FakeSuperLink(clock)
    assert find_sites(grid, ["A"], grid.study.digest, patience=0) == {"A": 1}
    assert not grid.orders_pushed, "it was asked what it is"


def test_sites_are_waited_for_and_then_missed_by_name(clock: Clock) -> None:
    grid = FakeSuperLink(clock)
    grid.away_until = clock.now + 100
    assert find_sites(grid, ["A"], grid.study.digest, patience=200) == {"A": 1}
    with pytest.raises(RelayError, match="Site B of the study is not there"):
        find_sites(grid, ["A", "B"], grid.study.digest, patience=10)
    began = clock.now
    assert find_sites(grid, ["A", "B"], grid.study.digest, patience=200, known={"B"}) == {"A": 1}
    assert clock.now == began, "one that has said what it has is not waited for"
