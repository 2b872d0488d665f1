"""What an approved study holds its coordinator to, from order to order.

An approval alone would let a coordinator ask for one stage from any number of weights, or plan the study once for
each of many censuses or routes. So a site remembers what it was first asked, in the folder `answered/` of its private
folder, a folder for each plain study. Approving the study again empties that folder; nothing else does.
"""

from __future__ import annotations

import json
import logging

from client.governance.approval import answered_folder, approvals, taking_part
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.config.study import POOLED, Study
from common.files import write_atomically
from common.plan import Census, Choices
from common.plan.graph import Node
from common.protocol.refusals import Refusal, Refused

CHOICES = "choices.json"
CENSUS = "census.json"

log = logging.getLogger("relay.site")


def check_limits(site: SiteConfig, study: Study, census: Census) -> None:
    """Refuse a census that would have the site train longer than was shown when it approved the study.

    The longer baseline trains as long as the target's longest route, and only the census says how long that is: a
    coordinator that claimed a larger site than there is could order a training without end.

    Raises:
        Refused: another site has more training slices than the approval allows for.
    """
    limits = [record.largest_elsewhere for record in taking_part(approvals(site), study.digest)]
    most = max((count for name, counts in census.items() if name != site.name for count in counts), default=0)
    if not any(limit is None or most <= limit for limit in limits):
        log.warning("Another site claims %d training slices; the approval allows for %s.", most, limits)
        raise Refused(Refusal.BEYOND_APPROVAL)


def check_routes_extend(site: SiteConfig, study: Study, choices: Choices) -> None:
    """Refuse hops of growing routes that replace earlier ones: a coordinator that took one back could try all routes.

    Raises:
        Refused: a hop is another one than in an earlier order.
    """
    path = answered_folder(site, study.digest) / CHOICES
    known = {target: tuple(hops) for target, hops in cache.read_json(path).items()}
    longest = dict(known)
    for target, hops in choices.items():
        before = known.get(target, ())
        # An order that was under way for long may know less than a later one.
        if hops[: len(before)] != before and before[: len(hops)] != hops:
            raise Refused(Refusal.ANSWERED)
        longest[target] = max(before, hops, key=len)
    if longest != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(longest).encode(), durable=True)


def pin_census(site: SiteConfig, study: Study, census: Census) -> None:
    """Keep the first census that a study was planned with, and refuse any other: each other one asks for other
    trainings.

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


def bind_stage(site: SiteConfig, study: Study, node: Node, key: str) -> None:
    """Bind a stage of an approved study to the weights and data of the first order for it.

    A coordinator that could have one stage worked out from any number of weights could ask the data any number of
    questions. The same order again, after a lost answer, is no other question.

    Raises:
        Refused: an earlier order for the stage named other weights or data.
    """
    folder = answered_folder(site, study.digest)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / node.id
    if not path.exists():
        # Durably: what a loss of power left of it would bind the stage to nothing, or to something else.
        write_atomically(path, key.encode(), durable=True)
    elif path.read_bytes() != key.encode():
        raise Refused(Refusal.ANSWERED)
