"""Keep every private name of Flower's used by relay, and check Flower's version for all these names together.

A hospital's safety depends on some of these names: relay replaces functions of Flower's by its own, so that Flower
unpacks and runs no code sent by the coordinator. The first call of a process (`set_task_identity`, `client_runtime`,
`check_claims` or a `run_…`) therefore refuses every series of Flower except those attacked by the tests, and checks the
names to be replaced.

Each function imports Flower's modules itself, because a hospital starts a process for every message, and a command such
as `relay --help` needs none of these modules.
"""

from __future__ import annotations

import functools
import importlib
import os
import ssl
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from common.errors import RelayError

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run
    from flwr.supercore.runtime import RuntimeHttpClient

SERIES = ("1.41.", "1.42.")
"""The series of Flower with which the tests attack the launcher; another series is refused. What travels between
coordinator and hospital is the same in both, so that each of them is upgraded on a day of its own."""

CLIENT_RUNTIME = "flwr.supernode.runtime.run_clientapp"
REPLACED_IN_CLIENT_RUNTIME = ("install_from_fab", "get_project_dir", "get_load_client_app_fn")
SUPERNODE = "flwr.supernode.start_client_internal"
EXECUTOR = "flwr.supercore.superexec.executor.subprocess_executor"
USED_FOR_CLAIMS = {
    "flwr.supercore.runtime": ("RuntimeHttpClient",),
    "flwr.supercore.interceptors": ("RuntimeTokenHttpInterceptor", "RuntimeVersionHttpInterceptor"),
    "flwr.proto.runtime_pb2": ("SendTaskHeartbeatRequest", "PushTaskOutputRequest"),
}


@functools.cache
def check_version() -> None:
    """Refuse an installed Flower of another series than `SERIES`.

    Raises:
        RelayError: another series of Flower is installed.
    """
    found = version("flwr")
    if not found.startswith(SERIES):
        wanted = " or ".join(f"{series}x" for series in SERIES)
        raise RelayError(f"Flower {found} is installed and {wanted} is wanted; install the pinned versions.")


def private_module(name: str, *wanted: str) -> ModuleType:
    """Import a private module of Flower's.

    Args:
        name: the module.
        *wanted: names in the module used or replaced by relay.

    Raises:
        RelayError: another series of Flower is installed, or a name is missing.
    """
    check_version()
    module = importlib.import_module(name)
    for part in wanted:
        if not hasattr(module, part):
            raise RelayError(f"Flower's {name} has no {part}; install the pinned versions.")
    return module


# Messages outside Flower's own processes: for simulations on this machine.


def set_task_identity(*, run_id: int, node_id: int) -> None:
    """Let this process build messages of a run at a node; Flower builds a message only where both numbers are set.

    Args:
        run_id: the run.
        node_id: the node; 0 for the coordinator.

    Raises:
        RelayError: another series of Flower is installed.
    """
    check_version()
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 1, node_id


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, as Flower's own grids do when they send a message."""
    message.metadata.__dict__["_message_id"] = message_id


def pack(message: Message) -> bytes:
    """Serialize a message in the format exchanged between Flower's processes."""
    from flwr.common.serde import message_to_proto

    return message_to_proto(message).SerializeToString()


def unpack(content: bytes) -> Message:
    """Deserialize a message from the bytes of `pack`."""
    from flwr.common.serde import message_from_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage

    return message_from_proto(ProtoMessage.FromString(content))


def online_node(node_id: int, name: str) -> NodeInfo:
    """Return the description by which a Grid names a connected node."""
    from flwr.proto.node_pb2 import NodeInfo

    return NodeInfo(node_id=node_id, name=name, status="online")


def empty_run(run_id: int) -> Run:
    """Return a run without an app, for the property `run` of a Grid."""
    from flwr.supercore.run import Run

    return Run.create_empty(run_id)


# The hospital's process for answering a message.


def client_runtime() -> ModuleType:
    """Import Flower's module for answering a message.

    Raises:
        RelayError: another series of Flower is installed, or a name used or replaced by relay is missing.
    """
    return private_module(CLIENT_RUNTIME, *REPLACED_IN_CLIENT_RUNTIME, "run_clientapp")


def confine(runtime: ModuleType, installed_app: Callable[[], Callable[[Message, Context], Message]]) -> None:
    """Replace the functions of Flower's runtime for unpacking and loading the code of a sent app.

    Args:
        runtime: the module of `client_runtime`; from now on the module unpacks and loads nothing of a sent app.
        installed_app: makes the app for answering in place of the sent app.
    """
    replaced: dict[str, Callable[..., object]] = {
        "install_from_fab": lambda *_, **__: None,
        "get_project_dir": lambda *_, **__: Path(os.devnull),
        "get_load_client_app_fn": lambda *_, **__: lambda *_, **__: installed_app(),
    }
    for name in REPLACED_IN_CLIENT_RUNTIME:
        setattr(runtime, name, replaced[name])


