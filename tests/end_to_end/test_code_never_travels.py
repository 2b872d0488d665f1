"""A coordinator that wants its own code to run at a hospital, against real SuperLink, SuperNode and launcher.

The hostile bundles carry code that leaves a file behind wherever it runs. They are tried on a site as relay runs
it, and once on a site as Flower runs it, where the file has to appear: or nothing here could fail.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from client.site_config import load_site
from common.protocol.refusals import REFUSALS, Refusal
from deploy.flower.control import QUIET, program
from deploy.flower.supervisor import a_free_port
from tests.support.federation import Federation, descendants, wait_for
from tests.support.hospitals import write_hospitals

pytestmark = pytest.mark.slow

PYPROJECT = """\
[project]
name = "hostile"
version = {version}
description = "x"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "hostile"
fab-include = ["**/*.py"]
[tool.flwr.app.components]
serverapp = "hostile_server:app"
clientapp = {component}
[tool.flwr.app.config]
out = ""
"""

CLIENT = """\
from pathlib import Path
Path({canary!r}).write_text("ran")
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query("describe")
def describe(message, context):
    return Message(RecordDict({{"foreign": ConfigRecord({{"code": "ran"}})}}), reply_to=message)
"""

SERVER = """\
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    out = Path(context.run_config["out"])
    while not (nodes := [node.node_id for node in grid.get_nodes() if node.name == {site!r}]):
        time.sleep(0.5)
    (out / "run").write_text(str(context.run_id))
    while not (out / "go").exists():
        time.sleep(0.1)
    content = RecordDict({{"message": ConfigRecord({{"study": "0" * 64}})}})
    message = Message(content, dst_node_id=nodes[0], message_type="query.describe", ttl=3600.0)
    ids = list(grid.push_messages([message]))
    while not (replies := list(grid.pull_messages(ids))):
        time.sleep(0.3)
    reply = replies[0]
    told = [reply.error.code, reply.error.reason] if reply.has_error() else [0, sorted(reply.content)]
    (out / "told.part").write_text(json.dumps(told))
    (out / "told.part").rename(out / "told")
"""

REFUSED = [int(Refusal.UNKNOWN_STUDY), REFUSALS[Refusal.UNKNOWN_STUDY]]
"""What the installed app answers to a question about a study that nobody approved: it ran, and no other."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    sites = write_hospitals(tmp_path_factory.mktemp("the-hospitals-own"), {"A": 1, "B": 1})
    with Federation(tmp_path_factory.mktemp("federation"), sites) as made:
        made.start("superlink", "superexec", "A")
        made.wait_until_connected("A")
        yield made


class Attack:
    """One hostile run."""

    def __init__(
        self,
        federation: Federation,
        folder: Path,
        *,
        site: str = "A",
        version: str = "1.0",
        component: str = "client.app",
    ) -> None:
        self.federation, self.out = federation, folder / "out"
        self.canary = folder / "canary"
        self.out.mkdir()
        bundle = folder / "bundle"
        for path, content in (
            ("pyproject.toml", PYPROJECT.format(version=json.dumps(version), component=json.dumps(f"{component}:app"))),
            ("hostile_server.py", SERVER.format(site=site)),
            (component.replace(".", "/") + ".py", CLIENT.format(canary=str(self.canary))),
            ("common/protocol/messages.py", CLIENT.format(canary=str(self.canary))),
            ("torch.py", CLIENT.format(canary=str(self.canary))),
        ):
            (bundle / path).parent.mkdir(parents=True, exist_ok=True)
            (bundle / path).write_text(content, encoding="utf-8")
        control = federation.coordinator.control()
        answer = control.ask("run", str(bundle), "--run-config", f"out={json.dumps(str(self.out))}")
        self.run_id = int(answer["run-id"])
        wait_for((self.out / "run").exists, seconds=120, told=federation.told)

    def lie(self, table: str, **values: str) -> None:
        """Change what the SuperLink says of the run, as a coordinator can who owns the database."""
        signed = self.run_id - (1 << 64) if self.run_id >= 1 << 63 else self.run_id
        with sqlite3.connect(self.federation.coordinator.superlink / "state.db", timeout=30) as database:
            for column, value in values.items():
                changed = database.execute(f"UPDATE {table} SET {column} = ? WHERE run_id = ?", (value, signed))
                assert changed.rowcount == 1

    def go(self, seconds: float = 120) -> list[Any]:
        """What the site answered."""
        (self.out / "go").touch()
        wait_for((self.out / "told").exists, seconds=seconds, told=self.federation.told)
        return list(json.loads((self.out / "told").read_text(encoding="utf-8")))


