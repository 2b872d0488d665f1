"""Build what is released, an sdist and a wheel: `python -m deploy.release FOLDER`.

Both are made of what is committed, and of nothing else that lies in the checkout. The same commit gives the same bytes:
every file carries the commit's time, and no file its owner.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"


def build(out: Path, commit: str = "HEAD") -> list[Path]:
    """Write the sdist and the wheel of a commit.

    Args:
        out: a folder; is made. Files of the same names are replaced.
        commit: as git names it.

    Returns:
        The two files.

    Raises:
        subprocess.CalledProcessError: this is no git checkout, or a build failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    time = int(_of_git("log", "-1", "--format=%ct", commit))
    made = []
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        with tarfile.open(fileobj=io.BytesIO(_of_git("archive", commit))) as archive:
            archive.extractall(source, filter="data")
        for kind in ("sdist", "wheel"):
            folder = Path(name) / kind
            folder.mkdir()
            subprocess.run(
                [sys.executable, "-c", BUILD, kind, str(folder)],
                cwd=source,
                # Folders that are the same to everybody who builds, whatever the umask.
                umask=0o022,
                env={**os.environ, "SOURCE_DATE_EPOCH": str(time)},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            (built,) = folder.iterdir()
            content = built.read_bytes()
            (out / built.name).write_bytes(_timed(content, time) if kind == "sdist" else content)
            made.append(out / built.name)
    return made


def _of_git(*words: str) -> bytes:
    # The checkout may be another user's, as where it is mounted into a container; git reads it only if that is said.
    command = ["git", "-c", f"safe.directory={REPO}", *words]
    return subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, check=True).stdout


def _timed(sdist: bytes, time: int) -> bytes:
    """Return an sdist whose members carry one time and no owner; setuptools writes when each was made, and by whom."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(sdist)) as old,
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=time, filename="") as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return packed.getvalue()


if __name__ == "__main__":
    for path in build(Path(sys.argv[1])):
        print(path)
