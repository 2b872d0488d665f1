"""What a hospital's own page shows and does, all of it by the commands of `relay site`.

Each view runs a command in a process of its own, as a person would at a terminal, and shows what the command answers:
the page can do nothing that the commands cannot, and holds none of the memory that they need. `deploy.site.serve`
brings the page to a browser.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from client.data_check.page import NAME as CONTOURS
from client.delivery.letter import html, letter
from client.delivery.store import Outcome, outcomes
from client.site_config import SiteConfig, load_site
from common.config.study import Study, load_study
from common.errors import RelayError
from common.files import write_atomically
from common.fingerprint import format_fingerprint
from common.text import count, duration, moment, short_bytes, short_digest
from deploy.console import PROGRESS
from deploy.site.running import is_started

SENT = "studies-to-read"
"""The folder, in the private folder, of the studies that a person gave to the page."""
LOG_LINES = 30
"""The last lines of the site's log that are shown."""
LEFT_LINES = 200
"""The last messages that left that are shown."""


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    content: Any
    """The command's JSON; None where it failed before it answered."""
    error: str
    """The sentence with which the command failed; empty where it did what it was asked for."""


@dataclass
class Checking:
    """A check of the data, which runs for seconds or minutes beside the page."""

    process: subprocess.Popen[bytes]
    output: Path
    progress: Path
    began: float
    answer: Answer | None = None
    ended: str = ""


