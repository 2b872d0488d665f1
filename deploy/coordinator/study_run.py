"""Run a study on enrolled hospitals: `relay study run`.

`server.app` runs the study in Flower's ServerApp at the coordinator. This module submits the run, prints the run's
progress, and submits a new run if the ServerApp's process dies; Flower itself never restarts a run. A second run does
no finished stage again, because the ledger records every finished stage. If the process of this module dies, the study
goes on, and the same command follows the study again. Several terminals may follow one run; a result folder has one
study and at most one run at a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from common.config.study import Study, load_study
from common.errors import GO_ON, NotEnrolled, RelayError, Unreachable
from common.files import write_atomically
from common.fingerprint import format_fingerprint
from common.locks import exclusive
from deploy.coordinator.courier import begin
from deploy.coordinator.enroll import records
from deploy.coordinator.folder import Coordinator
from deploy.flower.control import Control
from deploy.room import check_room

Answer = TypeVar("Answer")

LOG = "study.log"
"""The file of the result folder in which `server.app` writes the progress of its run."""
RUN = "run-id"
"""The file of the result folder with the number of the run submitted last, and the digest of its study."""
TURN = ".run-id.lock"
"""The file of the result folder by whose lock a single terminal at a time looks for a run and submits one."""

LOOK_EVERY = 1.0
"""Seconds between two looks at the log."""
ASK_EVERY = 10.0
"""Seconds between two questions to the SuperLink whether the run is still alive."""
ENDS_WITHIN = 120.0
"""Seconds within which a study that is stopped has to end."""
STOPPED = "finished:stopped"
"""Flower's status of a run that was stopped."""
ABSENT = 900.0
"""Seconds for which the SuperLink may be away."""
STILL_HELD = "Another study is writing to"
"""The beginning of a run's error where the result folder is locked. A run submitted after a death meets this error
while the process taken for dead by Flower lives on for a moment and holds the lock."""
DEATHS = 5
"""Deaths of the ServerApp's process in a row, without a finished stage between them, after which the command fails."""


def run(
    path: Path,
    coordinator: Coordinator,
    out: Path,
    *,
    patience: float,
    couriers: Sequence[str] = (),
    notify: Callable[[str], None],
) -> None:
    """Run a study, or its missing rest, on the enrolled hospitals, and write the results to `out`.

    Args:
        path: the study file.
        coordinator: the coordinator's folder.
        out: the result folder, under the same path for this process and for the SuperExec.
        patience: seconds to wait for hospitals before the study has begun; afterwards the study's own setting counts.
        couriers: the hospitals without a network; those of an earlier start stay.
        notify: gets each line of progress.

    Raises:
        RelayError: the study cannot begin, or a part of the study could not be finished; finished stages are kept.
    """
    study = load_study(path)
    _check(study, coordinator, out)
    _refuse_folder_of_another(study, out)
    if strangers := [name for name in couriers if name not in study.sites]:
        raise RelayError(f"--courier {strangers[0]} is no site of the study; its sites are {', '.join(study.sites)}.")
    notify(
        f'Study "{study.name}", hash {format_fingerprint(study.digest)}: every hospital has to have approved'
        " the one of this hash."
    )
    control = coordinator.control()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / LOG).touch()
        begin(out, couriers)
    except OSError as error:
        raise RelayError(f"The result folder {out} cannot be written ({error.strerror}).") from None
    deaths, finished = 0, _finished(out)
    disks = (out, coordinator.folder)
    while True:
        check_room(disks)
        with exclusive(out / TURN):
            run_id = _still_running(control, out, study, notify)
            if run_id:
                notify(f"Run {run_id} of this study is under way; following it.")
            else:
                run_id = _submit(control, path, study, out, patience, notify)
        verdict = _follow(control, run_id, out, notify, disks)
        if verdict is None:
            _forget_run(out, run_id)
            return
        if verdict and not (deaths and verdict.startswith(STILL_HELD)):
            _forget_run(out, run_id)
            raise RelayError(verdict)
        deaths = 1 if _finished(out) > finished else deaths + 1
        finished = _finished(out)
        if deaths == DEATHS:
            raise RelayError(
                f"The coordinator's program died {DEATHS} times without finishing a stage; its logs lie in"
                f" {coordinator.superexec}. What is finished is kept in {out}; {GO_ON}."
            )
        notify("The coordinator's program died; the study is submitted again and goes on from what is finished.")
        time.sleep(min(60.0, 2.0**deaths))


