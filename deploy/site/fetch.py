"""Fetch a site's series and labels from its archive: `relay site fetch`."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from urllib.parse import urlsplit

from client.archive.fetch import Fetched, fetch
from client.site_config import load_site
from client.site_log import open_site_log
from common import locks
from common.errors import GO_ON, Locked, RelayError, Unfinished
from common.text import count
from deploy.console import bar


def site_fetch(path: Path, url: str, *, as_json: bool) -> int:
    """Fetch what the site's query matches and what is not there yet, and print counts.

    Args:
        path: the site's file.
        url: the address of the DICOMweb server.
        as_json: print JSON.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: the site has no query, or the archive refuses or does not answer.
        Unfinished: some files could not be fetched.
    """
    site = load_site(path)
    if site.pooled:
        raise RelayError("The pooled site has no archive of its own; fetch for each of its members.")
    open_site_log(site.private() / "site.log")
    log, host = logging.getLogger("relay.site"), urlsplit(url).hostname
    try:
        with (
            locks.exclusive(site.folder / "fetch.lock", wait=False),
            bar(f"Fetching for site {site.name}", unit="files", stream=sys.stderr) as progress,
        ):
            done = fetch(site, url, progress=progress)
    except BlockingIOError:
        raise Locked(f"Another process fetches for site {site.name} already; wait until it has ended.") from None
    except RelayError as error:
        log.error("archive %s: %s", host, error)
        raise
    log.info("archive %s: %s", host, _sentence(done))
    if as_json:
        print(json.dumps(dataclasses.asdict(done), indent=1))
    else:
        print(f"Site {site.name}: {_sentence(done)}\nThey lie in {site.images}; next: relay site check {path}")
    if done.failed:
        raise Unfinished(
            f"{done.failed} of {done.files + done.there + done.failed} files could not be fetched from {host};"
            f" {GO_ON}, the others are kept."
        )
    return 0


def _sentence(done: Fetched) -> str:
    left = f" Left, since they have no label: {done.unlabelled}." if done.unlabelled else ""
    return (
        f"{count(done.files, 'file')} fetched, {done.there} there already; image series {done.series}, label series"
        f" {done.labels}, studies {done.studies}.{left}"
    )
