"""A night of twelve hours, with a line that drops every ten minutes, ends with the results of an undisturbed one.

The night is told in a minute: the times for which the coordinator waits before it takes an order or an answer for lost
are sixty times shorter, and the drops come a hundred and twenty times as often.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.end_to_end.test_deployed import Bench, bench, ended, federation
from tests.support.connect_proxy import connect_proxy
from tests.support.edited_relay import QUICKER, edited_relay
from tests.support.federation import Federation

pytestmark = pytest.mark.nightly

__all__ = ["bench", "federation"]

EVERY = 5.0
"""Seconds between two drops."""


def test_a_line_that_drops_all_night(bench: Bench, federation: Federation, tmp_path: Path) -> None:
    """Both hospitals go through a proxy, which forgets all its connections again and again."""
    kept = {name: path.read_text(encoding="utf-8") for name, path in bench.sites.items()}
    federation.pythons |= dict.fromkeys(("superlink", "superexec"), edited_relay(tmp_path / "quicker", edits=QUICKER))
    out = tmp_path / "out"
    with connect_proxy(cut_every=EVERY) as proxy:
        try:
            for name, path in bench.sites.items():
                path.write_text(f'{kept[name]}proxy = "http://127.0.0.1:{proxy.port}"\n', encoding="utf-8")
            federation.start("superlink", "superexec", "A", "B")
            code, _, errors = ended(federation, federation.study(str(bench.study), "--out", str(out)), seconds=200)
            assert code == 0, errors + federation.told()
            for name in bench.sites:
                federation.kill(name, signal.SIGTERM)
        finally:
            for name, path in bench.sites.items():
                path.write_text(kept[name], encoding="utf-8")
        assert proxy.cuts >= 5 and len(proxy.asked) > 10
    assert "through the proxy" in federation.said("A")
    bench.assert_equal(out)