def answer_message(runtime: ModuleType, *, address: str, token: str, authority: Path) -> None:
    """Answer a message of a SuperNode on this machine.

    Args:
        runtime: the module of `client_runtime`, confined by `confine`.
        address: HOST:PORT of the SuperNode's Runtime API.
        token: the token of the claim on the message.
        authority: the certificate of the authority that signed the SuperNode's, as a PEM file.
    """
    runtime.run_clientapp(
        runtime_api_address=address,
        token=token,
        insecure=False,
        certificates=authority.read_bytes(),
        runtime_dependency_install=False,
    )


def app_not_loadable() -> Exception:
    """Return the error for which Flower sends a fixed text; for any other error Flower would send the error's text."""
    from flwr.clientapp.client_app import LoadClientAppError

    return LoadClientAppError()


# The claim on a message, by which a SuperNode knows that a process is answering the message.


def check_claims() -> None:
    """Check the existence of all names used by `send_heartbeat` and `report_failure`.

    Raises:
        RelayError: another series of Flower is installed, or a name is missing.
    """
    for module, names in USED_FOR_CLAIMS.items():
        private_module(module, *names)


def send_heartbeat(address: str, token: str, *, authority: Path, timeout: float) -> bool:
    """Send a heartbeat for the claim on a message.

    Args:
        address: HOST:PORT of the SuperNode's Runtime API.
        token: the token of the claim.
        authority: as of `answer_message`.
        timeout: seconds to wait for the answer.

    Returns:
        Whether the SuperNode accepted the heartbeat.

    Raises:
        Exception: the SuperNode does not answer or does not prove itself, or answers with an error; the latter has a
            `response` with a `status_code`.
    """
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

    with _runtime_client(address, token, authority, timeout) as client:
        return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)


def report_failure(address: str, token: str, details: str, *, authority: Path, timeout: float) -> None:
    """End the claim on a message by reporting a failure of the answering process.

    Args:
        address: HOST:PORT of the SuperNode's Runtime API.
        token: the token of the claim.
        details: a text for the SuperNode's log.
        authority: as of `answer_message`.
        timeout: seconds to wait for the answer.

    Raises:
        Exception: as of `send_heartbeat`.
    """
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest

    with _runtime_client(address, token, authority, timeout) as client:
        client.PushTaskOutput(PushTaskOutputRequest(sub_status="failed", details=details))


def _runtime_client(address: str, token: str, authority: Path, timeout: float) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    return RuntimeHttpClient(
        f"https://{address}",
        interceptors=[RuntimeVersionHttpInterceptor("SuperExec"), RuntimeTokenHttpInterceptor(token)],
        verify=context,
        timeout=timeout,
    )


# Flower's programs, in which relay replaces parts.


def run_superexec(*, launch: Callable[[Any], str], reconcile: Callable[[], None], close: Callable[[], None]) -> None:
    """Run `flower-superexec` with the arguments of the command line, and start processes by relay's own function.

    Args:
        launch: starts a process for a task, which has `task_type`, `task_id`, `runtime_api_address`, `insecure`,
            `root_certificates_path` and `token`;
            returns the reason of a failure, or an empty text. Flower offers a failed task again after a minute.
        reconcile: called several times a second.
        close: called once, when the SuperExec ends.

    Raises:
        RelayError: another series of Flower is installed, or a name used or replaced by relay is missing.
    """
    executor = private_module(EXECUTOR, "SubprocessExecutor", "LaunchResult")
    result, replaced = executor.LaunchResult, executor.SubprocessExecutor
    for name in ("launch", "reconcile", "close"):
        if not hasattr(replaced, name):
            raise RelayError(f"Flower's SubprocessExecutor has no {name}; install the pinned versions.")

    def launch_task(_: object, task: Any) -> Any:
        trouble = launch(task)
        return result.failed(trouble) if trouble else result.accepted()

    replaced.launch = launch_task
    replaced.reconcile = lambda _: reconcile()
    replaced.close = lambda _: close()
    from flwr.supercore.cli import flower_superexec

    flower_superexec()


def run_supernode(*, sleep: Callable[[float], None]) -> None:
    """Run `flower-supernode` with the arguments of the command line, and sleep between polls by relay's own function.

    Args:
        sleep: replaces `time.sleep` in the SuperNode's loop; takes seconds.

    Raises:
        RelayError: another series of Flower is installed, or a name used or replaced by relay is missing.
    """
    module = private_module(SUPERNODE, "time", "_pull_and_store_message", "_push_messages")
    module.time = SimpleNamespace(sleep=sleep)  # type: ignore[attr-defined]
    from flwr.supernode.cli import flower_supernode

    flower_supernode()


def run_superlink() -> None:
    """Run `flower-superlink` with the arguments of the command line.

    Raises:
        RelayError: another series of Flower is installed.
    """
    check_version()
    from flwr.superlink.cli import flower_superlink

    flower_superlink()
