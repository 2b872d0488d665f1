"""Events in words, for the terminal, the log, `relay study status` and its page; no other module words an event."""

from __future__ import annotations

from common.text import percent
from server.progress.events import Event

WAITING = "waiting"
"""The activity of an idle site."""
AWAY = "away"
"""The activity of a disconnected site."""
_TRAINS = "trains"
_ACTIVITY = {"fine-tune": _TRAINS, "re-estimate": "computes"}
"""The verb of each kind of stage that makes weights; all other stages score weights."""


def activity(event: Event, *, name_fold: bool = True) -> str | None:
    """Return a site's activity after an event, as "trains B → C, fold 2"; None for an event without a new activity.

    Args:
        event: the event.
        name_fold: whether to name the fold; superfluous in a study with a single fold.
    """
    if event.kind == "preparing":
        return "patients prepared" if event.epoch == event.epochs else "preparing patients"
    if event.kind == "running":
        return f"{_ACTIVITY.get(event.stage, 'scores')} {_stage(event, name_fold=name_fold)}"
    of_kind = {"away": AWAY, "back": "there again", "delivered": "has its model"}
    return of_kind.get(event.kind, WAITING if event.kind in ("done", "parked", "skipped") else None)


def count_of(activity: str, done: int, of: int, *, between: str = " of ") -> str:
    """Return the progress of an activity, as "epoch 5 of 8"; empty where nothing is counted.

    Args:
        activity: the activity in words; see `activity`.
        done: epochs trained or patients prepared.
        of: epochs or patients in all; 0 where neither are counted.
        between: the text between the two numbers.
    """
    unit = "epoch " if activity.startswith(_TRAINS) else ""
    return f"{unit}{done}{between}{of}" if of else ""


def dice_of(dice: float) -> str:
    """Return a Dice score (0 to 1) as "Dice 81.2 %"."""
    return f"Dice {percent(dice)}"


def examined(event: Event) -> str:
    """Return the share of a result folder examined so far, in words."""
    return f"examining what is there, {100 * event.epoch // max(event.epochs, 1)} %"


def stages_of(done: int, stages: int, variant: int, variants: int) -> list[str]:
    """Return the progress of a study: the plain study at work, if there are several, and the finished stages, if any.

    Args:
        done: finished stages.
        stages: all stages of the plain study; 0 if not known yet.
        variant: the plain study at work, counted from 0.
        variants: the number of plain studies: one for each repeat and network.
    """
    parts = [f"study {variant + 1} of {variants}"] if variants > 1 else []
    return [*parts, f"{done} of {stages} stages"] if stages else parts


def known_of(stages: int) -> str:
    """Return the number of stages finished by earlier runs, in words."""
    return f"{stages} {'stage is' if stages == 1 else 'stages are'} in the ledger already"


def result_of(event: Event) -> str:
    """Return the result of a stage, with its site: "C: B → C, fold 2, validation Dice 81.2 %"."""
    return f"{event.site}: {_what_happened(event)}"


def line_of(event: Event) -> str:
    """Return an event as a line of plain text."""
    where = f"{event.site}: " if event.site else ""
    if event.kind == "examining":
        return examined(event)
    if event.kind == "parked":
        return f"parked: {event.text}"
    if event.kind == "away":
        return f"{where}away; it is waited for"
    if event.kind == "back":
        return f"{where}there again"
    if event.kind == "delivered":
        return f"{where}delivered: {event.text}"
    counted = f"[{event.stages_done}/{event.stages}] " if event.stages else ""
    if event.variants > 1:
        counted = f"study {event.variant + 1} of {event.variants}: {counted}"
    return f"{counted}{where}{_what_happened(event)}{', done' if event.kind == 'done' else ''}"


def _what_happened(event: Event) -> str:
    """Return an event of a stage or of a site's preparation in words, without the site."""
    if event.kind == "preparing":
        return f"{event.epoch} of {event.epochs} patients prepared"
    stage = _stage(event)
    what = stage if event.stage in _ACTIVITY else f"{event.stage} of {stage}"
    if event.kind == "skipped":
        return f"{what} is left out, since the site is away"
    if event.kind == "known":
        return f"{what} is in the ledger already"
    epoch = f", epoch {event.epoch} of {event.epochs}" if event.epochs and event.epoch else ""
    return f"{what}{epoch}{'' if event.dice is None else f', validation {dice_of(event.dice)}'}"


def _stage(event: Event, *, name_fold: bool = True) -> str:
    """Return the route and fold of a stage's weights: "B → C, fold 2"."""
    return f"{event.text}, fold {event.fold + 1}" if name_fold else event.text
