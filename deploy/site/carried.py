"""Answer an order in a process that the hospital's own command starts, such as a scheduler's: `launch` in site.toml.

Where the graphics card is behind a scheduler, the site's programs run on a login node and stay connected, and each
order is answered by a job. The order and its answer pass as files in the site's private folder, which both machines
see. The process that waits touches the order every few seconds, and a job ends once nobody touches its order any more:
no job outlives the site's programs for long, on whichever machine it runs.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from client.governance.simulation_mode import SIMULATION
from client.site_config import SiteConfig, load_site
from client.site_log import open_site_log
from common.errors import RelayError
from common.files import write_atomically
from common.protocol.refusals import Refusal, refusal_error
from deploy.flower import internals
from deploy.flower.supervisor import LINUX, end_with_parent

FOLDER, ORDER, ANSWER, SETTINGS = "carried", "order", "answer", "settings.json"
"""The folder of the order that is being answered, in the private folder, and its files."""
TOUCH = 5.0
"""Seconds between two touches of an order that is waited for."""
LAPSE = 180.0
"""Seconds without a touch after which a job ends; file systems over a network show a touch up to a minute later."""
PASSED = ("RELAY_SITE", "RELAY_SITE_LOG", SIMULATION)
"""The environment variables that the job needs: a scheduler may pass none."""

log = logging.getLogger("relay.site")


def site_with_command() -> SiteConfig | None:
    """Return this process's site if its file names a command for each order.

    Returns:
        The site; None without such a command, or without a readable file, whose error the app reports.
    """
    try:
        site = load_site(Path(os.environ.get("RELAY_SITE", "")))
    except (RelayError, OSError):
        return None
    return site if site.launch else None


def answer_by_command(site: SiteConfig, message: Message) -> Message:
    """Have an order answered by the site's command, and return the answer.

    Args:
        site: the site; its `launch` is the beginning of the command.
        message: the order.

    Returns:
        The answer; the refusal "failed" where the command left none, with the reason in the site's log. Nothing is
        raised: Flower would send an error's text to the coordinator.
    """
    try:
        open_site_log(site.private() / "site.log")
        return _answer(site, message)
    except OSError as error:
        log.error("An order was not answered: %s cannot be used (%s).", error.filename, error.strerror)
    except RelayError as error:
        log.error("An order was not answered: %s", error)
    except Exception:  # such as an answer that was cut off
        log.exception("An order was not answered.")
    return Message(refusal_error(Refusal.FAILED), reply_to=message)


def _answer(site: SiteConfig, message: Message) -> Message:
    folder = site.private() / FOLDER
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of an order whose process was killed
        folder.mkdir(mode=0o700)
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        write_atomically(folder / SETTINGS, json.dumps(passed).encode(), mode=0o600)
        write_atomically(folder / ORDER, internals.pack(message), mode=0o600)
        failure = _run(command_for(site.launch, folder), folder / ORDER, site.launch)
        if not (folder / ANSWER).exists():
            raise RelayError(f"{failure or f'the command {site.launch} left no answer'}.")
        return internals.unpack((folder / ANSWER).read_bytes())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def command_for(launch: str, folder: Path) -> list[str]:
    """Return the command that answers the order in a folder.

    Args:
        launch: the site's words before it; if the last one is a Python's path, such as one in a container, that Python
            is run, otherwise the one that runs this process.
        folder: the folder of the order.
    """
    words = shlex.split(launch)
    python = [] if Path(words[-1]).name.startswith("python") else [sys.executable]
    return [*words, *python, "-I", "-m", "deploy.site.carried", str(folder)]


def _run(command: list[str], order: Path, launch: str) -> str:
    """Run a command to its end while touching the order, and return why it failed; empty where it did not."""
    parent = os.getpid()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            preexec_fn=(lambda: end_with_parent(signal.SIGTERM, parent)) if LINUX else None,
        )
    except OSError as error:
        return f"{command[0]} cannot be started ({error.strerror}); correct launch in the site file"
    with process:
        while True:
            try:
                code = process.wait(TOUCH)
                return f"the command {launch} ended with {code}" if code else ""
            except subprocess.TimeoutExpired:
                with suppress(OSError):
                    os.utime(order)


def main(folder: Path) -> None:
    """Answer the order in a folder by the installed app, and leave the answer there; runs in the job."""
    threading.Thread(target=_end_without_touch, args=(folder / ORDER,), daemon=True).start()
    os.environ.update(json.loads((folder / SETTINGS).read_bytes()))
    from deploy.site.launcher import app_alone

    message = internals.unpack((folder / ORDER).read_bytes())
    run, node = message.metadata.run_id, message.metadata.dst_node_id
    internals.set_task_identity(run_id=run, node_id=node)
    context = Context(run_id=run, node_id=node, node_config={}, state=RecordDict(), run_config={})
    reply = app_alone()(message, context)
    write_atomically(folder / ANSWER, internals.pack(reply), mode=0o600)


def _end_without_touch(order: Path) -> None:
    """End this process once its order is gone, or nobody has touched it for a while."""
    last, since = 0.0, time.monotonic()
    while True:
        try:
            touched = order.stat().st_mtime
        except FileNotFoundError:
            os._exit(1)
        if touched != last:
            last, since = touched, time.monotonic()
        elif time.monotonic() - since > LAPSE:
            os._exit(1)
        time.sleep(TOUCH)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
