"""Call Flower's own programs: find them, set their environment, read their answers.

This module uses only documented commands of Flower, and no private name of Flower's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RelayError, Unreachable

QUIET: Mapping[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "NO_PROXY": "*",
    "no_proxy": "*",
}
"""Environment variables to keep Flower's processes from reaching the internet, from installing packages, and from
dialling each other through the proxy of the machine's HTTPS_PROXY, which reaches none of them."""

CONNECTION = "relay"
"""The name of the connection in the configuration file for `flwr`."""
ANSWER_WITHIN = 60.0
"""Seconds within which `flwr` has to answer."""


def program(name: str) -> str:
    """Return the path of a command installed beside this Python by the package flwr.

    Args:
        name: the command, such as "flwr".

    Raises:
        RelayError: the command is missing.
    """
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        raise RelayError(f"The command {name} is missing in {path.parent}; install the package flwr there again.")
    return str(path)


@dataclass(frozen=True)
class Control:
    """Send commands to the control interface of a SuperLink.

    The interface has no password: everybody with access to the address can command the federation.
    """

    address: str
    """HOST:PORT of the control interface."""
    ca: Path
    """The authority's certificate, with which the SuperLink's certificate is checked."""

    def ask(self, *words: str) -> dict[str, Any]:
        """Run `flwr WORDS` and return its JSON answer.

        Args:
            *words: the subcommand and its arguments.

        Raises:
            Unreachable: the SuperLink does not answer.
            RelayError: the SuperLink refuses the command.
        """
        with tempfile.TemporaryDirectory(prefix="relay-flwr-") as home:
            (Path(home) / "config.toml").write_text(
                f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
                f"address = {json.dumps(self.address)}\nroot-certificates = {json.dumps(str(self.ca.absolute()))}\n",
                encoding="utf-8",
            )
            try:
                done = subprocess.run(
                    [program("flwr"), *words, CONNECTION, "--format", "json"],
                    env={**os.environ, **QUIET, "FLWR_HOME": home},
                    cwd=home,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    timeout=ANSWER_WITHIN,
                )
            except subprocess.TimeoutExpired:
                raise Unreachable(f"The SuperLink at {self.address} does not answer.") from None
        return self._answer(done.stdout, f"{done.stdout}\n{done.stderr}")

    def _answer(self, out: str, error_text: str) -> dict[str, Any]:
        try:
            answer = json.loads(out)
        except ValueError:
            answer = {}
        if isinstance(answer, dict) and answer.get("success"):
            return answer
        reason = str(answer.get("error-message", "")) if isinstance(answer, dict) else ""
        reason = " ".join((reason or error_text).split())
        if any(sign in reason.lower() for sign in ("unavailable", "connect", "timed out", "disconnected", "reset")):
            raise Unreachable(
                f"The SuperLink at {self.address} does not answer; start it on this machine: relay coordinator start."
            )
        raise RelayError(f"The SuperLink at {self.address} refused: {reason[-400:] or 'it gave no reason'}.")


def grpc_health(address: str, *, timeout: float = 5.0) -> bool:
    """Return whether the gRPC health service of a program reports the program as serving.

    Flower's messages go over HTTP; gRPC is used only for the standard health service of Flower's programs.

    Args:
        address: HOST:PORT of the health service.
        timeout: seconds to wait for the report.
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    # gRPC would dial even this machine through the HTTPS_PROXY of the environment.
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
