"""Reading the fields of a request: each checked once, here, and refused with the page's own words.

Source: docs/protocol.md, section 1. `null` is the same as absent; booleans are not integers;
unknown fields are ignored.
"""

import re
from typing import Any

import orjson

from mq9cluster.domain.errors import InvalidField, InvalidRequest
from mq9cluster.domain.limits import NAME_BYTES_MAX, REQUEST_BYTES_MAX, TAGS_MAX

U63_MAX = 2**63 - 1
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)


def parse_body(payload: bytes) -> dict[str, Any]:
    """The JSON object of a request; an empty body is an empty object. Raises InvalidRequest."""
    if not payload:
        return {}
    if len(payload) > REQUEST_BYTES_MAX:
        raise InvalidRequest(f"larger than {REQUEST_BYTES_MAX} bytes")
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest("the body is not JSON") from error
    if type(body) is not dict:
        raise InvalidRequest("the body is not a JSON object")
    return body


def integer(body: dict[str, Any], field: str, low: int, high: int, default: int) -> int:
    """An optional integer from low to high; raises InvalidField."""
    value = body.get(field)
    if value is None:
        return default
    if type(value) is not int:
        raise InvalidField(field, "must be an integer")
    return in_range(field, value, low, high)


def required_integer(body: dict[str, Any], field: str, low: int, high: int) -> int:
    """An integer from low to high; raises InvalidField."""
    if body.get(field) is None:
        raise InvalidField(field, "required")
    return integer(body, field, low, high, 0)


def in_range(field: str, value: int, low: int, high: int) -> int:
    """The value, if it is from low to high; raises InvalidField."""
    if value < low:
        raise InvalidField(field, f"must be at least {low}")
    if value > high:
        raise InvalidField(field, f"must be at most {high}")
    return value


def digits(field: str, text: str, low: int, high: int) -> int:
    """An integer as a header or subject carries it; raises InvalidField."""
    if not _DIGITS.fullmatch(text):
        raise InvalidField(field, "must be an integer")
    return in_range(field, int(text), low, high)


def text(body: dict[str, Any], field: str) -> str:
    """An optional string, "" when absent; raises InvalidField."""
    value = body.get(field)
    if value is None:
        return ""
    if type(value) is not str:
        raise InvalidField(field, "must be a string")
    return value


def checked_name(field: str, value: str) -> str:
    """The value, if it is 1 to 256 bytes of UTF-8 without control characters; raises
    InvalidField.
    """
    if not value:
        raise InvalidField(field, "empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:  # of a header whose bytes were no UTF-8
        raise InvalidField(field, "must be UTF-8") from error
    if size > NAME_BYTES_MAX:
        raise InvalidField(field, f"longer than {NAME_BYTES_MAX} bytes")
    if _CONTROL.search(value):
        raise InvalidField(field, "control characters are not allowed")
    return value


def name(body: dict[str, Any], field: str) -> str:
    """An optional name, "" when absent (but not when empty); raises InvalidField."""
    value = body.get(field)
    if value is None:
        return ""
    return checked_name(field, text(body, field))


def required_name(body: dict[str, Any], field: str) -> str:
    """A name; raises InvalidField."""
    if body.get(field) is None:
        raise InvalidField(field, "required")
    return name(body, field)


def flag(body: dict[str, Any], field: str) -> bool:
    """An optional boolean; raises InvalidField."""
    value = body.get(field)
    if value is None:
        return False
    if type(value) is not bool:
        raise InvalidField(field, "must be true or false")
    return value


def tags(body: dict[str, Any]) -> tuple[str, ...]:
    """An optional list of tags; raises InvalidField."""
    value = body.get("tags")
    if value is None:
        return ()
    if type(value) is not list or any(type(tag) is not str for tag in value):
        raise InvalidField("tags", "must be a list of strings")
    return checked_tags(value)


def checked_tags(values: list[str]) -> tuple[str, ...]:
    """The tags, if they are not too many and each is a name; raises InvalidField."""
    if len(values) > TAGS_MAX:
        raise InvalidField("tags", f"more than {TAGS_MAX}")
    return tuple(checked_name("tags", value) for value in values)


def choice(body: dict[str, Any], field: str, choices: tuple[str, ...]) -> str:
    """One of the choices, the first when absent; raises InvalidField."""
    value = body.get(field)
    if value is None:
        return choices[0]
    if type(value) is not str or value not in choices:
        raise InvalidField(field, f"must be one of {', '.join(choices)}")
    return value


def nested(body: dict[str, Any], field: str) -> dict[str, Any]:
    """An optional object; raises InvalidField."""
    value = body.get(field)
    if value is None:
        return {}
    if type(value) is not dict:
        raise InvalidField(field, "must be an object")
    return value
