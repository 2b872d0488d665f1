"""Define `relay demo` and `relay simulate`: run a study on hospitals whose files all lie on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.errors import Unfinished
from deploy.cli.commands import command, top_level
from deploy.cli.options import RESULTS, AtOnce, ResultsAsJson
from deploy.cli.results import show_results
from deploy.shipped_studies import shipped_study

app = top_level()

DEMO_PATIENTS = {"A": 6, "B": 6, "C": 6}
"""The number of patients at each site; the volumes of C have twice as many slices as the volumes of A and B."""

STOPPED = "Stopped; every stage that was finished is kept, and the same command goes on from there."


@command(app, "demo", stopped=STOPPED)
def demo(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", parser=Path, help="Default: relay-demo.", rich_help_panel=RESULTS),
    ] = Path("relay-demo"),
    at_once: AtOnce = None,
) -> int:
    """Write three synthetic hospitals and run a small study on them.

    The study's table is printed and its page is written. The demo shows that the software works, not which method is
    better.
    """
    from common.config.study import load_study
    from deploy.console import bar
    from deploy.phantom import write_hospitals
    from deploy.simulation.simulate import simulate as run

    study = load_study(shipped_study(Path("demo")))
    folder = out / "hospitals"
    with bar("Writing the synthetic hospitals", unit="patients") as progress:
        sites = write_hospitals(folder, patients=DEMO_PATIENTS, progress=progress)
    counted = ", ".join(f"{name} with {number}" for name, number in DEMO_PATIENTS.items())
    print(f"Synthetic hospitals: {counted} patients, in {folder}.", flush=True)
    run(study, sites, out, beside=Path(), at_once=at_once)
    return show_results(out)


@command(app, "simulate", stopped=STOPPED)
def simulate(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", parser=Path, help="What is compared, and how.")],
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            metavar="NAME=SITE.toml",
            help="The site file of a hospital; once for each of the study's sites.",
            rich_help_panel="Hospitals",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            parser=Path,
            help="The result folder; default: STUDY-results.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    at_once: AtOnce = None,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights",
            help="Keep the weights of every stage; otherwise those go that no row of the comparison needs any more.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
    as_json: ResultsAsJson = False,
) -> int:
    """Run a study on hospitals whose files all lie on this machine.

    Each hospital is handled by processes of its own. A study that was stopped and is started again goes on where it
    was.
    """
    from common.config.study import load_study
    from deploy.simulation.simulate import simulate as run
    from deploy.simulation.simulate import site_files

    path = shipped_study(study)
    loaded = load_study(path)
    sites = site_files(site or [])
    folder = out or Path(f"{path.stem}-results")
    try:
        run(
            loaded,
            sites,
            folder,
            beside=path.parent,
            at_once=at_once,
            keep_weights=keep_weights,
            quiet=as_json,
        )
    except Unfinished:
        if not as_json:
            show_results(folder)
        raise
    return show_results(folder, as_json=as_json)
