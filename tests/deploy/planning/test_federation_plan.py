"""What a study would take on a federation on paper, against sums by hand and against bounds that any run keeps."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.config.study import Study, study_toml
from common.errors import DiskFull, RelayError
from common.plan.graph import FineTune, Node
from deploy.cli import main
from deploy.planning.durations import durations
from deploy.planning.federation import Federation, load_federation, open_from, sites_of
from deploy.planning.federation_plan import BETWEEN, Outlook, bottleneck, outlook, summary
from deploy.planning.study_plan import study_plan
from deploy.planning.trial import Speed
from deploy.planning.virtual_clock import Clock, Process, SharedLink, Slots
from deploy.planning.virtual_run import (
    COMPUTING,
    COORDINATOR,
    MESSAGES,
    OWN_LINK,
    POOL,
    SHARED_LINK,
    World,
    descriptions_of,
    run_virtually,
)
from tests.support.hospitals import small_study

MB = 1_000_000
FREE: dict[str, Any] = {"up_mbit": 1e12, "down_mbit": 1e12, "message_seconds": 0.0}
"""Links and messages that cost nothing."""
NOTHING: dict[str, Any] = {"up_mbit": 1e12, "down_mbit": 1e12, "message_seconds": 0.0, "seconds_a_mb": 0.0}
"""A coordinator that costs nothing."""


@pytest.fixture(autouse=True)
def weights_of_ten_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("deploy.planning.virtual_run", "deploy.planning.study_plan", "server.disk_space"):
        monkeypatch.setattr(f"{module}.declared_bytes", lambda _: 10 * MB)


def sites(*, count: int = 0, names: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """So many sites of 20 patients and 200 slices: 128 slices train, 32 validate and 40 test."""
    site = {"patients": 20, "slices": 200, "step_seconds": 0.5, "predict_seconds": 0.01, **more}
    return site | ({"names": names} if names else {"count": count})


def federation(*groups: dict[str, Any], **more: Any) -> Federation:
    return Federation.model_validate({"sites": groups, **more})


def study(names: tuple[str, ...], *, epochs: int = 10, leg_minutes: float = 10.0, **methods: Any) -> Study:
    return small_study(
        sites=names,
        split={"folds": 5, "use_folds": 1, "test_fraction": 0.2},
        training={"epochs": epochs, "batch": 16, "leg_minutes": leg_minutes, "slices": "all"},
        methods=methods,
    )


def planned(of: Study, on: Federation) -> Outlook:
    found = sites_of(on, of, Path("mine.toml"))
    census = {name: (round(site.config.slices * 0.64),) * 5 for name, site in found.items()}
    return outlook(of, census, on, found, lambda _: Speed(2.0, 0.04))


TRAINING = 10 * 8 * 0.5 + (10 + 3) * 32 * 0.01
"""10 epochs of 8 steps of half a second, and the validation slices of 10 epochs and of the kept weights three times."""
SCORING = 3 * 40 * 0.01


def test_the_seconds_of_one_route_are_those_added_up_by_hand() -> None:
    on = federation(
        sites(names=("A",), up_mbit=40, down_mbit=80, message_seconds=5.0),
        sites(names=("B",), up_mbit=16, down_mbit=20, message_seconds=3.0),
        coordinator={"up_mbit": 50, "down_mbit": 20, "seconds_a_mb": 0.02, "message_seconds": 0.25},
    )
    found = planned(study(("A", "B"), sequential={"routes": (("B", "A"),)}), on)
    handled = 10 * 0.02  # 10 MB are 80 megabits
    of_b = handled + 80 / 20 + 3 + TRAINING + 80 / 16 + handled + 0.25
    of_a = handled + 80 / 50 + 5 + TRAINING + 80 / 20 + handled + 0.25
    test_at_a = 5 + SCORING + 0.25  # the weights are still at A
    assert found.seconds == pytest.approx(of_b + of_a + test_at_a)
    assert (found.trainings, found.scorings) == (2, 1)
    assert (found.to_sites, found.from_sites) == (20 * MB, 20 * MB)
    a, b = found.sites
    assert a.seconds[COMPUTING] == pytest.approx(TRAINING + SCORING) and b.seconds[COMPUTING] == pytest.approx(TRAINING)
    assert a.seconds[MESSAGES] == 10 and b.seconds[MESSAGES] == 3
    assert a.seconds[OWN_LINK] == pytest.approx(1 + 2), "what A's own link would take"
    assert a.seconds[SHARED_LINK] == pytest.approx(0.6 + 2), "and what the coordinator's adds"
    assert b.seconds[SHARED_LINK] == 0
    assert a.idle == pytest.approx(of_b) and b.idle == pytest.approx(of_a + test_at_a)
    assert found.chain_sites == ("B", "A")
    assert sum(found.chain.values()) == pytest.approx(found.seconds)
    assert "computing" in bottleneck(found)


def test_a_stage_of_many_legs_takes_a_message_more_for_each() -> None:
    on = federation(sites(count=1, **FREE | {"message_seconds": 7.0}), coordinator=NOTHING)
    one = planned(study(("A",), baseline=True), on).seconds
    assert planned(study(("A",), baseline=True, leg_minutes=0.0), on).seconds == pytest.approx(one + 9 * 7)
    # A leg ends with the epoch in which its time is over: of 6 s each, the second.
    epochs = planned(study(("A",), baseline=True, leg_minutes=0.1), on)
    assert TRAINING / 10 < 6 < 2 * TRAINING / 10
    assert epochs.seconds == pytest.approx(one + 4 * 7)


@pytest.mark.parametrize(("cards", "rounds"), [(1, 3), (2, 2), (3, 1)])
def test_sites_that_share_cards_wait_for_each_other(cards: int, rounds: int) -> None:
    on = federation(sites(count=3, pool="gpus", **FREE), coordinator=NOTHING, pools=({"name": "gpus", "cards": cards},))
    found = planned(study(("A", "B", "C"), baseline=True, scored_on="validation"), on)
    assert found.seconds == pytest.approx(rounds * TRAINING)
    assert found.pools == {"gpus": pytest.approx(3 / cards / rounds)}
    assert sum(site.seconds[POOL] for site in found.sites) == pytest.approx({1: 3, 2: 1, 3: 0}[cards] * TRAINING)


def test_a_site_that_computes_at_night_goes_on_the_next_night() -> None:
    half_an_hour = {"step_seconds": 1800 / 8 / 10, "predict_seconds": 1e-12}
    on = federation(sites(count=1, hours=(23.75, 0), **FREE | half_an_hour), coordinator=NOTHING, begins=22.0)
    found = planned(study(("A",), baseline=True, scored_on="validation", leg_minutes=1e6), on)
    assert found.seconds == pytest.approx(3600 * (1.75 + 24 + 0.25), abs=0.01)
    assert open_from((19, 7), 19.0) == (0.0, 12.0) and open_from((19, 7), 7.0) == (12.0, 12.0)
    assert open_from((19, 7), 3.0) == (0.0, 4.0) and open_from((8, 18), 20.0) == (12.0, 10.0)
    assert open_from(None, 3.0) == (0.0, float("inf"))


def test_a_link_is_shared_evenly_and_what_a_slow_site_leaves_goes_to_the_others() -> None:
    """10 bytes a second. A slow site takes 2, two others 4 each; then 5 each, and then 8 or 10."""
    clock = Clock()
    link = SharedLink(clock, 10.0)
    arrived: dict[str, float] = {}

    def transfer(name: str, size: float, fastest: float) -> Process:
        yield link.carry(size, fastest)
        arrived[name] = clock.now

    for name, size, fastest in (("slow", 6.0, 2.0), ("one", 22.0, 100.0), ("other", 38.0, 8.0)):
        clock.begin(transfer(name, size, fastest))
    clock.pass_by(100.0)
    # After 3 s the slow one has come, and 10 and 26 bytes are left: 2 s of 5 each, and 16 bytes at the site's own 8.
    assert arrived == {"slow": pytest.approx(3), "one": pytest.approx(5), "other": pytest.approx(7)}
    assert link.busy_seconds == pytest.approx(7) and link.carried == 66


def test_slots_are_taken_in_the_order_of_asking() -> None:
    clock, order = Clock(), []
    slots = Slots(clock, 2)

    def holding(name: str, seconds: float) -> Process:
        yield slots.take
        order.append((name, clock.now))
        yield clock.sleep(seconds)
        slots.release()

    for name, seconds in (("a", 5.0), ("b", 2.0), ("c", 4.0), ("d", 1.0)):
        clock.begin(holding(name, seconds))
    clock.pass_by(50.0)
    assert order == [("a", 0.0), ("b", 0.0), ("c", 2.0), ("d", 5.0)]
    assert slots.held_seconds == 12.0


def test_a_round_over_a_narrow_link_of_the_coordinator_waits_for_it() -> None:
    part = {"rounds": 1, "local_epochs": 10, "batch_norm": "average", "then_target": False}
    narrow = {**NOTHING, "up_mbit": 8.0, "down_mbit": 4.0}
    on = federation(sites(count=4, **FREE), coordinator=narrow)
    found = planned(study(("A", "B", "C", "D"), federated=(part,), scored_on="validation"), on)
    # 40 MB over 1 MB/s, the training, 40 MB over half of it, and the average to each site for its score.
    training = 10 * 8 * 0.5 + 13 * 32 * 0.01
    assert found.seconds == pytest.approx(40 + training + 80 + 40 + 3 * 32 * 0.01)
    assert "coordinator's link" in bottleneck(found)
    assert (found.up_share, found.down_share) == (pytest.approx(80 / found.seconds), pytest.approx(80 / found.seconds))


def test_the_coordinators_own_time_is_between_the_stages() -> None:
    part = {"rounds": 3, "local_epochs": 1, "batch_norm": "average", "then_target": False}
    on = federation(sites(count=3, **FREE), coordinator={**NOTHING, "seconds_a_mb": 60.0, "message_seconds": 1.0})
    found = planned(study(("A", "B", "C"), federated=(part,), scored_on="validation"), on)
    assert found.averaging == 3 * 40 * 60, "three parts and the average, of 10 MB each, three times"
    assert found.chain[BETWEEN] == pytest.approx(found.averaging)
    assert found.chain[COORDINATOR] > 2 * 3 * 600 and "processor is the bottleneck" in bottleneck(found)


METHODS = (
    {"baseline": True, "sequential": {"routes": "all", "max_hops": 2}},
    {"sequential": {"routes": "greedy", "max_hops": 2}},
    {"sequential": {"routes": "halving", "max_hops": 2}},
    {"federated": ({"rounds": 3, "batch_norm": "average", "then_target": True},)},
    {"federated": ({"rounds": 2, "batch_norm": "local"},), "baseline": True},
    {"forgetting": True, "sequential": {"routes": (("B", "C", "A"),)}},
    {"longer_baseline": True, "more": ("target-folds", "consensus"), "sequential": {"routes": "all", "max_hops": 1}},
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_run_is_shorter_than_its_longest_path_or_its_busiest_part_or_longer_than_all_of_it(data: Any) -> None:
    rate = st.floats(1.0, 1000.0)
    group = st.fixed_dictionaries(
        {
            "patients": st.integers(20, 60),
            "slices": st.integers(100, 400),
            "step_seconds": st.floats(0.01, 5.0),
            "up_mbit": rate,
            "down_mbit": rate,
            "message_seconds": st.floats(0.0, 10.0),
            "pool": st.sampled_from(("", "gpus")),
        }
    )
    groups = [{**data.draw(group), "names": (name,)} for name in "ABC"]
    link = {"up_mbit": data.draw(rate), "down_mbit": data.draw(rate), "seconds_a_mb": data.draw(st.floats(0.0, 1.0))}
    dice = data.draw(st.sampled_from(("every hop gains", "drawn")))
    cards = data.draw(st.integers(1, 3))
    on = federation(*groups, coordinator=link, pools=({"name": "gpus", "cards": cards},), dice=dice)
    methods = data.draw(st.sampled_from(METHODS))
    of = study(("A", "B", "C"), epochs=4, leg_minutes=data.draw(st.sampled_from((0.0, 1.0, 1e6))), **methods)
    found = sites_of(on, of, Path("mine.toml"))
    census = {name: (round(site.config.slices * 0.64),) * 5 for name, site in found.items()}
    computing = durations(of, census, {}, lambda name: found[name].speed, beside=0.0)  # type: ignore[arg-type, return-value]
    world = World(on, found)
    state = run_virtually(of, descriptions_of(of, census, found), world, computing)
    assert not state.parked and set(state.records) == set(state.plan.nodes)
    assert world.ledger.bytes == sum(world.ledger.sizes[digest] for digest in world.ledger._sizes)

    total = world.clock.now
    least = total * (1 + 1e-9) + 1e-6
    path: dict[Node, float] = {}
    for node in state.plan.nodes:
        own = computing(node) if isinstance(node, FineTune) else 0.0
        path[node] = own + max((path[parent] for parent in node.parents), default=0.0)
    assert max(path.values()) <= least
    work: dict[str, float] = defaultdict(float)
    asked = [stage for stage in world.stages if not stage.known]
    assert len({state.records[stage.node].key for stage in asked}) == len(asked), "nothing is done twice"
    for stage in asked:
        work[stage.node.site] += computing(stage.node)
        assert sum(stage.spent.values()) == pytest.approx(stage.ended - stage.began, abs=1e-6)
        assert stage.spent[COMPUTING] == pytest.approx(computing(stage.node))
    of_pool = sum(seconds for name, seconds in work.items() if found[name].config.pool)
    assert max(work.values()) <= least and of_pool / cards <= least
    assert world.to_sites.carried * 8 / 1e6 / link["up_mbit"] <= least
    assert world.from_sites.carried * 8 / 1e6 / link["down_mbit"] <= least
    assert world.transfers.held_seconds / 2 <= least
    everything = sum(sum(stage.spent.values()) for stage in world.stages) + world.averaging
    assert total <= everything * (1 + 1e-9) + 1e-6

    result = summary(world, found)
    assert sum(result.chain.values()) == pytest.approx(total)
    for site in result.sites:
        assert sum(site.seconds.values()) + site.idle == pytest.approx(total, abs=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slow=st.floats(0.5, 100.0),
    times=st.floats(1.0, 50.0),
    which=st.sampled_from(("up_mbit", "down_mbit")),
    where=st.sampled_from(("site", "coordinator")),
)
def test_a_faster_link_never_makes_a_single_route_slower(slow: float, times: float, which: str, where: str) -> None:
    def seconds(mbit: float) -> float:
        site = {which: mbit} if where == "site" else {}
        link = {which: mbit} if where == "coordinator" else {}
        on = federation(sites(count=3, **site), coordinator=link)
        return planned(study(("A", "B", "C"), sequential={"routes": (("B", "C", "A"),)}), on).seconds

    assert seconds(slow * times) <= seconds(slow) * (1 + 1e-9)


def test_a_file_is_planned_for_a_person_and_for_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = tmp_path / "mine.toml", tmp_path / "federation.toml"
    of = study(("A", "B", "C"), sequential={"routes": "greedy", "max_hops": 2})
    path.write_text(study_toml(of), encoding="utf-8")
    file.write_text(
        '[[pools]]\nname = "gpus"\ncards = 1\n[[sites]]\nnames = ["C"]\npatients = 30\nslices = 300\n'
        'step_seconds = 1000.0\npool = "gpus"\n'
        "[[sites]]\ncount = 2\npatients = 20\nslices = 200\nstep_seconds = 500.0\n",
        encoding="utf-8",
    )
    command = ["study", "plan", str(path), "--federation", str(file)]
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    found = values["federation"]
    assert values["train_slices"] == {"A": [128] * 5, "B": [128] * 5, "C": [192] * 5}
    assert values["power"]["targets"][2]["patients"] == 30
    assert [site["site"] for site in found["sites"]] == ["A", "B", "C"]
    assert [site["group"] for site in found["sites"]] == [1, 1, 0]
    assert found["days"] == found["seconds"] / 86400 and found["dice"] == "every hop gains"
    expected = planned(of, load_federation(file))
    assert found["seconds"] == expected.seconds and found["most_bytes"] == expected.most_bytes

    assert main(command) == 0
    told = capsys.readouterr().out
    assert "On a federation of 3 sites: " in told and "days (" in told
    assert "drawn with the seed 0, so that every hop is better than the one before." in told
    assert bottleneck(expected) in told and "The cards of the pool gpus compute for" in told


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "[[sites]]\ncount = 2\npatients = 20\nslices = 200\nstep_seconds = 1.0\n",
            "describes 2 sites, and the study has 3",
        ),
        (
            '[[sites]]\nnames = ["A", "X", "C"]\npatients = 20\nslices = 200\nstep_seconds = 1.0\n',
            "X must each be named",
        ),
        ("[[sites]]\ncount = 3\npatients = 20\nslices = 200\n", "either step_seconds or speed"),
        ("[[sites]]\npatients = 20\nslices = 200\nspeed = 2.0\n", "either names or a count"),
        (
            "[[sites]]\ncount = 3\npatients = 20\nslices = 200\nspeed = 2.0\npredict_seconds = 1.0\n",
            "goes with step_seconds",
        ),
        ('[[sites]]\ncount = 3\npatients = 20\nslices = 200\nspeed = 2.0\npool = "x"\n', "none of the pools"),
        ("[[sites]]\ncount = 3\npatients = 20\nslices = 200\nspeed = 2.0\nhours = [7, 7]\n", "two different hours"),
        ("[[sites]]\ncount = 3\npatients = 20\nslices = 200\nspeed = 2.0\nuplink = 7\n", "uplink"),
    ],
)
def test_a_file_that_describes_no_such_federation_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(RelayError, match=re.escape(sentence)):
        refused(tmp_path, content, study(("A", "B", "C"), baseline=True))


def test_what_the_file_says_is_not_said_twice(tmp_path: Path) -> None:
    content = "[[sites]]\ncount = 2\npatients = 20\nslices = 200\nstep_seconds = 1.0\n"
    with pytest.raises(RelayError, match="leave out --site, --slices and --patients"):
        refused(tmp_path, content, study(("A", "B"), baseline=True), slices={"A": 3})
    with pytest.raises(RelayError, match="set pooled = false"):
        refused(tmp_path, content, study(("A", "B"), pooled=True))


def refused(folder: Path, content: str, of: Study, *, slices: dict[str, int] | None = None) -> None:
    file = folder / "federation.toml"
    file.write_text(content, encoding="utf-8")
    study_plan(of, {}, slices or {}, at_once=1, trial=False, as_json=False, federation=file)


def test_a_speed_is_relative_to_the_machine_that_plans() -> None:
    on = federation({"count": 1, "patients": 20, "slices": 200, "speed": 4.0, **FREE}, coordinator=NOTHING)
    found = planned(study(("A",), baseline=True), on)  # the machine: 2 s a step and 0.04 s a slice
    assert found.seconds == pytest.approx(TRAINING + SCORING)


def test_of_several_networks_a_step_has_no_one_length() -> None:
    of = small_study(sites=("A",), models={"encoders": ("resnet18", "mobilenet_v2")}, methods={"baseline": True})
    with pytest.raises(RelayError, match=r"2 networks, and step_seconds in mine\.toml is of one; give speed"):
        sites_of(federation(sites(count=1)), of, Path("mine.toml"))
    relative = federation({"count": 1, "patients": 20, "slices": 200, "speed": 1.0})
    assert set(sites_of(relative, of, Path("mine.toml"))) == {"A"}


def test_a_small_disk_of_the_coordinator_costs_trainings_and_a_smaller_one_is_refused() -> None:
    names = tuple(f"H{number}" for number in range(12))
    of = study(names, sequential={"routes": "greedy", "max_hops": 2})
    roomy = planned(of, federation(sites(count=12), dice="drawn"))
    assert roomy.trainings == 12 * 11 + 12 + 12 * 10, "each source alone, one hop, and two"
    assert roomy.most_bytes > 132 * 10 * MB
    narrow = planned(of, federation(sites(count=12), dice="drawn", coordinator={"disk_gb": 1.2}))
    assert narrow.most_bytes < 70 * 10 * MB, "each source alone, each target's best, and a few on their way"
    assert roomy.trainings < narrow.trainings <= roomy.trainings + 12 * 10
    assert narrow.scorings == roomy.scorings
    with pytest.raises(DiskFull, match=r"describe a larger disk"):
        planned(of, federation(sites(count=12), coordinator={"disk_gb": 0.5}))
