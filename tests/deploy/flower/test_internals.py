"""Private names of Flower's are used of the one series that was tried, and a name that is gone is noticed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from common.errors import RelayError
from deploy.flower import internals


@pytest.mark.parametrize("version", ["1.40.0", "1.43.0", "2.0.0", "1.410.0"])
@pytest.mark.parametrize(
    "use",
    [
        internals.client_runtime,
        internals.check_claims,
        internals.run_superlink,
        lambda: internals.run_superexec(launch=lambda _: "", reconcile=lambda: None, close=lambda: None),
        lambda: internals.run_supernode(sleep=lambda _: None),
        lambda: internals.set_task_identity(run_id=1, node_id=0),
    ],
)
def test_a_flower_that_it_was_not_tried_with_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str, use: object
) -> None:
    monkeypatch.setattr(internals, "version", lambda _: version)
    internals.check_version.cache_clear()
    with pytest.raises(RelayError, match=f"Flower {version} is installed"):
        use()  # type: ignore[operator]


def test_a_flower_without_the_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "REPLACED_IN_CLIENT_RUNTIME", ("install_from_fab", "install_from_elsewhere"))
    with pytest.raises(RelayError, match="has no install_from_elsewhere"):
        internals.client_runtime()


def test_importing_it_imports_nothing_of_flowers() -> None:
    code = "import sys, deploy.flower.internals; print([name for name in sys.modules if name.startswith('flwr')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert done.stdout.strip() == "[]"
