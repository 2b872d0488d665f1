"""Every private name of Flower's that relay uses, and one check of Flower's version for all of them.

A hospital's safety hangs on some of these names: with functions of relay's own in their place, Flower unpacks and runs
nothing that the coordinator sent. So each function here first looks whether this is the series of Flower that the
tests attack, and whether a name that is replaced is there at all.

Flower's modules are imported by the functions that need them: a hospital starts a process for every message, and a
command such as `relay --help` needs none.
"""

from __future__ import annotations

import functools
import importlib
import os
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

SERIES = "1.41."
"""The tests attack the launcher with this series of Flower; another one is not trusted unseen."""

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
    """Check that the installed Flower is of the series that this file was written for.

    Raises:
        RelayError: it is another one.
    """
    found = version("flwr")
    if not found.startswith(SERIES):
        raise RelayError(f"Flower {found} is installed and {SERIES}x is wanted; install the pinned versions.")


def private_module(name: str, *wanted: str) -> ModuleType:
    """Import a private module of Flower's.

    Args:
        name: the module.
        wanted: names in it that are used or replaced.

    Raises:
        RelayError: another version of Flower is installed, or a name is not there.
    """
    check_version()
    module = importlib.import_module(name)
    for part in wanted:
        if not hasattr(module, part):
            raise RelayError(f"Flower's {name} has no {part}; install the pinned versions.")
    return module


# Messages outside Flower's own processes: hospitals that all lie on this machine.


def set_task_identity(*, run_id: int, node_id: int) -> None:
    """Let this process build messages of a run, at a node: Flower builds them only in a process that knows both.

    Raises:
        RelayError: another version of Flower is installed.
    """
    check_version()
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 1, node_id


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, as Flower's own grids do when they send it."""
    message.metadata.__dict__["_message_id"] = message_id


def pack(message: Message) -> bytes:
    """Return a message as Flower's processes send it to each other."""
    from flwr.common.serde import message_to_proto

    return message_to_proto(message).SerializeToString()


def unpack(content: bytes) -> Message:
    """Return the message that was packed."""
    from flwr.common.serde import message_from_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage

    return message_from_proto(ProtoMessage.FromString(content))


def online_node(node_id: int, name: str) -> NodeInfo:
    """Return what a Grid says of a node that is there."""
    from flwr.proto.node_pb2 import NodeInfo

    return NodeInfo(node_id=node_id, name=name, status="online")


def empty_run(run_id: int) -> Run:
    """Return a run as a Grid wants it, without an app."""
    from flwr.supercore.run import Run

    return Run.create_empty(run_id)


# A hospital's process for one message.


def client_runtime() -> ModuleType:
    """Import the module in which Flower answers one message.

    Raises:
        RelayError: another version of Flower is installed, or a name that has to be replaced is not there.
    """
    return private_module(CLIENT_RUNTIME, *REPLACED_IN_CLIENT_RUNTIME, "run_clientapp")


def confine(runtime: ModuleType, installed_app: Callable[[], Callable[[Message, Context], Message]]) -> None:
    """Close the ways to foreign code in the module of `client_runtime`.

    Args:
        runtime: nothing that was sent is unpacked or loaded by it from now on.
        installed_app: makes the app that answers instead.
    """
    replaced: dict[str, Callable[..., object]] = {
        "install_from_fab": lambda *_, **__: None,
        "get_project_dir": lambda *_, **__: Path(os.devnull),
        "get_load_client_app_fn": lambda *_, **__: lambda *_, **__: installed_app(),
    }
    for name in REPLACED_IN_CLIENT_RUNTIME:
        setattr(runtime, name, replaced[name])


def answer_message(runtime: ModuleType, *, address: str, token: str) -> None:
    """Answer one message of a SuperNode on this machine, with the module of `client_runtime`.

    Args:
        runtime: the confined module.
        address: HOST:PORT of the SuperNode's Runtime API.
        token: the claim on the message.
    """
    runtime.run_clientapp(
        runtime_api_address=address,
        token=token,
        insecure=True,  # the SuperNode and this process talk on the loopback interface of one machine
        certificates=None,
        runtime_dependency_install=False,
    )


def app_not_loadable() -> Exception:
    """Return the error that Flower answers with a fixed text, where it would send the text of any other."""
    from flwr.clientapp.client_app import LoadClientAppError

    return LoadClientAppError()


# The claim on a message.


def check_claims() -> None:
    """Look for all that `send_heartbeat` and `report_failure` need.

    Raises:
        RelayError: another version of Flower is installed, or a name is not there.
    """
    for module, names in USED_FOR_CLAIMS.items():
        private_module(module, *names)


def send_heartbeat(address: str, token: str, *, timeout: float) -> bool:
    """Send one heartbeat for the claim that a token stands for; returns whether the SuperNode accepted it.

    Args:
        address: HOST:PORT of the SuperNode's Runtime API.
        token: the claim.
        timeout: seconds.

    Raises:
        Exception: no answer, or an error as the answer; then it has a `response` with a `status_code`.
    """
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

    with _runtime_client(address, token, timeout) as client:
        return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)


def report_failure(address: str, token: str, details: str, *, timeout: float) -> None:
    """End the claim that a token stands for: its process failed. Arguments and errors as of `send_heartbeat`."""
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest

    with _runtime_client(address, token, timeout) as client:
        client.PushTaskOutput(PushTaskOutputRequest(sub_status="failed", details=details))


def _runtime_client(address: str, token: str, timeout: float) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    return RuntimeHttpClient(
        f"http://{address}",
        interceptors=[RuntimeVersionHttpInterceptor("SuperExec"), RuntimeTokenHttpInterceptor(token)],
        verify=False,  # no TLS on the loopback interface
        timeout=timeout,
    )


# Flower's programs, with parts of relay's own in them.


def run_superexec(*, launch: Callable[[Any], str], reconcile: Callable[[], None], close: Callable[[], None]) -> None:
    """Run `flower-superexec`, with its arguments from the command line and another way to start processes.

    Args:
        launch: starts a process for a task, which has `task_type`, `task_id`, `runtime_api_address` and `token`;
            returns why that failed, or nothing. A task that failed comes again after a minute.
        reconcile: called every fraction of a second.
        close: called at the end.

    Raises:
        RelayError: another version of Flower is installed, or a name that has to be replaced is not there.
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
    """Run `flower-supernode`, with its arguments from the command line and another `time.sleep` between its looks.

    Raises:
        RelayError: another version of Flower is installed, or a name that has to be replaced is not there.
    """
    module = private_module(SUPERNODE, "time", "_pull_and_store_message", "_push_messages")
    module.time = SimpleNamespace(sleep=sleep)  # type: ignore[attr-defined]
    from flwr.supernode.cli import flower_supernode

    flower_supernode()


def run_superlink() -> None:
    """Run `flower-superlink`, with its arguments from the command line.

    Raises:
        RelayError: another version of Flower is installed.
    """
    check_version()
    from flwr.superlink.cli import flower_superlink

    flower_superlink()
