"""The command `relay`: one function a command, and a table of them.

Nothing heavy is imported before a command runs, so that help comes at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from common.errors import GO_ON, RelayError, Unfinished
from deploy import predict, receive
from deploy.cli_federation import FEDERATION
from deploy.cli_site import HOSPITAL
from deploy.command import Command, whole_number

HELP = """\
relay – hospitals hand one segmentation model on, and no image leaves.

Each hospital trains on its own prostate MRI only. The weights travel from site
to site, or are averaged, and patients held out at every site say which of the
two serves whom better.

See it work
  relay demo                     three synthetic hospitals, a whole study on
                                 them, its table and its page

Your own hospitals, all on this machine
  relay site check SITE.toml     what lies at a site, and what is wrong with it
  relay study plan STUDY --site A=SITE.toml --site B=SITE.toml ...
                                 what a study will ask for: trainings, gradient
                                 steps, bytes, hours on this machine
  relay simulate STUDY.toml --site A=SITE.toml --site B=SITE.toml ...
                                 run a study, or go on with a stopped one

Hospitals that are really apart: at the coordinator
  relay enroll coordinator --host NAME
                                 make its authorities, certificates, gateway
  relay enroll site NAME REQUEST let a hospital in; makes the kit it gets back
  relay enroll list | revoke NAME | renew
  relay coordinator start        run the coordinator's programs
  relay study run STUDY.toml     run a study on the hospitals, and follow it
  relay study status             who is there, who is missing

Hospitals that are really apart: at each hospital
  relay site init SITE.toml --name NAME
                                 make its file, its keys, its request
  relay site join SITE.toml KIT  take the coordinator's kit
  relay site approve SITE.toml STUDY.toml
                                 what a study would run here and what would
                                 leave, in plain words; approve it, or not
  relay site start SITE.toml     be there for the coordinator's orders
  relay site service SITE.toml   print a systemd unit that does so, or a
                                 compose file
  relay site audit SITE.toml     all that left, line by line; --verify finds a
                                 changed line
  relay site leave SITE.toml [STUDY]
                                 take part no longer, at once
  relay site forget SITE.toml [STUDY]
                                 remove caches and checkpoints

What came out
  relay report DIR               make report.html of a result folder again
  relay study verify DIR         hold every record and weights file against its
                                 digest and lineage

What a hospital gets out of it
  relay site receive SITE.toml --to DIR
                                 weights, their model cards, and a letter of one
                                 page: what taking part brought this hospital
  relay predict WEIGHTS SERIES -o mask.nii.gz
                                 draw the gland in a DICOM series or a volume

Data to try things on
  relay phantom DIR              write the synthetic hospitals alone

Everywhere
  relay COMMAND --help           what a command takes
  relay --version                which relay this is
  relay --debug COMMAND ...      show where in the program an error arose

A study that was stopped, by Ctrl-C or by a power cut, goes on where it was when
the same command is started again. The exit code is 0 only if everything that
was asked for was done.
"""

DEMO_PATIENTS = {"A": 8, "B": 8, "C": 6}
"""C's volumes have twice as many slices as the others'."""

STOPPED = "Stopped; every stage that was finished is kept, and the same command goes on from there."

CALLED_AS = "RELAY_CALLED_AS"
"""Environment variable: what a person typed for this command to be run, where that was another command."""


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong call gets one sentence and not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` says what it takes.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 not all done, 2 wrongly called, 130 stopped by Ctrl-C."""
    _be_written_to()
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen: argparse.Namespace | None = None
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            sys.stdout.write(HELP)
            code = 0
        else:
            chosen = _chosen(words)
            code = chosen.command.run(chosen)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _end(chosen.command.stopped if chosen else "Stopped.", 130)
    except BrokenPipeError:
        # Who reads, such as `head`, has gone; Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if getattr(chosen, "debug", False):
            raise
        _end(sentence_of(error).replace(GO_ON, f"run `{_called(words)}` to go on"), 1)


def _called(words: Sequence[str]) -> str:
    """The command line that a person repeats to have the same done again."""
    return os.environ.get(CALLED_AS) or shlex.join(["relay", *words])


