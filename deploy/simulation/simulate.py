"""Run a study on hospitals whose files all lie on this machine and belong to a single person."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from client.data import layouts
from client.data.splits import split
from client.governance.simulation_mode import simulation_mode
from client.site_config import SiteConfig, load_site
from common.config.study import Study
from common.config.values import POOLED
from common.errors import RelayError
from common.text import listed

if TYPE_CHECKING:
    from server.progress.events import Observer

SITE_NAMED = re.compile(r"\bsite (\w[\w-]*):")
WORTH_SHOWING = re.compile(r" ERROR (.*)")


def site_files(given: Sequence[str]) -> dict[str, Path]:
    """Read the values of --site, each "NAME=PATH".

    Args:
        given: the values.

    Returns:
        Site name to the path of the site's file.

    Raises:
        RelayError: a value has another form, or a name is given twice.
    """
    sites: dict[str, Path] = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            raise RelayError(f'--site wants NAME=PATH, such as A=site-a.toml, and got "{entry}".')
        if name in sites:
            raise RelayError(f"--site names {name} twice ({sites[name]} and {path}); give each site one file.")
        sites[name] = Path(path)
    return sites


def simulate(
    study: Study,
    files: Mapping[str, Path],
    folder: Path,
    *,
    beside: Path,
    at_once: int | None = None,
    keep_weights: bool = False,
    quiet: bool = False,
    observe: Observer | None = None,
) -> None:
    """Run a study, or its missing rest, on sites of this machine, and write the results to `folder`.

    Everything checkable without reading an image is checked before anything starts.

    Args:
        study: the study.
        files: the site file of each of the study's sites.
        folder: the result folder.
        beside: the folder from which a file of encoder weights is taken.
        at_once: the number of stages run at the same time; by default as many as the cores allow, and no more than
            there are sites.
        keep_weights: also keep weights needed by no row of the comparison.
        quiet: write nothing to standard output.
        observe: is called with every event, in place of the display of progress.

    Raises:
        Unfinished: a part of the study could not be finished; the results say which.
        RelayError: the study cannot begin, or had to stop; finished stages are kept.
    """
    sites = _checked(study, files)
    paths = {name: files[name].absolute() for name in study.sites}
    if study.methods.pooled:
        paths[POOLED] = _pooled_file(list(paths.values()), sites, folder)
        sites[POOLED] = load_site(paths[POOLED])
    if at_once is None:
        at_once = max(1, cores() // study.training.threads)
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    logging.getLogger("flwr").setLevel(logging.WARNING)
    from deploy.simulation.local_grid import LocalGrid

    # The grid comes first: its fork server and this process import torch at the same time, which takes seconds.
    with ExitStack() as held, LocalGrid(paths, at_once=min(at_once, len(sites)), spawn=_on_cuda(study, sites)) as grid:
        from client.governance.approval import approve
        from client.governance.site_lock import shared_lock
        from deploy.simulation.live import watching
        from server.study_run import run_study

        # In simulation mode an approval counts for the grid's workers alone, and for no coordinator.
        held.enter_context(simulation_mode())
        for site in sites.values():
            held.enter_context(shared_lock(site))
            approve(site, study)
        logs = {name: _size(site.folder / "site.log") for name, site in sites.items()}
        display = nullcontext(observe) if observe else watching(list(sites), folds=len(study.split.run), quiet=quiet)
        with display as observer:
            try:
                run_study(grid, study, folder, beside=beside, observe=observer, keep_weights=keep_weights)
            except RelayError as error:
                raise type(error)(f"{error}{_last_log_lines(str(error), sites, logs)}") from error


def _checked(study: Study, files: Mapping[str, Path]) -> dict[str, SiteConfig]:
    """Return the settings of the study's sites, in the study's order, after all checks possible without an image."""
    if POOLED in files and study.methods.pooled:
        raise RelayError(f'The site "{POOLED}" is made of the others; leave out --site {POOLED}=….')
    for name in files:
        if name not in study.sites:
            raise RelayError(
                f"--site names {name}, which is not among the study's sites ({', '.join(study.sites)});"
                " correct the name, or the study's sites."
            )
    missing = [name for name in study.sites if name not in files]
    if missing:
        raise RelayError(
            f"The study is about the sites {', '.join(study.sites)}, and no file is given for"
            f" {listed(missing)}; add {' '.join(f'--site {name}=PATH' for name in missing)}."
        )
    sites = {name: load_site(files[name]) for name in study.sites}
    owners: dict[Path, str] = {}
    for name, site in sites.items():
        if site.name != name:
            raise RelayError(
                f'--site {name}={files[name]} is the file of a site named "{site.name}";'
                " give the right file, or correct the name in it."
            )
        owner = owners.setdefault(site.folder, name)
        if owner != name:
            raise RelayError(f'Sites {owner} and {name} have the same private "folder", {site.folder}; give each one.')
    for site in sites.values():
        _check_patients(site, study)
    return sites


def _check_patients(site: SiteConfig, study: Study) -> None:
    """Check a site for enough usable patients, as far as file names and headers tell.

    Raises:
        RelayError: a patient cannot be used and the site file asks to stop, or a split would be too small.
    """
    found = layouts.find(site)
    if found.problems and (site.bad_patients == "stop" or not found.sources):
        first = found.problems[0]
        why = 'stops at a bad patient, as bad_patients = "stop" asks for' if found.sources else "has no usable patient"
        raise RelayError(f"Site {site.name} {why}; patient {first.patient}: {first.sentence}")
    persons = {source.patient: source.person for source in found.sources}
    split(persons, study.variants[0].split, site=site.name, persons=persons)


def _pooled_file(members: Sequence[Path], sites: Mapping[str, SiteConfig], folder: Path) -> Path:
    """Write the pooled site's file, and return the file's path; the site's private folder lies beside the file."""
    import tomli_w

    devices = {site.device for site in sites.values()}
    content = {
        "name": POOLED,
        "members": [str(path) for path in members],
        "folder": "private",
        "device": devices.pop() if len(devices) == 1 else "auto",
    }
    path = folder / POOLED / "site.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
    except OSError as error:
        raise RelayError(
            f"The result folder {folder} cannot be written ({error.strerror}); give another one with --out."
        ) from None
    return path.absolute()


