"""Runs the hospital's installed app for one message, in place of Flower's own `flwr-clientapp`.

Flower's command unpacks the bundle that the coordinator sent, and runs the code in it. This one unpacks nothing,
writes nothing and loads `client.app:app` of the installed package, whatever was sent. There is no list of approved
bundles: a list says which foreign code may run, and has to be kept and compared rightly; here none may, and what
the bundle holds, calls itself or hashes to decides nothing. The run's settings come from the coordinator too, and
are taken away before the app sees them. What the app does then, `client/approval.py` limits.

It puts functions of its own in the place of three names in Flower's module, and so looks first whether this is the
Flower that it was tried with.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from common.errors import RelayError

if TYPE_CHECKING:
    from flwr.app import Context, Message

FLOWER = "1.41."
"""The tests attack the launcher with this series of Flower; another one is not trusted unseen."""

GRACE = 10.0
"""Seconds in which Flower may end the process itself."""

RUNTIME = "flwr.supernode.runtime.run_clientapp"
REPLACED = ("install_from_fab", "get_project_dir", "get_load_client_app_fn")


def main(arguments: Sequence[str] | None = None) -> None:
    """What `flower-superexec` starts: the arguments are those of `flwr-clientapp`."""
    taken = argparse.ArgumentParser(prog="relay-launcher", allow_abbrev=False)
    taken.add_argument("--runtime-api-address", required=True)
    taken.add_argument("--token", required=True)
    taken.add_argument("--parent-pid", type=int)
    # The SuperNode and this process talk on the loopback interface of one machine; without encryption, and so
    # the option is always there.
    taken.add_argument("--insecure", action="store_true")
    chosen = taken.parse_args(arguments)
    if chosen.parent_pid is not None:
        threading.Thread(target=end_with, args=(chosen.parent_pid,), daemon=True).start()
    runtime = confined(flower_module(RUNTIME, (*REPLACED, "run_clientapp")))
    runtime.run_clientapp(
        runtime_api_address=chosen.runtime_api_address,
        token=chosen.token,
        insecure=chosen.insecure,
        certificates=None,
        parent_pid=chosen.parent_pid,
        runtime_dependency_install=False,
    )


def end_with(parent: int, *, grace: float = GRACE) -> None:
    """End this process some seconds after its parent is gone; never returns.

    Flower looks at the parent as well, and raises SIGINT in here; but its way out of that may wait for ever, and the
    process with it, weights and images in its memory.
    """
    with suppress(ProcessLookupError):
        while True:
            os.kill(parent, 0)
            time.sleep(1.0)
    time.sleep(grace)
    os._exit(1)


def flower_module(name: str, wanted: Sequence[str]) -> ModuleType:
    """A module of Flower's, if it is the Flower that this was written for.

    Raises:
        RelayError: another version, or a name in it is gone.
    """
    found = version("flwr")
    if not found.startswith(FLOWER):
        raise RelayError(f"Flower {found} is installed and {FLOWER}x is wanted; install the pinned versions.")
    module = importlib.import_module(name)
    missing = [part for part in wanted if not hasattr(module, part)]
    if missing:
        raise RelayError(f"Flower's {name} has no {missing[0]}; install the pinned versions.")
    return module


def confined(runtime: ModuleType) -> ModuleType:
    """Flower's module with its ways to foreign code closed."""
    closed: dict[str, Callable[..., object]] = {
        "install_from_fab": lambda *_, **__: None,
        "get_project_dir": lambda *_, **__: Path(os.devnull),
        "get_load_client_app_fn": lambda *_, **__: lambda *_, **__: installed_app(),
    }
    for name in REPLACED:
        setattr(runtime, name, closed[name])
    return runtime


def installed_app() -> Callable[[Message, Context], Message]:
    """The installed app: without the coordinator's settings, and with no error of its own going out."""
    from flwr.clientapp.client_app import LoadClientAppError

    try:
        from client.app import app
        from client.egress import scrub
    except Exception:
        # Its text could hold a path, and Flower sends texts on; of this error it sends a fixed one.
        import traceback

        traceback.print_exc()
        raise LoadClientAppError from None

    def handle(message: Message, context: Context) -> Message:
        context.run_config = {}
        return scrub(message, context, app)

    return handle


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))