def stop(coordinator: Coordinator, out: Path, notify: Callable[[str], None]) -> None:
    """Stop the run of a study; what is finished is kept, and `relay study run` goes on from it.

    Args:
        coordinator: the coordinator's folder.
        out: the result folder.
        notify: gets a sentence if the SuperLink has to be waited for.

    Raises:
        RelayError: no run is under way in the folder, or it did not end.
    """
    control = coordinator.control()
    run_id, _ = _noted_run(out)
    if not run_id or _patiently(lambda: _status(control, run_id), notify).startswith("finished"):
        raise RelayError(f"No study is under way in {out}; nothing was stopped.")
    try:
        control.ask("stop", run_id)
    except RelayError as error:
        if "already finished" not in str(error):
            raise
        raise RelayError(f"The study in {out} has just ended by itself; nothing was stopped.") from None
    until = time.monotonic() + ENDS_WITHIN
    # The study's own process ends when the SuperLink refuses its next question; it holds the ledger until then.
    while not _patiently(lambda: _status(control, run_id), notify).startswith("finished") or _is_held(out):
        if time.monotonic() > until:
            raise RelayError(
                f"Run {run_id} was told to stop, and has not ended in {ENDS_WITHIN:.0f} s; see {out / LOG}."
            )
        time.sleep(LOOK_EVERY)
    _forget_run(out, run_id)


def _is_held(out: Path) -> bool:
    """Return whether a process writes to the result folder's ledger."""
    from server.ledger.ledger import LOCK  # imported here because the module imports numpy

    try:
        with exclusive(out / LOCK, wait=False):
            return False
    except BlockingIOError:
        return True


def _refuse_folder_of_another(study: Study, out: Path) -> None:
    """Refuse a result folder that holds another study, before anything of that study is followed.

    Raises:
        RelayError: the folder's study has another digest.
    """
    try:
        kept = load_study(out / "study.toml")
    except RelayError:  # there is none yet, or it is damaged, which the run itself repairs
        return
    if kept.digest != study.digest:
        raise RelayError(
            f'{out} holds the results of another study, "{kept.name}" with the hash'
            f" {format_fingerprint(kept.digest)}; give another folder with --out."
        )


def _check(study: Study, coordinator: Coordinator, out: Path) -> None:
    """Refuse a study with pooled data or with a site not enrolled, before a run is submitted.

    Raises:
        RelayError: the study asks for pooled data.
        NotEnrolled: no coordinator is set up, or a site was never enrolled, or was revoked before the study began.
    """
    if study.methods.pooled:
        unions = ", and leave out pooled_subsets" if study.methods.pooled_subsets else ""
        raise RelayError(
            'The study asks for all data in one place ("pooled"), which hospitals that are apart do not have; set'
            f" pooled = false under [methods]{unions}."
        )
    coordinator.settings()  # raises where no coordinator is set up: the sentence about missing sites would mislead
    enrolled = {record.site: record for record in records(coordinator)}
    missing = [site for site in study.sites if site not in enrolled]
    if missing:
        known = ", ".join(sorted(enrolled)) or "none"
        raise NotEnrolled(
            f"Not all sites of the study are enrolled (missing: {', '.join(missing)}; enrolled: {known}); for each"
            f" missing one: relay enroll site {missing[0]} {missing[0]}.request."
        )
    for site in study.sites:
        if enrolled[site].revoked and site not in _took_part(study, out):
            raise NotEnrolled(f"Site {site} of the study was revoked on {enrolled[site].revoked[:10]}; leave it out.")


def _took_part(study: Study, out: Path) -> frozenset[str]:
    """Return the sites with a stored description for every variant; the study may go on without such sites."""
    from server.descriptions import kept_in, known_of  # imported here because the module imports Flower

    return known_of(kept_in(out, variant) for variant in study.variants)


def _submit(
    control: Control, path: Path, study: Study, out: Path, patience: float, notify: Callable[[str], None]
) -> str:
    settings = {"study": str(path.absolute()), "out": str(out.absolute()), "patience": float(patience)}
    for value in settings.values():
        if isinstance(value, str) and ('"' in value or "\\" in value or "'" in value):
            raise RelayError(f"Flower cannot be given the path {value}; use one without quotes and backslashes.")
    written = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in settings.items())
    with TemporaryDirectory(prefix="relay-bundle-") as folder:
        bundle = resources.files("deploy").joinpath("flower/bundle/pyproject.toml").read_text(encoding="utf-8")
        (Path(folder) / "pyproject.toml").write_text(bundle, encoding="utf-8")
        answer = _patiently(lambda: control.ask("run", folder, "--run-config", written), notify)
    run_id = str(answer["run-id"])
    write_atomically(out / RUN, f"{run_id} {study.digest}\n".encode(), durable=True)
    notify(f"Submitted as run {run_id}.")
    return run_id


