"""Print the log of all messages sent from a hospital, and check the log for changes: `relay site audit`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.governance import approval, audit_log, egress, looks
from client.site_config import load_site
from common.errors import FaultsFound, RelayError
from common.fingerprint import format_fingerprint, parse_fingerprint
from common.text import count, listed, moment, short_bytes, short_digest
from deploy.site.approve import digits_of, is_of

HEAD = ("line", "time", "study", "stage", "what", "bytes", "digest")

KINDS = {
    ("Description", ""): "counts of the data",
    ("FineTuneReply", "needs-weights"): "asked for the weights of an order",
    ("FineTuneReply", "running"): "a training's numbers so far",
    ("FineTuneReply", "done"): "a training's numbers and weights",
    ("EvaluateReply", "needs-weights"): "asked for the weights of an order",
    ("EvaluateReply", "done"): "a scoring's numbers",
    ("Receipt", "needs-weights"): "asked for the weights of a delivery",
    ("Receipt", "done"): "said that a delivery has arrived",
}
"""The meaning of a log line, by the kind of the message and its state."""


@dataclass(frozen=True)
class _Log:
    """Hold a log of a site: of sent messages, of approvals, or of looks at test patients."""

    path: Path
    reading: audit_log.Reading

    @property
    def end(self) -> str:
        """Return the digest of the last line; empty where the log is empty."""
        return self.reading.digests[-1] if self.reading.digests else ""


def audit(path: Path, *, verify: bool, study: str, noted: str, as_json: bool) -> int:
    """Print the messages sent from a site.

    Args:
        path: the site's file.
        verify: check all audit logs line by line.
        study: a study file or digits of a hash: print only the messages of this study.
        noted: digits of a line's digest, noted elsewhere at an earlier audit; the log has to hold this line still.
        as_json: print JSON.

    Returns:
        The exit code, 0.

    Raises:
        FaultsFound: with `verify` or `noted`, a log was changed, or the noted line is missing.
        RelayError: `noted` has fewer than 8 digits, or `study` is no study file and no hash.
    """
    site = load_site(path)
    digits_noted = _digits_noted(noted)
    logs = [
        _Log(file, audit_log.read(file))
        for file in (site.private() / name for name in (egress.LOG, approval.LOG, looks.LOG))
    ]
    left = logs[0]
    records = [*approval.approvals(site, simulation=True), *approval.approvals(site, simulation=False)]
    names = {digest: record.name for record in records for digest in (*record.variants, record.study)}
    shown = list(zip(range(1, len(left.reading.lines) + 1), left.reading.lines, left.reading.digests, strict=True))
    if study:
        digits = digits_of(study)
        of_it = {digest for record in records if is_of(record, digits) for digest in record.variants}
        shown = [
            entry
            for entry in shown
            if str(entry[1].get("study", "")) in of_it or str(entry[1].get("study", "")).startswith(digits)
        ]
    if as_json:
        entries = [
            {"line": number, **line, "what": _what(line), "name": names.get(_text(line, "study"), "")}
            for number, line, _ in shown
        ]
        answer: dict[str, Any] = {"lines": entries, "end": left.end}
        if verify:
            answer["faults"] = [f"{log.path.name}: {log.reading.fault}" for log in logs if log.reading.fault]
        print(json.dumps(answer, indent=1))
    else:
        _print(shown, names)
        if left.end:
            print(
                f"\nThe log's end: line {len(left.reading.lines)}, {format_fingerprint(left.end)}."
                " Noted elsewhere, these digits show later whether the log up to here is what it was (--noted)."
            )
    if noted:
        number = _line_of(digits_noted, left.reading.digests)
        if not as_json:
            print(
                f"The line that was noted is line {number}; nothing before it was changed since, if the log is sound."
            )
    if verify or noted:
        for log in logs:
            if log.reading.fault:
                raise FaultsFound(f"{log.path} is not as it was written: {log.reading.fault}.")
        if not as_json:
            lines = listed(f"{count(len(log.reading.lines), 'line')} of {log.path.name}" for log in logs)
            print(f"{lines} are as they were written, as far as the audit logs show.")
    return 0


def _print(shown: Iterable[tuple[int, Mapping[str, Any], str]], names: Mapping[str, str]) -> None:
    rows, total, weights = [], 0, 0
    for number, line, _ in shown:
        size = line.get("bytes", 0)
        total += size if isinstance(size, int) else 0
        weights += bool(line.get("weights"))
        rows.append(
            (
                str(number),
                moment(_text(line, "time")) if line else "?",
                f"{short_digest(_text(line, 'study'))} {names.get(_text(line, 'study'), '')}".strip(),
                short_digest(_text(line, "stage")),
                _what(line),
                short_bytes(size) if isinstance(size, int) else "?",
                short_digest(_text(line, "digest")),
            )
        )
    if not rows:
        print("Nothing has left.")
        return
    table = [HEAD, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    for row in table:
        cells = [
            cell.rjust(width) if HEAD[column] in ("line", "bytes") else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print(
        f"\n{count(len(rows), 'message')}, {weights} of them with weights, {short_bytes(total)}. Refusals, each a code"
        " and a fixed text, stand in site.log."
    )


def _what(line: Mapping[str, Any]) -> str:
    if not line:
        return "cannot be read"
    kind, state = _text(line, "kind"), _text(line, "state")
    what = KINDS.get((kind, state), f"{kind} {state}".strip())
    return f"{what} (a simulation on this machine)" if line.get("simulation") else what


def _text(line: Mapping[str, Any], key: str) -> str:
    """Return a line's value, or "?" unless the value is printable text: a changed log must not control the terminal."""
    value = line.get(key, "")
    return value if isinstance(value, str) and value.isprintable() else "?"


def _digits_noted(noted: str) -> str:
    digits = parse_fingerprint(noted)
    if noted and len(digits) < 8:
        raise RelayError(
            f'--noted wants the digits that an earlier audit printed as the log\'s end, and got "{noted}".'
        )
    return digits


def _line_of(digits: str, digests: tuple[str, ...]) -> int:
    for number, digest in enumerate(digests, start=1):
        if digest.startswith(digits):
            return number
    raise FaultsFound(
        f"No line of the log has the digest {format_fingerprint(digits)} that was noted:"
        " the log was changed, or lines are missing."
    )
