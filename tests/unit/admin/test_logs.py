"""Log lines: their form, what is blanked, and that a stuck reader costs lines, not the node."""

import io
import json
import logging
import threading

import pytest

from mq9cluster.admin import logs
from mq9cluster.admin.logs import logging_to, subject_without_secrets

log = logging.getLogger("mq9cluster.gateway.session")
PRIVATE = "mbx.abcdefghijklmnopqrstuvwxyz"


def written(format_name, level="info", act=lambda: None):
    stream = io.StringIO()
    with logging_to(format_name, level, "node7", stream):
        act()
    return stream.getvalue()


def test_json_lines_carry_event_and_facts():
    def act():
        log.warning("connection closed", extra={"cid": 7, "reason": "Stale Connection"})

    line = json.loads(written("json", act=act))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "node": "node7",
        "logger": "mq9cluster.gateway.session",
        "event": "connection closed",
        "cid": 7,
        "reason": "Stale Connection",
    }


def test_console_lines_are_for_people():
    text = written("console", act=lambda: log.info("ready", extra={"listen": "127.0.0.1:4222"}))
    assert text[12:] == " info    ready listen=127.0.0.1:4222\n"


@pytest.mark.parametrize("format_name", ["json", "console"])
def test_private_addresses_and_credentials_are_blanked_wherever_they_stand(format_name):
    def act():
        try:
            raise ValueError(f"{PRIVATE} in a traceback")
        except ValueError:
            log.exception(
                "trouble with %s",
                PRIVATE,
                extra={
                    "subject": f"$mq9.AI.MSG.SEND.{PRIVATE}",
                    "password": "s3cret",
                    "list": [PRIVATE],
                },
            )
        log.info("x", extra={"payload": "s3cret", "token": "s3cret", "jwt": "s3cret"})

    text = written(format_name, act=act)
    assert PRIVATE not in text
    assert "s3cret" not in text
    assert text.count("mbx.***") >= 4
    assert "in a traceback" in text


def test_lines_below_the_level_are_left_out():
    def act():
        log.info("left out")
        log.error("kept")

    assert [json.loads(line)["event"] for line in written("json", "error", act).splitlines()] == [
        "kept"
    ]


def test_a_stuck_reader_costs_lines_which_are_counted_and_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(logs, "QUEUED_LINES_MAX", 3)
    unstuck = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text):
            unstuck.wait(30)
            return super().write(text)

    stream = Stuck()
    with logging_to("json", "info", "node7", stream):
        for number in range(10):
            log.info("line", extra={"number": number})
        threading.Timer(0.05, unstuck.set).start()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    kept = [line["number"] for line in lines if line["event"] == "line"]
    (dropped,) = [line["lines"] for line in lines if line["event"] == "log lines were dropped"]
    assert len(kept) + dropped == 10
    assert kept == sorted(kept)
    assert dropped >= 6


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("work.>", "work.>"),
        (">", ">"),
        ("$mq9.AI.BROADCAST.sales.won", "$mq9.AI.BROADCAST.sales.won"),
        ("$mq9.AI.PUBLIC.LIST", "$mq9.AI.PUBLIC.LIST"),
        ("$mq9.AI.MAILBOX.MSG.demo.box.*", "$mq9.AI.MAILBOX.MSG.***"),
        ("$mq9.AI.MSG.SEND.demo", "$mq9.AI.MSG.SEND.***"),
        ("$mq9.AI.INBOX.demo.normal", "$mq9.AI.INBOX.***"),
        ("_INBOX.abc.*", "_INBOX.***"),
        ("_INBOX.abc", "_INBOX.***"),
        ("copy.of.mbx.abcdefghijklmnopqrstuvwxyz", "copy.of.mbx.***"),
    ],
)
def test_a_subject_is_shown_without_addresses_and_inboxes(subject, shown):
    assert subject_without_secrets(subject) == shown