def assert_nothing_was_told(federation: Federation, answer: list[Any]) -> None:
    """Neither the answer nor anything that the SuperLink keeps names a folder of the hospital's."""
    private = str(load_site(federation.sites["A"]).folder.parents[1])
    assert private not in json.dumps(answer)
    for path in federation.coordinator.folder.rglob("*"):
        if path.is_file():
            assert private.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("version", "component"),
    [
        ("1", "client.app"),
        ("1", "hostile_client"),
        ("1.0.00000000/../../../../../../proc/self/cwd/z", "client.app"),
        ("/tmp/z", "client.app"),
    ],
)
def test_code_that_was_sent_does_not_run(federation: Federation, tmp_path: Path, version: str, component: str) -> None:
    attack = Attack(federation, tmp_path, version=version, component=component)
    answer = attack.go()
    assert answer == REFUSED
    assert not attack.canary.exists()
    assert_nothing_was_told(federation, answer)


@pytest.mark.parametrize("lie", [{"fab_version": "../../../../tmp"}, {"fab_id": "relay/prostate-relay"}])
def test_a_coordinator_that_lies_about_the_bundle_changes_nothing(
    federation: Federation, tmp_path: Path, lie: dict[str, str]
) -> None:
    attack = Attack(federation, tmp_path)
    attack.lie("run", **lie)
    answer = attack.go()
    assert answer == REFUSED
    assert not attack.canary.exists()
    assert_nothing_was_told(federation, answer)


@pytest.mark.parametrize("kind", ["flwr-agentapp"])
def test_another_kind_of_task_starts_nothing_and_the_site_goes_on(
    federation: Federation, tmp_path: Path, kind: str
) -> None:
    """The command that it names is not started, and the site answers the next order."""
    attack = Attack(federation, tmp_path)
    attack.lie("task", type=kind)
    started: set[bytes] = set()
    (attack.out / "go").touch()

    def looked() -> bool:
        for pid in descendants(federation.pid("A")):
            with suppress(OSError):
                started.add(Path(f"/proc/{pid}/cmdline").read_bytes())
        return (attack.out / "told").exists()

    wait_for(looked, seconds=240, told=federation.told)
    assert not any(b"agentapp" in command for command in started)
    assert not attack.canary.exists()
    (tmp_path / "next").mkdir()
    assert Attack(federation, tmp_path / "next").go() == REFUSED


def stock_site(federation: Federation, scratch: Path) -> list[subprocess.Popen[bytes]]:
    """Site B as Flower itself would run it, with the same keys."""
    secret, port = scratch / "secret", a_free_port()
    secret.write_text("x" * 40, encoding="ascii")
    environment = os.environ | dict(QUIET) | {"FLWR_HOME": str(scratch / "home")}
    environment["PATH"] = f"{Path(program('flwr')).parent}{os.pathsep}{environment['PATH']}"
    node = [program("flower-supernode"), "--superlink", federation.coordinator.settings().superlink]
    node += ["--root-certificates", str(federation.coordinator.superlink_ca)]
    node += ["--auth-supernode-private-key", str(load_site(federation.sites["B"]).folder / "keys" / "node.key")]
    node += ["--isolation", "process", "--superexec-auth-secret-file", str(secret), "--port", str(port)]
    executor = [program("flower-superexec"), "--insecure", "--runtime-api-address", f"127.0.0.1:{port}"]
    executor += ["--superexec-auth-secret-file", str(secret)]
    log = (scratch / "log").open("wb")
    return [
        subprocess.Popen(command, env=environment, cwd=scratch, stdout=log, stderr=log) for command in (node, executor)
    ]


def test_the_same_bundle_does_run_at_a_site_of_flowers_own(federation: Federation, tmp_path: Path) -> None:
    """Or the tests above could not fail."""
    processes = stock_site(federation, tmp_path)
    try:
        # Of a name of its own: an installed package of the name `client` would be loaded before the bundle's folder.
        attack = Attack(federation, tmp_path, site="B", component="hostile_client")
        assert attack.go() == [0, ["foreign"]]
        assert attack.canary.read_text() == "ran"
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)