def cores() -> int:
    """Return the number of cores usable by this process, in many a container fewer than the machine's cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_cuda(study: Study, sites: Mapping[str, SiteConfig]) -> bool:
    """Return whether a site works on CUDA, which needs spawned processes."""
    if all(site.device in ("cpu", "mps") for site in sites.values()):
        return False
    from client.training.device import choose_device

    return any(choose_device(site.device, study.training.precision).kind == "cuda" for site in sites.values())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _last_log_lines(sentence: str, sites: Mapping[str, SiteConfig], logs: Mapping[str, int]) -> str:
    """Return the last errors logged since the run began by the sites named in a sentence.

    A real coordinator never learns a site's errors. In a simulation the same person owns all sites, and may read the
    errors at once.
    """
    found = []
    for name in dict.fromkeys(SITE_NAMED.findall(sentence)):
        if name in sites and (line := _last_error(sites[name].folder / "site.log", logs[name])):
            found.append(f" Site {name}'s own log ends with: {line}")
    return "".join(found)


def _last_error(log: Path, since: int) -> str:
    """Return the last error of a log after byte `since`; of a traceback the last line, which names the cause."""
    try:
        lines = log.read_bytes()[since:].decode(errors="replace").splitlines()
    except OSError:
        return ""
    errors = [number for number, line in enumerate(lines) if WORTH_SHOWING.search(line)]
    if not errors:
        return ""
    last = errors[-1]
    found = WORTH_SHOWING.search(lines[last])
    text = found[1] if found else ""
    return f"{text} {lines[-1]}" if last + 1 < len(lines) and lines[last + 1].startswith("Traceback") else text
