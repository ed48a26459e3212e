"""Histories as lines of JSON, and back: what a run keeps can be judged again."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from typing import Any, Final

from chaos.history import (
    NEVER,
    Confirmation,
    Delete,
    HandOut,
    History,
    Repeat,
    Send,
    Span,
    Stored,
    Told,
)

Record = dict[str, Any]

_KINDS: Final = {
    "create": Span,
    "send": Send,
    "repeat": Repeat,
    "delete": Delete,
    "hand_out": HandOut,
    "confirmation": Confirmation,
}


def kept(history: History) -> Iterator[Record]:
    """The records of one mailbox."""
    at = {"mailbox": history.mailbox}
    yield {**at, "kind": "create", **_plain(history.create)}
    for kind, spans in (
        ("send", history.sends),
        ("delete", history.deletes),
        ("hand_out", history.hand_outs),
        ("confirmation", history.confirmations),
    ):
        for span in spans:
            yield {**at, "kind": kind, **_plain(span)}
    for repeat in history.repeats:
        of = repeat.of.payload if repeat.of else ""
        yield {**at, "kind": "repeat", **_plain(repeat), "of": of}
    for stored in history.found:
        yield {**at, "kind": "found", **asdict(stored)}
    yield {
        **at,
        "kind": "read",
        "exists": history.exists,
        "drained": sorted(history.drained),
    }


def _plain(span: Span) -> Record:
    made = {one.name: getattr(span, one.name) for one in fields(span)}
    made["told"] = span.told.value
    return {
        name: value
        for name, value in made.items()
        if value != NEVER and not isinstance(value, Span)
    }


def read_back(records: Iterable[Record]) -> list[History]:
    """The histories that were kept."""
    histories: dict[str, History] = {}
    sends: dict[tuple[str, str], Send] = {}
    for record in records:
        given = dict(record)
        mailbox, kind = given.pop("mailbox"), given.pop("kind")
        if kind == "create":
            histories[mailbox] = History(mailbox, _span(Span, given))
            continue
        history = histories[mailbox]
        if kind == "found":
            history.found.append(Stored(**given))
        elif kind == "read":
            history.exists, history.drained = given["exists"], frozenset(given["drained"])
        elif kind == "repeat":
            given["of"] = sends.get((mailbox, given["of"]))
            history.repeats.append(_span(Repeat, given))
        else:
            span = _span(_KINDS[kind], given)
            getattr(history, kind + "s").append(span)
            if isinstance(span, Send):
                sends[mailbox, span.payload] = span
    return list(histories.values())


def _span(kind: Any, given: Record) -> Any:
    given["told"] = Told(given["told"])
    for name in ("msg_ids", "payloads"):
        if name in given:
            given[name] = tuple(given[name])
    return kind(**given)
