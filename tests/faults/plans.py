"""What a seed has planned for a study: which use of a disk or of the wire is struck, and by what.

A fault strikes at the nth time that somebody does something, counted over the whole history. How often that
happens when nothing is disturbed was counted before, so that n falls anywhere into the study.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

COORDINATOR = "coordinator"
MOMENTS = ("before", "middle", "after")

ON_DISK = {
    "killed": 6,
    "power fails": 3,
    "disk is full": 3,
    "input/output error": 2,
    "a bit changes": 4,
    "killed, and a bit changes": 3,
    "slow": 1,
    "clock jumps": 1,
    "a second coordinator": 1,
    "a hospital dies": 2,
}
"""What may strike at a use of a disk, and how often among the others."""

AT_A_REQUEST = {"killed": 4, "engine fails": 4, "engine is away": 1, "a hospital dies": 3, "clock jumps": 1}
AT_AN_ORDER = AT_A_REQUEST | {"order is lost": 3, "order comes twice": 3, "order is overtaken": 3}
AT_A_HOSPITAL = {"this hospital dies": 4, "slow": 2, "engine is away": 1, "power fails": 1, "forged order": 3}
ON_THE_WAY_BACK = AT_A_HOSPITAL | {
    "answer is lost": 3,
    "answer is lost, and a bit changes": 3,
    "answer becomes an error": 3,
    "answer is late": 3,
    "older answer comes again": 3,
    "another answer in its place": 3,
}

AT_A_READING = {"reading fails": 1}

HARMS: dict[str, Mapping[str, int]] = {
    "write": ON_DISK,
    "append": ON_DISK,
    "read": AT_A_READING,
    "fsync": ON_DISK,
    "rename": ON_DISK,
    "unlink": ON_DISK,
    "push": AT_AN_ORDER,
    "pull": AT_A_REQUEST,
    "nodes": AT_A_REQUEST,
    "receive": AT_A_HOSPITAL,
    "send": ON_THE_WAY_BACK,
}
WIRE = 2
"""How much more often the wire is struck than a disk in one of its ways."""
OF_DATA = ("power fails", "a bit changes", "killed, and a bit changes", "answer is lost, and a bit changes")
"""Faults after which finished work may be gone from where it lay."""


@dataclass(frozen=True)
class Fault:
    """One harm at the nth use."""

    actor: str
    kind: str
    nth: int
    moment: str
    """One of MOMENTS. In the middle of receiving is while the client app is at work."""
    harm: str

    def __str__(self) -> str:
        return f"{self.harm} – {self.moment} {self.kind} {self.nth} of {self.actor}"


def planned_faults(seed: int, counts: Mapping[tuple[str, str], int]) -> tuple[Fault, ...]:
    """One to four faults, most often two; some of them close together.

    Args:
        counts: by who and what, how often it happens when nothing is disturbed.
    """
    draw = random.Random(f"faults {seed}")
    faults: list[Fault] = []
    share = 0.0
    actor = ""
    for _ in range(draw.choice((1, 2, 2, 3, 4))):
        if faults and draw.random() < 0.5:
            share = min(1.0, share + draw.random() / 15)
        else:
            share = draw.random()
            # As often at the coordinator as at all hospitals together.
            sites = sorted({name for name, _ in counts} - {COORDINATOR})
            actor = COORDINATOR if draw.random() < 0.5 else draw.choice(sites)
        kinds = sorted(kind for name, kind in counts if name == actor)
        kind = draw.choices(kinds, [WIRE if kind in ("push", "pull", "send", "receive") else 1 for kind in kinds])[0]
        harms = HARMS[kind]
        faults.append(
            Fault(
                actor=actor,
                kind=kind,
                nth=1 + int(share * (counts[actor, kind] - 1)),
                moment=draw.choice(MOMENTS),
                harm=draw.choices(list(harms), list(harms.values()))[0],
            )
        )
    return tuple(faults)