def _follow(
    control: Control, run_id: str, out: Path, notify: Callable[[str], None], disks: Sequence[Path]
) -> str | None:
    """Pass on the lines of the run's log until the run ends.

    Returns:
        None if the whole study was done; otherwise the run's error sentence, or an empty text if the process died
        without an error sentence.

    Raises:
        DiskFull: one of the disks is full, on which the run's own last line would lie.
    """
    lines, last_look, status = _lines(out / LOG, run_id), time.monotonic(), ""
    while True:
        for level, text in lines:
            if level is None:
                break
            if level == "ERROR":
                return text
            if text == "Done.":
                return None
            notify(text)
        if status == STOPPED:
            return f"Run {run_id} was stopped by relay study stop; what is finished is kept, and {GO_ON}."
        if status.startswith("finished"):
            return ""
        if time.monotonic() - last_look > ASK_EVERY:
            check_room(disks)
            # The loop is not left at once: the run's last lines may have come after the log was read.
            status = _patiently(lambda: _status(control, run_id), notify)
            last_look = time.monotonic()
        time.sleep(LOOK_EVERY)


def _lines(path: Path, run_id: str) -> Iterator[tuple[str | None, str]]:
    """Yield level and text of each line written by the run into the log.

    Yields:
        The level and the text of a line, or (None, "") whenever the log has no further line yet.
    """
    rest = b""
    with path.open("rb") as file:
        while True:
            data = file.readline()
            if not data.endswith(b"\n"):
                rest += data
                yield None, ""
                continue
            words = (rest + data).decode(errors="replace").strip().split(" ", 4)
            rest = b""
            # Other lines are another run's, or later lines of a text with line ends.
            if len(words) == 5 and words[2] in ("INFO", "WARNING", "ERROR") and words[3] == run_id:
                yield words[2], words[4]


def _status(control: Control, run_id: str) -> str:
    """Return Flower's status of a run, such as "running" or "finished:failed"."""
    try:
        runs = control.ask("list", "--run-id", run_id)["runs"]
    except RelayError as error:
        if "not found" in str(error):
            return "finished:unknown"  # a SuperLink with a fresh database does not know the run
        # Any other error of the SuperLink says nothing about the run, and is treated like silence.
        raise Unreachable(str(error)) from None
    return str(runs[0]["status"])


def _still_running(control: Control, out: Path, study: Study, notify: Callable[[str], None]) -> str:
    """Return the run submitted by an earlier call for this result folder; empty unless the run is still alive.

    Raises:
        RelayError: the run that is alive is another study's.
    """
    run_id, digest = _noted_run(out)
    if not run_id or _patiently(lambda: _status(control, run_id), notify).startswith("finished"):
        return ""
    if digest not in ("", study.digest):
        raise RelayError(
            f"Run {run_id} of another study, with the hash {format_fingerprint(digest)}, is under way in {out}; give"
            " another folder with --out, or stop that study first: relay study stop."
        )
    return run_id


def _noted_run(out: Path) -> tuple[str, str]:
    """Return the number of the run submitted last and its study's digest; empty texts where they are not known."""
    with suppress(FileNotFoundError, ValueError):
        run_id, _, digest = (out / RUN).read_text(encoding="ascii").strip().partition(" ")
        if run_id.isdigit():
            return run_id, digest
    return "", ""


def _forget_run(out: Path, run_id: str) -> None:
    """Remove the note of a run that has ended, unless another terminal has submitted the next run since."""
    with exclusive(out / TURN):
        if _noted_run(out)[0] == run_id:
            (out / RUN).unlink(missing_ok=True)


def _patiently(ask: Callable[[], Answer], notify: Callable[[str], None]) -> Answer:
    """Ask the SuperLink, and repeat the question for up to `ABSENT` seconds until an answer comes."""
    warned, until = False, time.monotonic() + ABSENT
    while True:
        try:
            return ask()
        except Unreachable as error:
            if time.monotonic() > until:
                raise
            if not warned:
                notify(f"{error} Waiting for it.")
            warned = True
            time.sleep(5.0)


def _finished(out: Path) -> int:
    return sum(1 for _ in (out / "ledger").glob("*.json"))
