"""NATS header blocks: `NATS/1.0 [status]`, then `Name: value` lines, then an empty line. Pure.

Called by `requests` and broker (to read what a client sent) and the chaos suite; calls nothing.
"""

from collections.abc import Iterable

VERSION_LINE = b"NATS/1.0"


def parse(block: bytes) -> list[tuple[str, str]]:
    """The headers of `block` in order, names as sent, repeated ones included.

    Tolerant as nats-server, which never looks inside: a line without a colon or without a name is
    skipped, a bare LF ends a line too, and the status is ignored. Bytes that are no UTF-8 become
    lone surrogates, one each, so that two values that differ stay different; `shown` makes them
    readable, and what has to be UTF-8 can tell by them.
    """
    text = block.decode("utf-8", "surrogateescape")
    headers: list[tuple[str, str]] = []
    for line in text.split("\n")[1:]:
        name, colon, value = line.partition(":")
        name = name.strip(" \t\r")
        if colon and name:
            headers.append((name, value.strip(" \t\r")))
    return headers


def shown(text: str) -> str:
    """A name or value for readers: what was no UTF-8 becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def status(block: bytes) -> tuple[int, str]:
    """The status of the first line and its description: (503, "") for no responders, (0, "") where
    there is none.
    """
    line = block.partition(b"\n")[0].rstrip(b"\r")
    words = line[len(VERSION_LINE) :].strip().split(b" ", 1)
    if not words[0].isdigit():
        return 0, ""
    return int(words[0]), words[1].strip().decode("utf-8", "replace") if len(words) == 2 else ""


def one_line(text: str) -> str:
    """A value that stays in its line."""
    return text.replace("\r", " ").replace("\n", " ") if "\r" in text or "\n" in text else text


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """A header block. Raises ValueError where a name or value would break out of its line."""
    lines = [VERSION_LINE]
    for name, value in headers:
        if not name or any(character in ":\r\n" for character in name):
            raise ValueError(f"not a header name: {name!r}")
        if "\r" in value or "\n" in value:
            raise ValueError(f"header {name} has a line break in its value")
        lines.append(f"{name}: {value}".encode())
    return b"\r\n".join((*lines, b"", b""))
