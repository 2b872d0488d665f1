"""What a site keeps of a stage: whole, or as if it were not there."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from client.stages.store import StageStore
from client.training.fine_tune import Trained
from common.digest import digest_of
from common.model.weights import serialised
from common.protocol.messages import EvaluateReply, FineTuneReply
from common.scores import CALIBRATION, GLAND

KEY, OTHER = "a" * 64, "b" * 64
WEIGHTS = {"layer": torch.arange(6.0).reshape(2, 3), "seen": torch.tensor(3)}


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "stages")


def reply_of(key: str = KEY, weights: str = "") -> FineTuneReply:
    entries: dict[str, Any] = {"losses": (0.1,), "learning_rates": (1e-3,), "dices": (0.9,), "kept_epoch": 1}
    return FineTuneReply(study="c" * 64, key=key, state="done", epoch=1, weights=weights, **entries)


def finished(store: StageStore, key: str = KEY) -> str:
    digest = store.save_weights(key, WEIGHTS)
    store.finish(reply_of(key, digest))
    return digest


def trained_after_a_step() -> Trained:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return Trained(
        epoch=2,
        losses=(0.5, 0.25),
        learning_rates=(1e-3, 5e-4),
        dices=(0.1, 1 / 3),
        gradient_steps=8,
        kept_epoch=2,
        kept=WEIGHTS,
        current=layer.state_dict(),
        optimizer=optimizer.state_dict(),
    )


def test_nothing_is_known_of_a_stage_that_never_ran(store: StageStore) -> None:
    assert store.reply(KEY, FineTuneReply) is None
    assert store.checkpoint(KEY) is None
    assert store.start(KEY) is None
    assert store.weights(OTHER) is None
    store.forget((KEY,))


def test_a_finished_stage_is_answered_from_disk(store: StageStore) -> None:
    digest = finished(store)
    assert digest == digest_of(serialised(WEIGHTS))
    assert store.reply(KEY, FineTuneReply) == reply_of(KEY, digest)
    found = store.weights(digest)
    assert found is not None and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_a_checkpoint_comes_back_to_the_bit(store: StageStore) -> None:
    state = trained_after_a_step()
    store.save_checkpoint(KEY, state)
    found = store.checkpoint(KEY)
    assert found is not None
    for name in ("epoch", "losses", "learning_rates", "dices", "gradient_steps", "kept_epoch"):
        assert getattr(found, name) == getattr(state, name)
    assert digest_of(serialised(found.kept)) == digest_of(serialised(state.kept))
    assert digest_of(serialised(found.current)) == digest_of(serialised(state.current))
    mine, theirs = state.optimizer["state"], found.optimizer["state"]
    assert mine.keys() == theirs.keys() and mine
    for number in mine:
        assert all(torch.equal(mine[number][name], theirs[number][name]) for name in mine[number])


@pytest.mark.parametrize("damage", ["empty", "torn", "half", "garbage", "text", "other fields", "other object"])
def test_a_damaged_checkpoint_is_as_none(store: StageStore, damage: str) -> None:
    store.save_checkpoint(KEY, trained_after_a_step())
    path = store.folder / KEY / "checkpoint.pt"
    whole = path.read_bytes()
    if damage in ("other fields", "other object"):
        torch.save({"epoch": 1, "patient": 2} if damage == "other fields" else [1, 2], path)
    else:
        content = {
            "empty": b"",
            "torn": whole[:-100],
            "half": whole[: len(whole) // 2],
            "garbage": bytes(range(256)) * 20,
            "text": b"(lp0\nS'x'\np1\na.",
        }
        path.write_bytes(content[damage])
    assert store.checkpoint(KEY) is None


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('code from a checkpoint ran')",))


def test_a_checkpoint_never_runs_code(store: StageStore) -> None:
    store.save_checkpoint(KEY, trained_after_a_step())
    torch.save({"epoch": Evil()}, store.folder / KEY / "checkpoint.pt")
    assert store.checkpoint(KEY) is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"state": "done"}'])
def test_a_damaged_answer_is_as_none(store: StageStore, content: bytes) -> None:
    digest = finished(store)
    (store.folder / KEY / "reply.json").write_bytes(content)
    assert store.reply(KEY, FineTuneReply) is None
    assert store.weights(digest) is None


def test_an_answer_whose_weights_are_lost_has_none(store: StageStore) -> None:
    digest = finished(store)
    path = store.folder / KEY / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    assert store.weights(digest) is None
    path.unlink()
    assert store.weights(digest) is None
    assert store.reply(KEY, FineTuneReply) is not None


def test_an_answer_of_one_kind_is_none_of_the_other(store: StageStore) -> None:
    store.finish(EvaluateReply(study="c" * 64, key=KEY, state="done", dice=0.5))
    assert store.reply(KEY, FineTuneReply) is None
    assert store.reply(KEY, EvaluateReply) is not None
    finished(store, OTHER)
    assert store.reply(OTHER, EvaluateReply) is None


def test_an_answer_of_an_earlier_version_reads_as_without_the_figures_that_it_does_not_have(store: StageStore) -> None:
    store.finish(EvaluateReply(study="c" * 64, key=KEY, state="done", dice=0.5, patients=3))
    path = store.folder / KEY / "reply.json"
    content = json.loads(path.read_bytes()[:-32])
    for score in (*GLAND, *CALIBRATION):
        del content[score.key]
    del content["volume_patients"], content["thirds_patients"], content["calibration_patients"]
    earlier = json.dumps(content).encode()
    path.write_bytes(earlier + hashlib.sha256(earlier).digest())
    found = store.reply(KEY, EvaluateReply)
    assert found is not None and found.dice == 0.5
    assert (found.volume_patients, found.thirds_patients, found.calibration_patients) == (0, 0, 0), "not measured"


def test_a_finished_stage_needs_its_checkpoint_no_longer(store: StageStore) -> None:
    store.save_checkpoint(KEY, trained_after_a_step())
    finished(store)
    assert store.checkpoint(KEY) is None


def test_what_is_acknowledged_is_dropped_and_nothing_else(store: StageStore) -> None:
    first, _ = finished(store, KEY), finished(store, OTHER)
    store.save_start("d" * 64, WEIGHTS)
    store.forget((KEY,))
    assert not (store.folder / KEY).exists()
    assert store.reply(OTHER, FineTuneReply) is not None
    assert store.start("d" * 64) is not None
    assert store.weights(first) is not None, "the other stage made the same weights"


def test_a_checkpoint_of_another_version_is_as_none_and_the_sites_log_says_so(
    store: StageStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_checkpoint(KEY, trained_after_a_step())
    monkeypatch.setattr("client.stages.store.Trained", lambda **_: int("another version"))
    monkeypatch.setattr(logging.getLogger("relay.site"), "propagate", True)
    assert store.checkpoint(KEY) is None
    assert "A checkpoint cannot be read (ValueError: " in caplog.text
