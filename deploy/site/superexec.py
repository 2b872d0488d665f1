"""Flower's SuperExec of a hospital, which starts this package's launcher and nothing else.

Flower's own looks up a command for each kind of task in PATH, and the coordinator names the kind. Here every kind
starts `deploy.site.launcher`, with the very Python that runs this: the installed app answers, whatever was asked for.
(A task that is refused instead comes back for ever, and the site, which handles one at a time, handles no other.)
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
        if spec.task_type != "flwr-clientapp":
            print(f"Asked for a task of the kind {spec.task_type}; the installed app answers it.", file=sys.stderr)
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