class Page:
    """The views of one hospital's page; a view returns HTML.

    Args:
        path: the site's file, which is read again for each view.
        root: the beginning of the paths of all views, such as "/token/".
        relay: the words by which `relay` is called.
    """

    def __init__(self, path: Path, root: str, relay: Sequence[str]) -> None:
        self._path, self._root, self._relay = path.absolute(), root, (*relay, "site")
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).with_name("page_files")),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "fingerprint": format_fingerprint,
            "moment": moment,
            "short_bytes": short_bytes,
            "short_digest": short_digest,
        }
        self._checking: Checking | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="relay-page-")
        self._one_at_a_time = threading.Lock()

    def close(self) -> None:
        """End a check that is running, and remove what it printed."""
        if self._checking and self._checking.answer is None:
            self._checking.process.terminate()
            self._checking.process.wait()
        self._scratch.cleanup()

    # What is running

    def home(self) -> str:
        """Show whether the hospital's programs run, which trainings are under way, and the end of the site's log."""
        site = self._site()
        return self._view("home.html.j2", site, running=is_started(site), trainings=_trainings(site), log=_log(site))

    # What lies there and what is wrong with it

    def check(self) -> str:
        """Show the last check of the data, or how far it is."""
        site, checking = self._site(), self._checking
        if checking is not None and checking.answer is None and checking.process.poll() is not None:
            content = _json(checking.output.read_bytes())
            error = checking.progress.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            failed = checking.process.returncode != 0
            checking.answer = Answer(content, error[-1] if failed and error else "")
            checking.ended = _now()
        going = checking is not None and checking.answer is None
        return self._view(
            "check.html.j2",
            site,
            refresh=2 if going else 0,
            progress=_last_line(checking.progress) if going and checking else "",
            so_far=duration(time.monotonic() - checking.began) if going and checking else "",
            answer=checking.answer if checking else None,
            ended=checking.ended if checking else "",
            contours=(site.folder / CONTOURS).is_file(),
        )

    def start_check(self) -> None:
        """Begin to check the data, unless a check is running."""
        with self._one_at_a_time:
            if self._checking is not None and self._checking.answer is None:
                return
            output, progress = (Path(self._scratch.name) / name for name in ("output", "progress"))
            with output.open("wb") as out, progress.open("wb") as err:
                process = subprocess.Popen(
                    [*self._relay, "check", str(self._path), "--json"],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env={**os.environ, PROGRESS: "lines"},
                )
            self._checking = Checking(process, output, progress, time.monotonic())

    def contours(self) -> str | None:
        """Return the page with the contours of all patients; None where no check has written it."""
        path = self._site().folder / CONTOURS
        return path.read_text(encoding="utf-8") if path.is_file() else None

    # Studies that ask for approval

    def studies(self, note: str = "") -> str:
        """List the studies that lie beside the site's file or were given to this page, and all that were approved."""
        site = self._site()
        answer = self._run("approve", "--list")
        approved = answer.content if isinstance(answer.content, list) else []
        standing = {record["study"]: record for record in approved if not record["left"]}
        waiting = [study for _, study in self._known(site) if study.digest not in standing]
        return self._view(
            "studies.html.j2", site, waiting=waiting, approved=approved, beside=self._path.parent, note=note,
            error=answer.error,
        )  # fmt: skip

    def add_study(self, content: bytes) -> str:
        """Keep a study file that a person chose, and return the study's digest.

        Raises:
            RelayError: it is no study file.
        """
        path = Path(self._scratch.name) / "study.toml"
        with self._one_at_a_time:
            path.write_bytes(content)
            try:
                study = load_study(path)
            except RelayError as error:
                raise RelayError(str(error).replace(str(path), "you chose")) from None
        folder = self._site().private() / SENT
        folder.mkdir(mode=0o700, exist_ok=True)
        write_atomically(folder / f"{study.digest}.toml", content, mode=0o600)
        return study.digest

    def study(self, digest: str) -> str | None:
        """Show in plain words what a study would run here and what would leave; None where no such study is known."""
        found = self._file_of(digest)
        if found is None:
            return None
        answer = self._run("approve", str(found))
        return self._view("study.html.j2", self._site(), digest=digest, **_shown(answer))

    def approve(self, digest: str) -> str | None:
        """Approve a study, by its whole hash: a file that was changed since it was read is refused."""
        found = self._file_of(digest)
        if found is None:
            return None
        answer = self._run("approve", str(found), "--yes", "--hash", digest)
        if answer.error:
            return self._view("study.html.j2", self._site(), digest=digest, **_shown(answer))
        return self.studies(f"Approved: “{answer.content['study']}”. This hospital answers its orders from now on.")

    def decline(self) -> str:
        """Say that nothing was approved."""
        return self.studies("Not approved; nothing was changed.")

    def leave(self, digest: str) -> str:
        """Leave a study: from now on every order of it is refused."""
        answer = self._run("leave", digest, as_json=False)
        return self.studies(answer.error or str(answer.content))

    # What has left

    def left(self, *, verify: bool) -> str:
        """List what left the hospital, the latest first; with `verify`, say also whether the logs are whole."""
        answer = self._run("audit", *(["--verify"] if verify else []))
        content = answer.content if isinstance(answer.content, dict) else {}
        lines = list(reversed(content.get("lines", [])))
        total = sum(line.get("bytes", 0) for line in lines if isinstance(line.get("bytes", 0), int))
        return self._view(
            "left.html.j2",
            self._site(),
            lines=lines[:LEFT_LINES],
            summary=f"{count(len(lines), 'message')}, {short_bytes(total)} in all" if lines else "",
            further=max(0, len(lines) - LEFT_LINES),
            end=content.get("end", ""),
            verified=verify,
            faults=content.get("faults", []),
            error=answer.error if not content else "",
        )

    # What has arrived

    def arrived(self, note: str = "") -> str:
        """List what studies brought this hospital."""
        site, error, found = self._site(), "", []
        try:
            found = [(outcome.selected.card, letter(outcome)) for outcome in outcomes(site)]
        except RelayError as damaged:
            error = str(damaged)
        return self._view("arrived.html.j2", site, found=found, error=error, note=note)

    def letter(self, digest: str) -> str | None:
        """Return the letter on what a study brought; None where nothing of such a study has arrived."""
        return next((html(letter(one)) for one in self._outcomes() if _digest(one) == digest), None)

    def hand_out(self, digest: str) -> str | None:
        """Write what a study brought into a folder beside the site's file, and say where it lies."""
        outcome = next((one for one in self._outcomes() if _digest(one) == digest), None)
        if outcome is None:
            return None
        name = "".join(letter if letter.isalnum() else "-" for letter in outcome.selected.card.study)
        to = self._path.parent / f"received-{name}-{short_digest(digest)}"
        answer = self._run("receive", "--study", digest, "--to", str(to))
        return self.arrived(answer.error or f"Weights, model cards and letter lie in {to}.")

    def _outcomes(self) -> Iterator[Outcome]:
        return iter(outcomes(self._site()))

    def _site(self) -> SiteConfig:
        return load_site(self._path)

    def _known(self, site: SiteConfig) -> list[tuple[Path, Study]]:
        """Return the studies about this hospital, with their files: beside the site's file, or given to the page."""
        found: dict[str, tuple[Path, Study]] = {}
        for path in sorted([*(site.folder / SENT).glob("*.toml"), *self._path.parent.glob("*.toml")]):
            try:
                study = load_study(path)
            except RelayError:  # such as the site's own file
                continue
            if site.name in study.sites:
                found.setdefault(study.digest, (path, study))
        return sorted(found.values(), key=lambda entry: entry[1].name)

    def _file_of(self, digest: str) -> Path | None:
        return next((path for path, study in self._known(self._site()) if study.digest == digest), None)

    def _run(self, command: str, *args: str, as_json: bool = True) -> Answer:
        """Run `relay site COMMAND SITE.toml ARGS`, and return its answer."""
        done = subprocess.run(
            [*self._relay, command, str(self._path), *args, *(["--json"] if as_json else [])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        error = (errors[-1] if errors else f"The command ended with {done.returncode}.") if done.returncode else ""
        content = _json(done.stdout) if as_json else done.stdout.decode(errors="replace")
        return Answer(content, error)

    def _view(self, template: str, site: SiteConfig, **content: Any) -> str:
        return self._templates.get_template(template).render(
            site=site.name, **{"refresh": 0, "root": self._root, **content}
        )


def _shown(answer: Answer) -> dict[str, Any]:
    content: Mapping[str, Any] = answer.content if isinstance(answer.content, dict) else {}
    return {
        "name": content.get("study", ""),
        "text": "\n".join(content.get("text", ())),
        "changes": content.get("changes", []),
        "approved": content.get("approved", False),
        "error": answer.error,
    }


def _digest(outcome: Outcome) -> str:
    return outcome.selected.card.study_digest


def _trainings(site: SiteConfig) -> list[str]:
    """Return a sentence for each training that was begun and is not finished, as far as it has saved itself."""
    found = sorted(site.private().glob("stages/*/checkpoint.pt"), key=lambda path: -path.stat().st_mtime)
    return [
        f"Stage {short_digest(path.parent.name)}: saved {duration(max(0.0, time.time() - path.stat().st_mtime))} ago."
        for path in found
        if not path.with_name("reply.json").exists()
    ]


def _log(site: SiteConfig) -> str:
    """Return the last lines of the site's log."""
    path = site.private() / "site.log"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LOG_LINES:])


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _json(printed: bytes) -> Any:
    try:
        return json.loads(printed)
    except ValueError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
