"""The gateway starts on a machine without IPv6, whatever the machine that enrolled has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploy.coordinator import enroll
from deploy.coordinator.folder import Coordinator
from tests.support.hospitals import REPO

NGINX = """#!/bin/sh
# Refuses what nginx refuses on such a machine, and shows the rest instead of serving.
for word; do case $before in -c) settings=$word;; esac; before=$word; done
if grep -q "\\[::\\]" "$settings"; then exit 1; fi
cd "$(dirname "$settings")"
for name in server.crt server.key clients-ca.crt server-ca.crt crl.pem; do test -r $name || exit 1; done
[ "$before" = -q ] || cat "$settings"
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net").exists(), reason="this machine's IPv6 is not told by /proc")
def test_without_ipv6_nginx_gets_all_but_the_line_for_it(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path / "coordinator")
    enroll.set_up(coordinator, host="::1", port=8443, superlink="127.0.0.1:8000")
    written = (coordinator.gateway / "nginx.conf").read_text(encoding="utf-8")
    (line,) = [line for line in written.splitlines(keepends=True) if "listen [::]:8443" in line]
    nginx = tmp_path / "bin" / "nginx"
    nginx.parent.mkdir()
    nginx.write_text(NGINX, encoding="utf-8")
    nginx.chmod(0o755)
    run = (REPO / "deploy" / "docker" / "gateway" / "run").read_text(encoding="utf-8")
    assert run.count("/proc/net/if_inet6") == 1
    (tmp_path / "run").write_text(run.replace("/proc/net/if_inet6", "/proc/net/none"), encoding="utf-8")
    shown = subprocess.run(
        ["sh", str(tmp_path / "run"), str(coordinator.gateway)],
        env={**os.environ, "PATH": f"{nginx.parent}:{os.environ['PATH']}"},
        capture_output=True,
        encoding="utf-8",
        timeout=30,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == written.replace(line, "")
