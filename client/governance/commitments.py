"""The commitments of a coordinator to an approved study, which hold from order to order.

With an approval alone, a coordinator could order a stage with any number of start weights, or plan the study once for
each of many censuses or routes. So a site remembers the first orders of a study, in a folder for each plain study under
`answered/` in its private folder. A new approval of the study empties the folder; nothing else does.
"""

from __future__ import annotations

import json
import logging

from client.governance.approval import Approval, answered_folder, approvals, taking_part
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.config.study import Study
from common.config.values import POOLED
from common.files import write_atomically
from common.plan import Census, Choices
from common.plan.graph import Evaluate, Node
from common.protocol.refusals import Refusal, Refused

CHOICES = "choices.json"
CENSUS = "census.json"
DESCRIBED = "described"
RESTARTED = ".restarted"
"""The end of the name of the file with a stage's restart token."""

SCORED = ".scored"
"""The end of the name of the empty file that counts a scoring."""

log = logging.getLogger("relay.site")


def check_limits(site: SiteConfig, study: Study, census: Census) -> None:
    """Refuse a census that would make the site train longer than the disclosure at the approval has shown.

    The longer baseline trains as long as the target's longest route, whose length only the census determines. A
    coordinator that overstated the size of a site could order a training without end.

    Args:
        site: this site.
        study: the plain study.
        census: the training slices of all sites, a number for each fold.

    Raises:
        Refused: another site has more training slices than the approval allows.
    """
    limits = [record.largest_elsewhere for record in taking_part(approvals(site), study.digest)]
    most = max((count for name, counts in census.items() if name != site.name for count in counts), default=0)
    if not any(limit is None or most <= limit for limit in limits):
        log.warning("Another site claims %d training slices; the approval allows for %s.", most, limits)
        raise Refused(Refusal.BEYOND_APPROVAL)


def check_routes_extend(site: SiteConfig, study: Study, choices: Choices) -> None:
    """Refuse choices of routes that replace choices of earlier orders.

    A coordinator free to take a hop of a growing route back, or a rung of halving, could try all routes.

    Args:
        site: this site.
        study: the plain study.
        choices: what is selected so far, for each target.

    Raises:
        Refused: a hop or rung differs from the same in an earlier order.
    """
    path = answered_folder(site, study.digest) / CHOICES
    known = {target: tuple(hops) for target, hops in cache.read_json(path).items()}
    longest = dict(known)
    for target, hops in choices.items():
        before = known.get(target, ())
        # An order delayed on its way may have fewer hops than a later order.
        if hops[: len(before)] != before and before[: len(hops)] != hops:
            raise Refused(Refusal.ANSWERED)
        longest[target] = max(before, hops, key=len)
    if longest != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(longest).encode(), durable=True)


def pin_census(site: SiteConfig, study: Study, census: Census) -> None:
    """Store the census of a study's first plan, and refuse any other.

    Each further census would require further trainings.

    Args:
        site: this site.
        study: the plain study.
        census: the training slices of all sites, a number for each fold.

    Raises:
        Refused: the study was planned with another census before.
    """
    path = answered_folder(site, study.digest) / CENSUS
    pinned = cache.read_json(path)
    counts = {name: list(census[name]) for name in (*study.sites, POOLED) if name in census}
    if not pinned:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(counts).encode(), durable=True)
    elif pinned != counts:
        raise Refused(Refusal.ANSWERED)


def bind_description(site: SiteConfig, study: Study, fingerprint: str) -> None:
    """Bind a study to the data of its first description.

    Two descriptions of data that differ in one patient tell of this patient. Who wants to go on with changed data
    approves the study again, and learns what that means.

    Args:
        site: this site.
        study: the plain study.
        fingerprint: the fingerprint of the data, and of the secret that divides them.

    Raises:
        Refused: the study was described with other data before.
    """
    path = answered_folder(site, study.digest) / DESCRIBED
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, fingerprint.encode(), durable=True)
    elif path.read_bytes() != fingerprint.encode():
        log.warning("The data have changed since this study was described; relay site approve --again goes on.")
        raise Refused(Refusal.DATA_CHANGED)


def bind_stage(site: SiteConfig, study: Study, node: Node, key: str) -> None:
    """Bind a stage of an approved study to the weights and data of the first order for the stage.

    A coordinator that could have a stage computed from any number of weights could put any number of questions to the
    data. The same order again, after a lost reply, is not a new question.

    Args:
        site: this site.
        study: the plain study.
        node: the stage.
        key: the stage's key, a digest over the weights and data.

    Raises:
        Refused: an earlier order for the stage named other weights or data, or the stage is a scoring beyond the number
            of the approval.
    """
    folder = answered_folder(site, study.digest)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / node.id
    if not path.exists():
        if isinstance(node, Evaluate):
            _spend_scoring(site, study, node)
        # Durable: a loss of power may leave an empty or shortened file, which would bind the stage to a key that no
        # order has.
        write_atomically(path, key.encode(), durable=True)
    elif path.read_bytes() != key.encode():
        raise Refused(Refusal.ANSWERED)


def _spend_scoring(site: SiteConfig, study: Study, node: Evaluate) -> None:
    """Note a scoring, or refuse it where the study has had as many as were shown when it was approved.

    A scoring that is noted already, where the process ended before the stage was bound, counts once.

    Raises:
        Refused: the scorings of the approval are spent.
    """
    path = answered_folder(site, study.digest) / f"{node.id}{SCORED}"
    if path.exists():
        return
    records = list(taking_part(approvals(site), study.digest))
    budgets = [None if record.scorings is None else record.scorings - _scored(site, record) for record in records]
    if not any(left is None or left > 0 for left in budgets):
        log.warning("All scorings that the approval of this study counts have been answered; this one is refused.")
        raise Refused(Refusal.SCORINGS_SPENT)
    write_atomically(path, b"", durable=True)


def _scored(site: SiteConfig, record: Approval) -> int:
    """Return the number of scorings that were begun since a study was approved, over all of its variants."""
    return sum(len(list(answered_folder(site, digest).glob(f"*{SCORED}"))) for digest in record.variants)


def bind_restart(site: SiteConfig, study: Study, node: Node, token: str) -> None:
    """Bind a stage of an approved study to the token of its first restart: a finished stage is begun anew once.

    A coordinator free to invent tokens could have a training repeated without end, and on a device whose sums differ
    from run to run get another answer each time. The same token again, after a lost reply, is no new restart. A stage
    that the coordinator acknowledged is forgotten here, and trains again from the same weights when it is ordered
    again: the coordinator may have lost what it had.

    Args:
        site: this site.
        study: the plain study.
        node: the stage.
        token: the order's restart token.

    Raises:
        Refused: the stage was begun anew before, with another token.
    """
    folder = answered_folder(site, study.digest)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{node.id}{RESTARTED}"
    if not path.exists():
        write_atomically(path, token.encode(), durable=True)
    elif path.read_bytes() != token.encode():
        raise Refused(Refusal.RESTARTED)