def _be_written_to() -> None:
    """Output that is closed, or a terminal without arrows, shall not end a study."""
    # A file that is opened later would else become standard output.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _chosen(words: Sequence[str]) -> argparse.Namespace:
    """What was asked for; help is printed, and has arrived, before this ends the program."""
    try:
        return parser().parse_args(words)
    finally:
        sys.stdout.flush()


def sentence_of(error: Exception) -> str:
    """What a user is told of an error."""
    if isinstance(error, RelayError):
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" that holds {error.filename}" if error.filename else ""
        return f"The disk{where} is full; make room and start again: what is finished is kept."
    if isinstance(error, MemoryError):
        return "There is not enough memory; end other programs or use a machine with more: what is finished is kept."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read or written ({error.strerror}); check the path and its rights."
    return (
        f"The program failed ({type(error).__name__}), which is its own fault and not yours;"
        " start it again with --debug to see where, and report that."
    )


def _end(sentence: str, code: int) -> NoReturn:
    """Say why, and end at once.

    A study that is stopped leaves threads that wait for answers. Python would tear them down while they are in
    torch's own code, which aborts the process now and then.
    """
    print(" ".join(sentence.split()), file=sys.stderr, flush=True)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(prog="relay", add_help=False, allow_abbrev=False)
    top.add_argument("--version", action=_Version)
    top.add_argument("--debug", action="store_true")
    below = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    groups: dict[str, argparse._SubParsersAction[Parser]] = {}
    for command in COMMANDS:
        *group, word = command.words
        place = below
        if group:
            name = group[0]
            if name not in groups:
                known = ", ".join(other.words[1] for other in COMMANDS if other.words[0] == name)
                described = below.add_parser(name, description=f"What can be done with relay {name}: {known}.")
                groups[name] = described.add_subparsers(title="commands", metavar="COMMAND", required=True)
            place = groups[name]
        own = place.add_parser(word, description=command.about, allow_abbrev=False)
        own.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show where in the program an error arose",
        )
        command.arguments(own)
        own.set_defaults(command=command)
    return top


