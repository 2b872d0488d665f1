"""A Python of its own, with another relay, or another version of a package, than the tests' own Python has.

It stands for a machine on which something else was installed: the tests' own packages are found from it, unless it has
another one of the same name.
"""

from __future__ import annotations

import shutil
import site
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

REPO = Path(__file__).parents[2]
GIVEN_UP_SOON = """\
    take_turns()
    from flwr.supercore.corestate import sql_corestate
    assert sql_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS == 180
    sql_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS = 3
"""
QUICKER = {
    "server/transport/site_channel.py": ("QUIET = 120.0\n", "QUIET = 2.0\n"),
    "deploy/flower/superlink.py": ("    take_turns()\n", GIVEN_UP_SOON),
}
"""Edits for a coordinator whose minutes are seconds: until it takes an order for lost (two minutes), and until its
SuperLink gives up an answer of which a part is missing (three)."""
PACKAGES = ("client", "common", "deploy", "server")


def edited_relay(
    folder: Path, *, edits: Mapping[str, tuple[str, str]] | None = None, versions: Mapping[str, str] | None = None
) -> Path:
    """Make one, and return its `python`.

    Args:
        folder: where; made.
        edits: by a file of relay's, a text that stands in it once, and what stands there instead.
        versions: by a package's name, the version that its metadata claim.
    """
    venv.create(folder / "venv", symlinks=True)
    copy = folder / "relay"
    for package in PACKAGES:
        shutil.copytree(REPO / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "wheels"))
    shutil.copy(REPO / "prostate_relay.py", copy)
    for name, (before, after) in (edits or {}).items():
        text = (copy / name).read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{name}: {before}"
        (copy / name).write_text(text.replace(before, after), encoding="utf-8")
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    own = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
    (packages / "zz_own.pth").write_text(
        f"import site, sys; {own}; sys.path.insert(0, {str(copy)!r})\n", encoding="utf-8"
    )
    for name, version in (versions or {}).items():
        claimed = packages / f"{name}-{version}.dist-info"
        claimed.mkdir()
        (claimed / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
        )
    python = folder / "venv" / "bin" / "python"
    for script in Path(sysconfig.get_path("scripts")).glob("fl*w*"):  # flwr, flower-superexec, …
        rest = script.read_text(encoding="utf-8").partition("\n")[2]
        (python.parent / script.name).write_text(f"#!{python}\n{rest}", encoding="utf-8")
        (python.parent / script.name).chmod(0o755)
    return python
