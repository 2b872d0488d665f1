"""Flower's SuperExec of a hospital, which starts this package's launcher and nothing else.

Flower's own looks up a command for each kind of task in PATH, and the coordinator names the kind. Here a message
for the client app starts `deploy.site.launcher` with the very Python that runs this; every other kind is taken and
refused, so that Flower answers it with an error instead of waiting for it for ever.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from common.errors import RelayError
from deploy.site.launcher import flower_module

EXECUTOR = "flwr.supercore.superexec.executor.subprocess_executor"


def main() -> None:
    """Takes the arguments of `flower-superexec`."""
    executor = flower_module(EXECUTOR, ("SubprocessExecutor", "LaunchResult"))
    if not hasattr(executor.SubprocessExecutor, "launch"):
        raise RelayError("Flower's SubprocessExecutor has no launch; install the pinned versions.")
    result = executor.LaunchResult

    def launch(self: object, spec: Any) -> Any:
        if spec.task_type != "flwr-clientapp" or not spec.insecure:
            print(f"Refused: the coordinator asked for a task of the kind {spec.task_type}.", file=sys.stderr)
            return result.failed("this site runs its own app and nothing else")
        subprocess.Popen(launcher_command(spec.runtime_api_address, spec.token, spec.parent_pid))
        return result.accepted()

    executor.SubprocessExecutor.launch = launch
    from flwr.supercore.cli import flower_superexec

    flower_superexec()


def launcher_command(address: str, token: str, parent: int | None) -> list[str]:
    """The command of a launcher: isolated (-I), so that neither the working folder nor PYTHONPATH gives it code."""
    command = [sys.executable, "-I", "-m", "deploy.site.launcher"]
    command += ["--runtime-api-address", address, "--token", token, "--insecure"]
    return [*command, "--parent-pid", str(parent)] if parent is not None else command


if __name__ == "__main__":
    try:
        main()
    except RelayError as error:
        sys.exit(str(error))