class _Version(argparse.Action):
    """The version is looked up only where it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata

        print(f"relay {importlib.metadata.version('prostate-relay')}")
        parser.exit()


def _demo_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("--out", metavar="DIR", type=Path, default=Path("relay-demo"), help="default: relay-demo")
    _at_once(own)


def _demo(chosen: argparse.Namespace) -> int:
    from common.study import load_study
    from deploy.console import bar
    from deploy.phantom import write_hospitals
    from deploy.simulation import simulate

    study = load_study(Path(__file__).parent / "studies" / "demo.toml")
    folder = chosen.out / "hospitals"
    with bar("Writing the synthetic hospitals", unit="patients") as progress:
        sites = write_hospitals(folder, patients=DEMO_PATIENTS, progress=progress)
    counted = ", ".join(f"{name} with {number}" for name, number in DEMO_PATIENTS.items())
    print(f"Synthetic hospitals: {counted} patients, in {folder}.", flush=True)
    simulate(study, sites, chosen.out, beside=Path(), at_once=chosen.at_once)
    return show_results(chosen.out)


def _simulate_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("study", metavar="STUDY.toml", type=Path, help="what is compared, and how")
    own.add_argument(
        "--site",
        metavar="NAME=SITE.toml",
        action="append",
        default=[],
        help="the site file of a hospital; once for each of the study's sites",
    )
    own.add_argument("--out", metavar="DIR", type=Path, help="the result folder; default: STUDY-results")
    _at_once(own)
    own.add_argument(
        "--keep-weights",
        action="store_true",
        help="keep the weights of every stage; otherwise those go that no row of the comparison needs any more",
    )
    own.add_argument("--json", action="store_true", help="print results.json, and nothing else, on standard output")


def _at_once(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--at-once",
        metavar="N",
        type=whole_number(1),
        help="stages that run at the same time; default: as many as the machine has cores for",
    )


def _simulate(chosen: argparse.Namespace) -> int:
    from common.study import load_study
    from deploy.simulation import simulate, site_files

    path = _study_path(chosen.study)
    study = load_study(path)
    sites = site_files(chosen.site)
    out = chosen.out or Path(f"{path.stem}-results")
    try:
        simulate(
            study,
            sites,
            out,
            beside=path.parent,
            at_once=chosen.at_once,
            keep_weights=chosen.keep_weights,
            quiet=chosen.json,
        )
    except Unfinished:
        if not chosen.json:
            show_results(out)
        raise
    if chosen.json:
        print((out / "results.json").read_text(encoding="utf-8"), end="")
        return 0
    return show_results(out)


def _study_path(given: Path) -> Path:
    """A study file, or one of those that come with the program, by its name."""
    shipped = Path(__file__).parent / "studies" / f"{given}.toml"
    return shipped if given.name == str(given) and not given.exists() and shipped.is_file() else given


def show_results(folder: Path) -> int:
    """The opening sentence, the table, the path of the page."""
    from deploy.console import terminal
    from server.report import opening, read_results, terminal_table, text_lines

    results = read_results(folder)
    screen = terminal()
    print()
    if not results.rows:
        print("No row of the table is finished.")
    elif screen is None:
        print(opening(results), *text_lines(results), sep="\n")
    else:
        screen.print(opening(results), highlight=False, markup=False)
        screen.print(terminal_table(results))
    print(f"\n{folder / 'report.html'}")
    return 0


def _plan_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("study", metavar="STUDY", type=Path, help="a study file, or paper-table2, paper-table3, demo")
    own.add_argument(
        "--site", metavar="NAME=SITE.toml", action="append", default=[], help="the settings of a site of this machine"
    )
    own.add_argument(
        "--slices",
        metavar="NAME=N",
        action="append",
        default=[],
        help="for a site elsewhere: how many slices of all its patients are chosen",
    )
    _at_once(own)
    own.add_argument("--no-trial", action="store_true", help="do not measure this machine: no hours are told")
    own.add_argument("--json", action="store_true", help="for a script")


def _plan(chosen: argparse.Namespace) -> int:
    from common.study import load_study
    from deploy.simulation import cores, site_files
    from deploy.study_plan import slices_of, study_plan

    study = load_study(_study_path(chosen.study))
    at_once = chosen.at_once or max(1, cores() // study.training.threads)
    return study_plan(
        study,
        site_files(chosen.site),
        slices_of(chosen.slices),
        at_once=at_once,
        trial=not chosen.no_trial,
        as_json=chosen.json,
    )


def _phantom_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("folder", metavar="DIR", type=Path, help="a new or an empty folder")
    own.add_argument(
        "--patients",
        metavar="N",
        type=_patients,
        default="12",
        help="at each of the three, or hospital by hospital: A=30,B=30,C=19 (one left out is not written); default: 12",
    )
    own.add_argument(
        "--anatomy",
        metavar="HOSPITAL=DIR",
        action="append",
        default=[],
        help="take a hospital's glands from a folder of real masks (NRRD, NIfTI or MetaImage; 1 = peripheral zone,"
        " 2 = central gland), one a patient, in the order of their names, on their own grids; once for each hospital"
        " that has masks. The images stay made up, but the files then carry real patients' glands: handle them as"
        " you must handle the masks, and keep to their licence",
    )
    own.add_argument("--seed", metavar="S", type=whole_number(0), default=1, help="other patients; default: 1")


def _patients(text: str) -> dict[str, int]:
    """How many patients each synthetic hospital has: "12", or "A=30,B=30,C=19"."""
    count = whole_number(1)
    if "=" not in text:
        return dict.fromkeys("ABC", count(text))
    each: dict[str, int] = {}
    for entry in text.split(","):
        site, _, number = entry.partition("=")
        if site in each:
            raise argparse.ArgumentTypeError(f'"{text}" names {site} twice')
        each[site] = count(number)
    return each


def _phantom(chosen: argparse.Namespace) -> int:
    from deploy.console import bar
    from deploy.phantom import REAL_SHAPES, write_hospitals
    from deploy.phantom.masks import mask_folders

    anatomy = mask_folders(chosen.anatomy)
    with bar("Writing the synthetic hospitals", unit="patients") as progress:
        sites = write_hospitals(
            chosen.folder, patients=chosen.patients, anatomy=anatomy, seed=chosen.seed, progress=progress
        )
    for path in sites.values():
        print(path)
    if anatomy:
        print(f"\n{REAL_SHAPES}")
    return 0


def _report_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("folder", metavar="DIR", type=Path, help="a result folder")


def _report(chosen: argparse.Namespace) -> int:
    from server.report import write_report

    print(write_report(chosen.folder))
    return 0


def _verify_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("folder", metavar="DIR", type=Path, help="a result folder")
    own.add_argument("--json", action="store_true", help="for a script")


def _verify(chosen: argparse.Namespace) -> int:
    import json

    from deploy.console import bar
    from server.ledger import examine

    if not (chosen.folder / "ledger").is_dir():
        raise RelayError(f"{chosen.folder} holds no ledger; name the folder that a study was run into.")
    with bar("Examining the ledger", unit="bytes", stream=sys.stderr) as progress:
        found = examine(chosen.folder, progress=progress)
    if chosen.json:
        faults = [{"file": fault.path.name, "fault": fault.sentence} for fault in found.faults]
        counts = {"records": len(found.records), "weights": len(found.weights), "gone": len(found.gone)}
        print(json.dumps(counts | {"faults": faults}, indent=1))
    else:
        gone = f"; {len(found.gone)} were taken away, and their records say what they were" if found.gone else ""
        print(f"{len(found.records)} records and {len(found.weights)} weights files are what they claim to be{gone}.")
        for fault in found.faults:
            print(f"{fault.path} {fault.sentence}.")
    if found.faults:
        raise RelayError(
            f"{len(found.faults)} files in {chosen.folder} are not sound; run the study into the same folder again,"
            " and they are made anew."
        )
    return 0


def _check_arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "site", metavar="SITE.toml|FOLDER", type=Path, help="the hospital's own settings, or a folder of images alone"
    )
    own.add_argument("--masks", metavar="FOLDER", type=Path, help="with a folder of images: the labels, if kept apart")
    own.add_argument("--json", action="store_true", help="for a script at the site: patients are named")
    own.add_argument(
        "--counts", metavar="FILE.json", type=Path, help="write what may be shared: counts, without any name or value"
    )


def _check(chosen: argparse.Namespace) -> int:
    from deploy.site_check import site_check

    return site_check(chosen.site, masks=chosen.masks, as_json=chosen.json, counts=chosen.counts)


COMMANDS = (
    Command(
        ("demo",),
        "Write three synthetic hospitals, run a small study on them, print its table and write its page. It shows"
        " that the software works, not which method is better.",
        _demo_arguments,
        _demo,
        STOPPED,
    ),
    Command(
        ("simulate",),
        "Run a study on hospitals whose files all lie on this machine, each handled by processes of its own. Stopped"
        " and started again, it goes on where it was.",
        _simulate_arguments,
        _simulate,
        STOPPED,
    ),
    Command(
        ("study", "plan"),
        "Say what a study will ask for before anything runs: its graph's trainings, what sharing them saves, gradient"
        " steps, bytes to and fro, and the hours on this machine after a short trial.",
        _plan_arguments,
        _plan,
    ),
    Command(
        ("study", "verify"),
        "Hold every record of a result folder against its seal, every weights file against its digest, and every"
        " record's parents against the records that made them.",
        _verify_arguments,
        _verify,
    ),
    Command(
        ("phantom",),
        "Write three synthetic hospitals in the layouts of TCIA Prostate-3T, PROSTATE-DIAGNOSIS and I2CVB. Their glands"
        " are drawn, or with --anatomy those of real masks.",
        _phantom_arguments,
        _phantom,
        "Stopped; the same command clears away what is unfinished and writes the hospitals anew.",
    ),
    Command(
        ("report",),
        "Make report.html of a result folder again.",
        _report_arguments,
        _report,
    ),
    Command(
        ("site", "check"),
        "Read every patient of a site once; list what lies there and what is wrong with it. Nothing is changed, and"
        " nothing is sent.",
        _check_arguments,
        _check,
    ),
    Command(("site", "receive"), receive.ABOUT, receive.arguments, receive.run),
    Command(("predict",), predict.ABOUT, predict.arguments, predict.run),
    *FEDERATION,
    *HOSPITAL,
)


if __name__ == "__main__":
    sys.exit(main())
