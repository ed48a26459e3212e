"""Structured logs on stderr: one event a line, for people (`console`) or machines (`json`).

Set up once by cli, before the node is built. Every module logs through
`logging.getLogger(__name__)` with an event as the message and its facts in `extra`:

    log.info("connection closed", extra={"cid": 7, "reason": "Stale Connection"})

Nothing private is written (docs/protocol.md, section 7): generated mail addresses and facts with a
telling name are blanked here, whoever logged them. Writing happens on a thread behind a bounded
queue: a stuck pipe costs lines, which are counted, and never holds up the event loop.
"""

import logging
import queue
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import TextIO

import orjson

QUEUED_LINES_MAX = 10_000  # some seconds of a very talkative node

BLANK = "***"
_PRIVATE_FACTS = frozenset(
    {"auth_token", "jwt", "nkey", "pass", "password", "payload", "seed", "sig", "token", "user"}
)
_GENERATED_ADDRESS = re.compile(r"\bmbx\.[a-z2-7]{20,}", re.ASCII)
_INBOX = re.compile(r"\b_(?:INBOX|R_)\.[^\s\"']+", re.ASCII)
_COMMAND_PREFIX, _BROADCAST_PREFIX = "$mq9.AI.", "$mq9.AI.BROADCAST."
_VERB_TOKENS = 2  # MAILBOX.MSG, then the address
_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message"}


def without_secrets(text: str) -> str:
    """`text` with generated (private) mail addresses blanked."""
    return _GENERATED_ADDRESS.sub(f"mbx.{BLANK}", text)


def subject_without_secrets(subject: str) -> str:
    """`subject` without what it tells of mailboxes and of who waits for replies.

    What follows the verb of a subject of ours may be an address, generated or not; who knows an
    inbox could answer in another's place.
    """
    if subject.startswith(_COMMAND_PREFIX) and not subject.startswith(_BROADCAST_PREFIX):
        words = subject.removeprefix(_COMMAND_PREFIX).split(".")
        if len(words) > _VERB_TOKENS or words[0] == "INBOX":
            kept = words[: 1 if words[0] == "INBOX" else _VERB_TOKENS]
            subject = _COMMAND_PREFIX + ".".join([*kept, BLANK])
    return without_secrets(_INBOX.sub(f"_INBOX.{BLANK}", subject))


def _facts(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave in `extra`, with nothing private in it."""
    facts: dict[str, object] = {}
    for name, value in vars(record).items():
        if name in _RECORD_FIELDS:
            continue
        if name in _PRIVATE_FACTS:
            facts[name] = BLANK
        elif value is None or isinstance(value, bool | int | float):
            facts[name] = value
        else:
            facts[name] = without_secrets(str(value))
    return facts


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, node, logger, event, then the facts."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`."""
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name,
            "event": without_secrets(record.getMessage()),
            **_facts(record),
        }
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


class ConsoleFormatter(logging.Formatter):
    """Time, level, event, facts as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, or lines if there is a traceback, for `record`."""
        line = f"{_time(record):%H:%M:%S}.{int(record.msecs):03} {record.levelname.lower():<7} "
        line += without_secrets(record.getMessage()) + facts_as_text(_facts(record))
        if record.exc_info:
            line += "\n" + without_secrets(self.formatException(record.exc_info))
        return line


def facts_as_text(facts: Mapping[str, object]) -> str:
    """` name=value name=value`, or nothing."""
    return "".join(f" {name}={value}" for name, value in facts.items())


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


class _BoundedQueueHandler(QueueHandler):
    """Drops lines, and counts them, when the writer cannot keep up."""

    def __init__(self, lines: "queue.Queue[logging.LogRecord]") -> None:
        super().__init__(lines)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # Formatted by the writer thread of this process: nothing needs to be picklable.
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


@contextmanager
def logging_to(
    format_name: str, level: str, node: str, stream: TextIO | None = None
) -> Iterator[None]:
    """Log in `format_name` from `level` on for as long as the context lasts; then flush."""
    writer = logging.StreamHandler(stream or sys.stderr)
    writer.setFormatter(JsonFormatter(node) if format_name == "json" else ConsoleFormatter())
    lines: queue.Queue[logging.LogRecord] = queue.Queue(QUEUED_LINES_MAX)
    handler = _BoundedQueueHandler(lines)
    listener = QueueListener(lines, writer)
    root = logging.getLogger()
    level_before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    listener.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level_before)
        if handler.dropped:
            handler.setLevel(logging.WARNING)
            writer.handle(
                logging.makeLogRecord(
                    {
                        "name": __name__,
                        "levelname": "WARNING",
                        "levelno": logging.WARNING,
                        "msg": "log lines were dropped",
                        "lines": handler.dropped,
                    }
                )
            )
        listener.stop()
