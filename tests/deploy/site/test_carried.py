"""Orders that a command of the hospital's own answers, as a scheduler's job does: the same answers, and no job left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.site_config import load_site
from common.errors import RelayError
from common.model.network import build
from common.plan.graph import FineTune
from common.protocol.codec import from_record, to_record
from common.protocol.messages import DESCRIBE, FINE_TUNE, Describe, Description, FineTuneReply
from common.protocol.refusals import REFUSALS, Refusal
from deploy.simulation.local_grid import enter_run
from deploy.site import carried, launcher
from tests.support.federation import wait_for
from tests.support.hospitals import approve_everywhere, forget_stages, write_hospitals, write_site
from tests.support.site_calls import STUDY, order_of, planned

ELSEWHERE = """#!/bin/sh
# As a job on another machine: another folder, none of the environment.
echo "$@" >> {log}
stat -c "%a %n" {private}/carried {private}/carried/* >> {log}
cd / && exec env -i "$@"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hospital A, whose orders a script answers elsewhere."""
    path = write_hospitals(tmp_path, {"A": 4}, slices=5)["A"]
    approve_everywhere({"A": path}, STUDY)
    private = load_site(path).private()
    script = tmp_path / "a scheduler" / "run"
    script.parent.mkdir()
    script.write_text(ELSEWHERE.format(log=shlex.quote(str(tmp_path / "jobs")), private=private), encoding="utf-8")
    script.chmod(0o755)
    launch_by(path, shlex.quote(str(script)))
    monkeypatch.setenv("RELAY_SITE", str(path))
    enter_run(1)
    return path


def launch_by(path: Path, launch: str) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("launch")]
    path.write_text("\n".join([f"launch = {launch!r}", *lines]) + "\n", encoding="utf-8")


def order(kind: str, content: RecordDict) -> Message:
    message = Message(content, dst_node_id=1, message_type=kind)
    message.metadata.__dict__["_message_id"] = "1"
    return message


def answered(content: RecordDict) -> Message:
    """The answer to a question for a description, asked as Flower does."""
    return launcher.installed_app()(message=order(DESCRIBE, content), context=context())


def context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


@pytest.mark.slow
def test_a_training_elsewhere_gives_the_weights_that_it_gives_here(home: Path, tmp_path: Path) -> None:
    made, _ = planned()
    stage = next(node for node in made.by_id.values() if isinstance(node, FineTune) and node.site == "A")
    torch.manual_seed(0)
    weights = build(STUDY.model).state_dict()
    message = order(FINE_TUNE, to_record(order_of(stage, weights), weights))
    there = launcher.installed_app()(message=message, context=context())
    forget_stages({"A": home})
    approve_everywhere({"A": home}, STUDY)
    here = launcher.app_alone()(message, context())
    answers = [from_record(reply.content, FineTuneReply) for reply in (there, here)]
    assert answers[0][0] == answers[1][0] and answers[0][0].state == "done"
    assert answers[0][1] is not None and answers[1][1] is not None
    assert all(torch.equal(tensor, answers[1][1][name]) for name, tensor in answers[0][1].items())
    assert there.metadata.reply_to_message_id == "1"
    command, *modes = (tmp_path / "jobs").read_text(encoding="utf-8").splitlines()
    assert command == f"{sys.executable} -I -m deploy.site.carried {load_site(home).folder / 'carried'}"
    assert [mode.split()[0] for mode in modes] == ["700", "600", "600"]
    assert not (load_site(home).folder / "carried").exists()


@pytest.mark.slow
def test_the_kind_of_order_and_the_errors_are_the_apps_own(home: Path) -> None:
    reply = answered(to_record(Describe(study=STUDY.digest)))
    assert from_record(reply.content, Description)[0].train_slices
    reply = answered(RecordDict({"message": ConfigRecord({"study": 3})}))
    assert reply.has_error() and reply.error.code == int(Refusal.BAD_MESSAGE)


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        ("false", "the command false ended with 1"),
        ("true --gres=gpu:1", "the command true --gres=gpu:1 left no answer"),
        ("no-such-scheduler -n 1", "no-such-scheduler cannot be started (No such file or directory)"),
    ],
)
def test_a_command_that_fails_is_a_refusal_outside_and_a_sentence_inside(home: Path, launch: str, reason: str) -> None:
    launch_by(home, launch)
    reply = answered(to_record(Describe(study=STUDY.digest)))
    assert (reply.error.code, reply.error.reason) == (int(Refusal.FAILED), REFUSALS[Refusal.FAILED])
    log = (load_site(home).folder / "site.log").read_text(encoding="utf-8")
    assert f"An order was not answered: {reason}" in log
    assert not (load_site(home).folder / "carried").exists()


@pytest.mark.parametrize("answer", ["printf 'Doe, John'", "mkdir"])
def test_an_answer_that_cannot_be_read_is_no_text_outside(home: Path, tmp_path: Path, answer: str) -> None:
    script = tmp_path / "broken"
    target = load_site(home).folder / "carried" / "answer"
    script.write_text(f"#!/bin/sh\n{answer} {'>' if 'printf' in answer else ''} {target}\n", encoding="utf-8")
    script.chmod(0o755)
    launch_by(home, str(script))
    reply = answered(to_record(Describe(study=STUDY.digest)))
    assert (reply.error.code, reply.error.reason) == (int(Refusal.FAILED), REFUSALS[Refusal.FAILED])
    assert "An order was not answered" in (load_site(home).folder / "site.log").read_text(encoding="utf-8")


def test_a_private_folder_that_cannot_be_used_is_no_text_outside(home: Path) -> None:
    site = load_site(home)
    blocked = site.model_copy(update={"folder": home / "no folder"})
    message = order(DESCRIBE, to_record(Describe(study=STUDY.digest)))
    reply = carried.answer_by_command(blocked, message)
    assert (reply.error.code, reply.error.reason) == (int(Refusal.FAILED), REFUSALS[Refusal.FAILED])


def test_the_launcher_that_waits_imports_nothing_that_a_job_imports(home: Path) -> None:
    """Or a hospital's login node holds what only the jobs need."""
    program = (
        "import sys, deploy.site.carried as carried, deploy.site.launcher as launcher;"
        "assert carried.site_with_command(); launcher.installed_app();"
        "print('torch' in sys.modules, 'client.app' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60)
    assert done.stdout == "False False\n", done.stderr


def test_the_last_word_may_be_the_python_of_a_container() -> None:
    folder = Path("/x/carried")
    end = ["-I", "-m", "deploy.site.carried", "/x/carried"]
    assert carried.command_for("srun -n 1", folder) == ["srun", "-n", "1", sys.executable, *end]
    assert carried.command_for("srun apptainer exec r.sif /opt/relay/bin/python3", folder) == [
        *["srun", "apptainer", "exec", "r.sif", "/opt/relay/bin/python3"],
        *end,
    ]


@pytest.mark.parametrize("launch", ["srun 'a", 'srun "'])
def test_what_no_shell_can_split_is_a_mistake_in_the_site_file(tmp_path: Path, launch: str) -> None:
    path = write_site(tmp_path, "A")
    launch_by(path, launch)
    with pytest.raises(RelayError, match="no words of a shell"):
        load_site(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a process when its parent ends")
def test_a_job_ends_with_the_process_that_waits_for_it(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "sleeper"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path / 'pid'}\nexec sleep 100\n", encoding="utf-8")
    script.chmod(0o755)
    launch_by(home, str(script))
    program = (
        "import deploy.site.launcher as launcher; from tests.deploy.site.test_carried import *; enter_run(1);"
        "answered(to_record(Describe(study=STUDY.digest)))"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as waiting:
        job = int(wait_for(lambda: (tmp_path / "pid").read_text(encoding="ascii"), seconds=60))
        waiting.send_signal(signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{job}").exists() or b"Z" in Path(f"/proc/{job}/stat").read_bytes(), seconds=10)


@pytest.mark.slow
def test_a_job_ends_once_nobody_touches_its_order_or_the_order_is_gone(tmp_path: Path) -> None:
    order = tmp_path / "order"
    program = (
        "import sys, deploy.site.carried as carried; carried.LAPSE, carried.TOUCH = 2, 0.1;"
        "carried._end_without_touch(carried.Path(sys.argv[1]))"
    )
    order.touch()
    command = [sys.executable, "-c", program, str(order)]
    with subprocess.Popen(command) as job:
        for _ in range(20):  # touched, it stays beyond the lapse
            time.sleep(0.25)
            os.utime(order)
            assert job.poll() is None
        assert job.wait(20) == 1
    with subprocess.Popen(command) as job:
        time.sleep(0.5)
        order.unlink()
        assert job.wait(20) == 1
