"""Define `relay site …`: a hospital sets itself up, checks its data, approves, takes part, and receives its results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from common.errors import RelayError
from deploy.cli.commands import command, group
from deploy.cli.options import RESULTS, AsJson, SiteFile, whole_number

app = group("site", "What a hospital does: check its data, join, approve, take part, leave.")

STUDY = "Which study"
SURE = "Making sure"


def _question(text: str) -> Callable[[], str] | None:
    """Return a function for asking a question on the terminal; None where input or output is no terminal."""
    return (lambda: input(text)) if sys.stdin.isatty() and sys.stdout.isatty() else None


@command(app, "check")
def check(
    site: Annotated[
        Path,
        typer.Argument(
            metavar="SITE.toml|FOLDER",
            parser=Path,
            help="The hospital's own settings, or a folder of images alone.",
        ),
    ],
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="FOLDER",
            parser=Path,
            help="With a folder of images: the labels, if kept apart.",
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            metavar="STUDY.toml",
            parser=Path,
            help="Hold the glands against this study's grid, and count slices by its rule.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For a script at the site: patients are named.", rich_help_panel=RESULTS)
    ] = False,
    counts: Annotated[
        Path | None,
        typer.Option(
            "--counts",
            metavar="FILE.json",
            parser=Path,
            help="Write what may be shared: counts, without any name or value.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
) -> int:
    """Read every patient of a site once, and list what is wrong.

    The data that lie there are listed too. Nothing is changed, and nothing is sent.
    """
    from common.config.study import load_study
    from deploy.shipped_studies import shipped_study
    from deploy.site.check import site_check

    grid = load_study(shipped_study(study)).preprocessing if study else None
    return site_check(site, masks=masks, grid=grid, as_json=as_json, counts=counts)


@command(app, "fetch", stopped="Stopped; what was fetched is kept, and the same command goes on.")
def fetch(
    site: SiteFile,
    url: Annotated[
        str,
        typer.Option("--from", metavar="URL", help="The DICOMweb server, such as https://pacs.hospital/dicom-web."),
    ],
    as_json: AsJson = False,
) -> int:
    """Fetch images and labels from the hospital's archive.

    The query is [archive] in the site file. Only what is not there yet is fetched, and the archive is not changed. The
    environment has the token (RELAY_ARCHIVE_TOKEN) and the authority's certificate (RELAY_ARCHIVE_CA), if need be.
    """
    from deploy.site.fetch import site_fetch

    return site_fetch(site, url, as_json=as_json)


@command(app, "init")
def init(
    site: Annotated[
        Path,
        typer.Argument(metavar="SITE.toml", parser=Path, help="The hospital's own settings; written if missing."),
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="The hospital's name in studies.")] = "",
    new_keys: Annotated[
        bool,
        typer.Option(
            "--new-keys",
            help="Set the present keys aside and make new ones: after a revocation, or if somebody may have read them.",
        ),
    ] = False,
) -> int:
    """Make a hospital's settings and keys where there are none.

    The request that goes to the coordinator is written beside the settings.
    """
    from common.fingerprint import format_fingerprint
    from deploy.site.keys import init as make

    settings, request, path = make(site, name=name, new_keys=new_keys)
    print(
        f"Site {settings.name}: settings in {site}, keys in {settings.folder / 'keys'}; the private ones never leave.\n"
        f"Send the coordinator {path}. It holds public keys alone.\n"
        f"Read this fingerprint out when the coordinator calls: {format_fingerprint(request.fingerprint)}"
    )
    return 0


@command(app, "join")
def join(
    site: SiteFile,
    kit: Annotated[Path, typer.Argument(metavar="KIT", parser=Path, help="The file that the coordinator sent.")],
) -> int:
    """Take the kit that the coordinator sent, and check it."""
    from deploy.site.keys import join as take

    settings, taken = take(site, kit)
    print(
        f"Site {settings.name} may dial {taken.host}:{taken.port}; its certificate is for the key made here.\n"
        f"Next: relay site start {site}"
    )
    return 0


@command(app, "approve", stopped="Stopped; nothing was approved.")
def approve(
    site: SiteFile,
    study: Annotated[
        Path | None,
        typer.Argument(metavar="STUDY.toml", parser=Path, help="The study that the coordinator sent."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.", rich_help_panel=SURE)] = False,
    digits: Annotated[
        str,
        typer.Option(
            "--hash",
            metavar="DIGITS",
            help="As the coordinator reads it out over the telephone: approved only if the digits are the study's.",
            rich_help_panel=SURE,
        ),
    ] = "",
    others: Annotated[
        int | None,
        typer.Option(
            "--others",
            metavar="N",
            parser=whole_number(1),
            help="Training slices in a fold that no other site of the study has more of; default: 10000.",
            rich_help_panel=SURE,
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Also a study that is approved already: each of its stages may then be answered once more.",
            rich_help_panel=SURE,
        ),
    ] = False,
    show_list: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Say which studies were approved here, by whom and when.",
            rich_help_panel="Instead of approving",
        ),
    ] = False,
    withdraw: Annotated[
        str,
        typer.Option(
            "--withdraw",
            metavar="HASH",
            help="Take an approval back; the same as relay site leave.",
            rich_help_panel="Instead of approving",
        ),
    ] = "",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="For a script; approves only together with --yes.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
) -> int:
    """Show what a study would run here; approve it, or not.

    The study is shown in plain words, with what of it would leave, what changed since the last approval, and the
    study's hash. A hospital answers no order of a study that it did not approve.
    """
    from client.site_config import load_site
    from common.config.study import load_study
    from deploy.site.approve import LARGEST_ELSEWHERE, approve_study, leave_study, list_approvals

    if (study is not None) + show_list + bool(withdraw) != 1:
        raise RelayError("Name a study to approve, or --list, or --withdraw HASH: one of the three.")
    settings = load_site(site)
    if withdraw:
        return leave_study(settings, withdraw)
    if study is None:
        return list_approvals(settings, as_json=as_json)
    return approve_study(
        settings,
        load_study(study),
        yes=yes,
        again=again,
        heard=digits,
        largest_elsewhere=others or LARGEST_ELSEWHERE,
        as_json=as_json,
        ask=_question('\nType "yes" to approve this study: '),
    )


@command(app, "start")
def start(
    site: SiteFile,
    health: Annotated[
        str,
        typer.Option(
            "--health",
            metavar="HOST:PORT",
            help="Where to say over gRPC that the site is up; default: nowhere.",
        ),
    ] = "",
) -> int:
    """Answer the coordinator's orders, until stopped.

    Only the installed app is run, and nothing else.
    """
    from deploy.site.start import start as run

    run(site, health=health)
    return 0


@command(app, "serve")
def serve(
    site: SiteFile,
    port: Annotated[
        int,
        typer.Option("--port", metavar="PORT", parser=whole_number(0), help="Default: any free port."),
    ] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open no browser.")] = False,
) -> int:
    """Show the hospital's own page in a browser of this machine.

    The page shows what lies there and what is wrong with it, studies that ask for approval, what runs, what has left
    and what has arrived. Whoever has the printed address can do what these commands can; nobody else can.
    """
    from deploy.site.serve import serve as run

    return run(site, (sys.executable, "-I", "-m", "deploy.cli"), port=port, opens=not no_browser)


@command(app, "service")
def service(
    site: SiteFile,
    as_compose: Annotated[
        bool, typer.Option("--compose", help="A compose file for a container; default: a systemd unit.")
    ] = False,
) -> int:
    """Print a systemd unit or a compose file for the site."""
    from deploy.site.service import compose, unit

    print(compose(site) if as_compose else unit(site), end="")
    return 0


@command(app, "audit")
def audit(
    site: SiteFile,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Find a line that was changed, taken out or put in.", rich_help_panel=SURE),
    ] = False,
    study: Annotated[
        str,
        typer.Option(
            "--study",
            metavar="STUDY",
            help="For one study alone: its file, or digits of its hash.",
            rich_help_panel=STUDY,
        ),
    ] = "",
    noted: Annotated[
        str,
        typer.Option(
            "--noted",
            metavar="DIGITS",
            help="The digits of the log's end that an earlier audit printed: they have to be there still.",
            rich_help_panel=SURE,
        ),
    ] = "",
    as_json: AsJson = False,
) -> int:
    """List all that left this hospital.

    A line says when, for which study and stage, of what kind, how many bytes, with its digest. Each line of the log
    names the line before it.
    """
    from deploy.site.audit import audit as read

    return read(site, verify=verify, study=study, noted=noted, as_json=as_json)


@command(app, "leave")
def leave(
    site: SiteFile,
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="The study's file, or the digits of its hash; default: all that the hospital takes part in.",
        ),
    ] = "",
) -> int:
    """Stop taking part in a study.

    From now on every order of the study is refused, and nothing more leaves. What left before cannot be called back.
    """
    from client.site_config import load_site
    from deploy.site.approve import leave_study

    return leave_study(load_site(site), study)


@command(app, "forget", stopped="Stopped; what was not removed yet is still there, and the same command goes on.")
def forget(
    site: SiteFile,
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="The study's file, or the digits of its hash; default: what is kept of any study.",
        ),
    ] = "",
    everything: Annotated[
        bool,
        typer.Option("--everything", help="Keys, logs, approvals and the site file too; asks for confirmation."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.", rich_help_panel=SURE)] = False,
) -> int:
    """Remove what is kept of a study, or of all studies.

    All of it could be made again: prepared patients, checkpoints, finished weights and pages. The images are not
    touched, and what left cannot be called back.
    """
    from deploy.site.forget import forget as remove

    if study and everything:
        raise RelayError("--everything is about more than one study; leave out the one or the other.")
    ask = _question("Type the site's name to remove all that relay keeps of it: ")
    return remove(site, study=study, everything=everything, yes=yes, ask=ask)


@command(app, "receive")
def receive(
    site: SiteFile,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="DIR",
            parser=Path,
            help="Write weights, cards and letter into this folder.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    study: Annotated[
        str,
        typer.Option(
            "--study",
            metavar="NAME",
            help="One study alone: its name, or how its digest begins.",
            rich_help_panel=STUDY,
        ),
    ] = "",
    as_json: AsJson = False,
) -> int:
    """List what studies brought this hospital.

    With --to, write the weights with their model card, and a letter of one page: what taking part brought, and whether
    to keep your own model.
    """
    from deploy.site.receive import receive as hand_over

    return hand_over(site, to=to, study=study, as_json=as_json)
