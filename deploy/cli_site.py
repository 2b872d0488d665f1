"""The commands with which a hospital decides: approve a study, leave it, see what left, forget."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import RelayError
from deploy.command import Command, whole_number


def _site(own: argparse.ArgumentParser) -> None:
    own.add_argument("site", metavar="SITE.toml", type=Path, help="the hospital's own settings")


def _asking(question: str) -> Callable[[], str] | None:
    """Asks who sits in front of the screen; None where there is nobody."""
    return (lambda: input(question)) if sys.stdin.isatty() and sys.stdout.isatty() else None


def _approve_arguments(own: argparse.ArgumentParser) -> None:
    _site(own)
    own.add_argument("study", metavar="STUDY.toml", type=Path, nargs="?", help="the study that the coordinator sent")
    own.add_argument("--yes", action="store_true", help="approve without asking")
    own.add_argument(
        "--hash",
        metavar="DIGITS",
        default="",
        help="as the coordinator reads it out over the telephone: approved only if the digits are the study's",
    )
    own.add_argument(
        "--others",
        metavar="N",
        type=whole_number(1),
        help="training slices in a fold that no other site of the study has more of; default: 10000",
    )
    own.add_argument(
        "--again",
        action="store_true",
        help="also a study that is approved already: each of its stages may then be answered once more",
    )
    own.add_argument("--list", action="store_true", help="say which studies were approved here, by whom and when")
    own.add_argument(
        "--withdraw", metavar="HASH", default="", help="take an approval back; the same as relay site leave"
    )
    own.add_argument("--json", action="store_true", help="for a script; approves only together with --yes")


def _approve(chosen: argparse.Namespace) -> int:
    from client.site import load_site
    from common.study import load_study
    from deploy.site.approve import LARGEST_ELSEWHERE, approve_study, leave_study, list_approvals

    if (chosen.study is not None) + chosen.list + bool(chosen.withdraw) != 1:
        raise RelayError("Name a study to approve, or --list, or --withdraw HASH: one of the three.")
    site = load_site(chosen.site)
    if chosen.list:
        return list_approvals(site, as_json=chosen.json)
    if chosen.withdraw:
        return leave_study(site, chosen.withdraw)
    return approve_study(
        site,
        load_study(chosen.study),
        yes=chosen.yes,
        again=chosen.again,
        heard=chosen.hash,
        largest_elsewhere=chosen.others or LARGEST_ELSEWHERE,
        as_json=chosen.json,
        ask=_asking('\nType "yes" to approve this study: '),
    )


def _leave_arguments(own: argparse.ArgumentParser) -> None:
    _site(own)
    own.add_argument(
        "study",
        metavar="STUDY",
        nargs="?",
        default="",
        help="the study's file, or the digits of its hash; default: all that the hospital takes part in",
    )


def _leave(chosen: argparse.Namespace) -> int:
    from client.site import load_site
    from deploy.site.approve import leave_study

    return leave_study(load_site(chosen.site), chosen.study)


def _audit_arguments(own: argparse.ArgumentParser) -> None:
    _site(own)
    own.add_argument("--verify", action="store_true", help="find a line that was changed, taken out or put in")
    own.add_argument(
        "--study", metavar="STUDY", default="", help="for one study alone: its file, or digits of its hash"
    )
    own.add_argument(
        "--noted",
        metavar="DIGITS",
        default="",
        help="the digits of the log's end that an earlier audit printed: they have to be there still",
    )
    own.add_argument("--json", action="store_true", help="for a script")


def _audit(chosen: argparse.Namespace) -> int:
    from deploy.site.audit import audit

    return audit(chosen.site, verify=chosen.verify, study=chosen.study, noted=chosen.noted, as_json=chosen.json)


def _forget_arguments(own: argparse.ArgumentParser) -> None:
    _site(own)
    own.add_argument(
        "study",
        metavar="STUDY",
        nargs="?",
        default="",
        help="the study's file, or the digits of its hash; default: what is kept of any study",
    )
    own.add_argument(
        "--everything", action="store_true", help="keys, logs, approvals and the site file too; asks for confirmation"
    )
    own.add_argument("--yes", action="store_true", help="do not ask")


def _forget(chosen: argparse.Namespace) -> int:
    from deploy.site.forget import forget

    if chosen.study and chosen.everything:
        raise RelayError("--everything is about more than one study; leave out the one or the other.")
    ask = _asking("Type the site's name to remove all that relay keeps of it: ")
    return forget(chosen.site, study=chosen.study, everything=chosen.everything, yes=chosen.yes, ask=ask)


HOSPITAL = (
    Command(
        ("site", "approve"),
        "Show in plain words what a study would run here and what of it would leave, what changed since the last"
        " approval, and its hash; approve it if told to. A hospital answers for no study that it did not approve.",
        _approve_arguments,
        _approve,
        "Stopped; nothing was approved.",
    ),
    Command(
        ("site", "leave"),
        "Take part in a study no longer: from now on every order of it is refused, and nothing more leaves. What left"
        " before cannot be called back.",
        _leave_arguments,
        _leave,
    ),
    Command(
        ("site", "audit"),
        "List all that left this hospital: when, for which study and stage, of what kind, how many bytes, with its"
        " digest. Each line of the log names the one before it.",
        _audit_arguments,
        _audit,
    ),
    Command(
        ("site", "forget"),
        "Remove what a hospital keeps of a study, or of all, and could make again: prepared patients, checkpoints,"
        " finished weights, pages. The images are not touched, and what left cannot be called back.",
        _forget_arguments,
        _forget,
        "Stopped; what was not removed yet is still there, and the same command goes on.",
    ),
)
