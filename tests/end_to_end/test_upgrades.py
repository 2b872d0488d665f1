"""Another version of Flower, of torch or of relay at one end, between studies and within one: refused, or carried over.

A hospital that was upgraded is one that is started with another Python, whose relay or whose packages' metadata are
changed in the one place that matters.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from common.protocol.messages import STAGE_VERSION
from deploy.flower.internals import SERIES
from tests.end_to_end.test_deployed import Bench, bench, ended, federation, until_said
from tests.support.edited_relay import edited_relay
from tests.support.federation import Federation, wait_for

pytestmark = pytest.mark.nightly

__all__ = ["bench", "federation"]

MESSAGES = "common/protocol/messages.py"
NEXT = {MESSAGES: (f"STAGE_VERSION = {STAGE_VERSION}\n", f"STAGE_VERSION = {STAGE_VERSION + 1}\n")}
"""What makes a relay another one, for what its stages come to."""
OTHER_TORCH = {"client/stages/describe.py": ("torch=torch.__version__,", 'torch="99.0",')}


def test_another_series_of_flower_is_refused_at_either_end(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    newer = "1.99.0"
    assert not newer.startswith(SERIES)
    python = edited_relay(tmp_path / "newer", versions={"flwr": newer})
    relay = [python, "-m", "deploy.cli"]
    at_site = subprocess.run([*relay, "site", "start", bench.sites["A"]], capture_output=True, encoding="utf-8")
    sentence = f"Flower {newer} is installed and 1.41.x or 1.42.x is wanted; install the pinned versions."
    assert at_site.returncode == 1 and at_site.stderr.strip().endswith(sentence)
    federation.pythons["superlink"] = python
    federation.start("superlink")
    wait_for(lambda: sentence in federation.said("superlink"), seconds=60, told=federation.told)
    assert "Up" not in federation.said("superlink")


def test_another_relay_is_told_within_a_run_and_before_the_next_begins(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    """Hospital A is upgraded alone after a stage was done; then it is given the old version again."""
    federation.start("superlink", "superexec", "A", "B")
    out = tmp_path / "out"
    run = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "[1/", federation)
    replaced(federation, "A", edited_relay(tmp_path / "newer", edits=NEXT))
    code, _, errors = ended(federation, run)
    assert code == 1 and "another version of torch or of relay" in errors, errors + federation.told()
    code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)))
    assert code == 1
    assert "site A: another version of this program is installed there; install the same on both ends" in errors
    replaced(federation, "A")
    code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)))
    assert code == 0, errors + federation.told()
    bench.assert_equal(out)


def test_another_torch_within_a_study_is_told_and_the_next_run_goes_on_with_it(
    bench: Bench, federation: Federation, tmp_path: Path
) -> None:
    """Stages of before keep their results; those of the upgraded hospital have keys of the new torch."""
    federation.start("superlink", "superexec", "A", "B")
    out = tmp_path / "out"
    run = federation.study(str(bench.study), "--out", str(out))
    until_said(out, "[1/", federation)
    replaced(federation, "A", edited_relay(tmp_path / "newer", edits=OTHER_TORCH))
    code, _, errors = ended(federation, run)
    assert code == 1 and "another version of torch or of relay" in errors, errors + federation.told()
    before = {path.name for path in (out / "ledger").glob("*.json")}
    code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)))
    assert code == 0, errors + federation.told()
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["parked"] == [] and before <= {path.name for path in (out / "ledger").glob("*.json")}
    changed = r"Site A computes with torch 99\.0 on cpu in \w+, and did with torch \S+ on cpu in \w+ before"
    assert re.search(changed, errors), errors


def replaced(federation: Federation, site: str, python: Path | None = None) -> None:
    """Stop a hospital, and start it with another Python, or with the tests' own."""
    federation.kill(site, signal.SIGTERM)
    federation.pythons.pop(site, None)
    if python is not None:
        federation.pythons[site] = python
    (federation.folder / f"{site}.out").unlink()
    federation.start(site)
    federation.wait_until_connected(site)
