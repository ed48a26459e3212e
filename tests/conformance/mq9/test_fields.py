"""PROTOCOL section 1 as tables: for every field its last accepted and first refused values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.support.mq9 import Mq9, Reply, fresh

TEN_YEARS_S = 315_360_000
EXACT_INTEGER_MAX = 2**53 - 1
NOT_STRINGS = (7, 1.5, True, ["g"], {"g": 1})
NOT_INTEGERS = (True, False, 1.0, 1.5, "1", "", [1], {"a": 1}, -1, -(2**63), 2**64, 10**30)


class Field(NamedTuple):
    """A field of a command: `accepted` and `refused` values, the latter as `invalid <names>`."""

    command: str
    name: str
    accepted: tuple[Any, ...]
    refused: tuple[Any, ...]
    error: str = ""

    @property
    def prefix(self) -> str:
        return f"invalid {self.error or self.name.rpartition('.')[2]}: "


def integer(
    low: int, high: int, *, also_refused: tuple[Any, ...] = ()
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Both sides of the limits of an integer field. `null` is the same as absent."""
    below = (low - 1,) if low > 0 else ()
    return (low, high, None), (*below, high + 1, *NOT_INTEGERS, *also_refused)


def name() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Both sides of a name: 1 to 256 bytes of UTF-8 without control characters."""
    accepted = ("g", "g" * 256, "ü" * 128, "工作组 1", "a b.c*>")
    refused = ("", "g" * 257, "ü" * 128 + "g", "a\nb", "\t", "a\x00", "\x7f", "\x85", *NOT_STRINGS)
    return accepted, refused


def tag_list() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Both sides of a list of tags."""
    accepted = (["a"], [f"t{n}" for n in range(32)], ["t" * 256], None)
    refused = (
        [f"t{n}" for n in range(33)],
        ["t" * 257],
        [""],
        ["a", 1],
        [None],
        ["a\n"],
        "a",
        1,
        {"a": 1},
        True,
    )
    return accepted, refused


FIELDS = (
    Field("CREATE", "ttl", *integer(0, TEN_YEARS_S)),
    Field("CREATE", "max_deliver", *integer(1, 1000)),
    Field("CREATE", "max_msgs", *integer(0, EXACT_INTEGER_MAX)),
    Field("CREATE", "max_bytes", *integer(0, EXACT_INTEGER_MAX)),
    Field(
        "CREATE",
        "desc",
        ("", "d" * 1024, "ü" * 512, None),
        ("d" * 1025, "ü" * 512 + "d", *NOT_STRINGS),
    ),
    Field("CREATE", "retain", ("ttl", "acked", None), ("", "all", "TTL", *NOT_STRINGS)),
    Field("FETCH", "group_name", *name()),
    Field("FETCH", "consumer", *name()),
    Field("FETCH", "tags", *tag_list()),
    Field(
        "FETCH", "deliver", ("latest", "earliest", None), ("", "oldest", "EARLIEST", *NOT_STRINGS)
    ),
    Field("FETCH", "force_deliver", (True, False, None), (0, 1, "true", [], {})),
    Field("FETCH", "config", ({}, None), ([], "x", 1, True)),
    Field("FETCH", "config.num_msgs", *integer(1, 1000)),
    Field("FETCH", "config.max_wait_ms", *integer(0, 300_000)),
    Field("FETCH", "config.ack_wait_ms", *integer(1000, 86_400_000, also_refused=(0, 999))),
    Field("FETCH", "encoding", ("base64", "text", None), ("", "utf-8", "TEXT", *NOT_STRINGS)),
    Field("FETCH", "consistency", ("stale", None), ("", "eventual", *NOT_STRINGS)),
    Field("FETCH from_time", "from_time", (0, 1_700_000_000, 2**40), NOT_INTEGERS),
    Field("FETCH from_id", "from_id", (0, 1, 2**40), NOT_INTEGERS),
    Field("ACK", "msg_id", (1,), NOT_INTEGERS),
    Field("ACK", "scope", ("batch", "message", "progress", None), ("", "all", *NOT_STRINGS)),
    Field("ACK", "handout", (None,), NOT_STRINGS),
    Field("NACK", "msg_id", (1,), NOT_INTEGERS),
    Field("NACK", "delay", *integer(0, TEN_YEARS_S)),
    Field("QUERY", "key", *name()),
    Field("QUERY", "tags", *tag_list()),
    Field("QUERY", "since", (0, 1_700_000_000, 2**40, None), NOT_INTEGERS),
    Field("QUERY", "limit", *integer(1, 1000)),
    Field("QUERY", "encoding", ("base64", "text", None), ("", "utf-8", *NOT_STRINGS)),
    Field("QUERY", "consistency", ("stale", None), ("", "eventual", *NOT_STRINGS)),
    Field("REGISTER", "name", *name()),
    Field("REGISTER", "ttl", *integer(0, TEN_YEARS_S)),
    Field("REGISTER", "mailbox", ("a", "mq9://b/a", None), NOT_STRINGS),
    Field("REGISTER", "tags", *tag_list()),
    Field("REGISTER", "description", ("", "any\ntext", None), NOT_STRINGS),
    Field("REGISTER", "version", ("1.0", 2, 1.5, None), (True, [1], {"a": 1})),
    Field("REGISTER", "provider", ("p", {"organization": "p"}, {}, None), (7, True, ["p"])),
    Field(
        "REGISTER",
        "skills",
        ([], ["s"], [{}], ["s"] * 128, [{"examples": ["e"] * 64, "tags": ["t"] * 32}], None),
        (
            "s",
            7,
            {"id": "s"},
            [7],
            ["s"] * 129,
            [{"examples": ["e"] * 65}],
            [{"examples": "e"}],
            [{"tags": "t"}],
            [{"tags": ["t"] * 33}],
            [{"id": 7}],
            [{"description": ["d"]}],
        ),
    ),
    Field("REPORT", "name", *name()),
    Field("REPORT", "mailbox", (), NOT_STRINGS),
    Field("UNREGISTER", "name", *name()),
    Field("UNREGISTER", "mailbox", (), NOT_STRINGS),
)


async def try_create(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    return await mq9.ask("MAILBOX.CREATE", {"name": fresh("field"), **fields})


async def try_fetch(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    """FETCH with a new group where there is one message: never waits, whatever max_wait_ms."""
    address = await mq9.box("field")
    await mq9.send(address)
    return await mq9.ask(
        f"MSG.FETCH.{address}", {"group_name": "g", "deliver": "earliest", **fields}
    )


async def try_fetch_from_time(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    return await try_fetch(mq9, {"deliver": "from_time", "config": {"max_wait_ms": 0}, **fields})


async def try_fetch_from_id(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    return await try_fetch(mq9, {"deliver": "from_id", "config": {"max_wait_ms": 0}, **fields})


async def held(mq9: Mq9) -> str:
    """A mailbox whose message 1 is handed out to this connection for group g."""
    address = await mq9.box("field")
    await mq9.send(address)
    await mq9.fetch(address, "g")
    return address


async def try_ack(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    return await mq9.ask(f"MSG.ACK.{await held(mq9)}", {"group_name": "g", "msg_id": 1, **fields})


async def try_nack(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    return await mq9.ask(f"MSG.NACK.{await held(mq9)}", {"group_name": "g", "msg_id": 1, **fields})


async def try_query(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    return await mq9.ask(f"MSG.QUERY.{await mq9.box('field')}", fields)


async def try_register(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    return await mq9.ask("AGENT.REGISTER", {"name": fresh("field"), **fields})


async def try_report(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    await mq9.ask("AGENT.REGISTER", fields)
    return await mq9.ask("AGENT.REPORT", fields)


async def try_unregister(mq9: Mq9, fields: dict[str, Any]) -> Reply:
    await mq9.ask("AGENT.REGISTER", fields)
    return await mq9.ask("AGENT.UNREGISTER", fields)


TRIES: dict[str, Callable[[Mq9, dict[str, Any]], Any]] = {
    "CREATE": try_create,
    "FETCH": try_fetch,
    "FETCH from_time": try_fetch_from_time,
    "FETCH from_id": try_fetch_from_id,
    "ACK": try_ack,
    "NACK": try_nack,
    "QUERY": try_query,
    "REGISTER": try_register,
    "REPORT": try_report,
    "UNREGISTER": try_unregister,
}


def nested(path: str, value: Any) -> dict[str, Any]:
    """`config.num_msgs` and 3 as `{"config": {"num_msgs": 3}}`."""
    outer, _, inner = path.rpartition(".")
    return {outer: {inner: value}} if outer else {inner: value}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.command}-{field.name}")
async def test_a_field_takes_every_value_inside_its_limits(mq9: Mq9, field: Field) -> None:
    attempt = TRIES[field.command]
    answers = {
        repr(value): (await attempt(mq9, nested(field.name, value)))["error"]
        for value in field.accepted
    }
    assert answers == {repr(value): "" for value in field.accepted}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.command}-{field.name}")
async def test_a_field_refuses_every_value_outside_its_limits(mq9: Mq9, field: Field) -> None:
    attempt = TRIES[field.command]
    answers = {}
    for value in field.refused:
        reply = await attempt(mq9, nested(field.name, value))
        says_why = len(reply["error"]) > len(field.prefix)
        answers[repr(value)] = (reply["error"][: len(field.prefix)], reply.get("code"), says_why)
    assert answers == {
        repr(value): (field.prefix, "invalid_field", True) for value in field.refused
    }


REQUIRED = (
    ("FETCH from_time", "deliver", "from_time", "invalid from_time: required"),
    ("FETCH from_id", "deliver", "from_id", "invalid from_id: required"),
    ("ACK", "group_name", None, "invalid group_name: required"),
    ("ACK", "msg_id", None, "invalid msg_id: required"),
    ("NACK", "group_name", None, "invalid group_name: required"),
    ("NACK", "msg_id", None, "invalid msg_id: required"),
)


@pytest.mark.parametrize(("command", "field", "value", "error"), REQUIRED)
async def test_a_required_field_that_is_missing_or_null_is_named(
    mq9: Mq9, command: str, field: str, value: object, error: str
) -> None:
    reply = await TRIES[command](mq9, {field: value})
    assert reply == {"error": error, "code": "invalid_field"}


@pytest.mark.parametrize("command", ["ACK", "NACK"])
@pytest.mark.parametrize("body", [None, {}])
async def test_an_empty_body_lacks_the_group_name(
    mq9: Mq9, command: str, body: dict[str, object] | None
) -> None:
    reply = await mq9.ask(f"MSG.{command}.{await mq9.box()}", body)
    assert reply == {"error": "invalid group_name: required", "code": "invalid_field"}


async def test_ack_and_nack_refuse_malformed_group_names(mq9: Mq9) -> None:
    _, refused = name()
    for command in ("ACK", "NACK"):
        for value in refused:
            reply = await TRIES[command](mq9, {"group_name": value})
            assert reply["error"].startswith("invalid group_name: "), (command, value, reply)


async def test_the_mail_address_of_an_ack_must_match_its_subject(mq9: Mq9) -> None:
    address = await held(mq9)
    reply = await mq9.ack(address, "g", 1, mail_address=fresh("elsewhere"))
    assert reply["error"].startswith("invalid mail_address: ")
    for value in NOT_STRINGS:
        reply = await mq9.ack(address, "g", 1, mail_address=value)
        assert reply["code"] == "invalid_mail_address", value
    assert await mq9.ack(address, "g", 1, mail_address=address) == {"error": ""}
    assert await mq9.ack(address, "g", 1, mail_address=None) == {"error": ""}


async def test_a_delete_id_must_be_a_positive_integer(mq9: Mq9) -> None:
    address = await mq9.box()
    await mq9.send(address)
    refused = ("0", "-1", "x", "1x", "+1", "1_0", "٣", "0x1", "1e0", "9" * 30)
    answers = [(await mq9.delete(address, msg_id))["error"][:16] for msg_id in refused]
    assert answers == ["invalid msg_id: "] * len(refused)
    assert await mq9.delete(address, 1) == {"error": "", "deleted": True}


async def test_unknown_fields_are_ignored(mq9: Mq9) -> None:
    extra = {"x": 1, "future": {"a": [None]}}
    assert (await try_create(mq9, extra))["error"] == ""
    assert (await try_fetch(mq9, {**extra, "config": extra}))["error"] == ""
    assert await try_ack(mq9, extra) == {"error": ""}
    assert await try_nack(mq9, extra) == {"error": ""}
    assert (await try_query(mq9, extra))["error"] == ""


NO_OBJECTS = (
    b"x",
    b"[]",
    b"1",
    b'"name"',
    b"null",
    b"true",
    b"{",
    b'{"ttl":}',
    b"\xff\xfe",
    b"{}{}",
    b'{"a":1}x',
    b"NaN",
)


@pytest.mark.parametrize(
    "command", ["MAILBOX.CREATE", "MSG.FETCH.{}", "MSG.ACK.{}", "MSG.NACK.{}", "MSG.QUERY.{}"]
)
async def test_a_body_that_is_no_json_object_is_an_invalid_request(mq9: Mq9, command: str) -> None:
    subject = command.format(await mq9.box())
    for body in NO_OBJECTS:
        reply = await mq9.ask(subject, body)
        assert (reply["error"][:17], reply["code"]) == ("invalid request: ", "invalid_request"), (
            body
        )


async def test_json_nested_deeper_than_any_parser_likes_is_refused_and_harms_nobody(
    mq9: Mq9,
) -> None:
    body = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    reply = await mq9.ask("MAILBOX.CREATE", body)
    assert reply["error"].startswith("invalid request: ")
    assert await mq9.send(await mq9.box()) == 1


async def test_a_request_has_room_for_128_kib_and_not_a_byte_more(mq9: Mq9) -> None:
    body = b'{"x":"%b"}' % (b"y" * (131_072 - len(b'{"x":""}')))
    assert (await mq9.ask("MAILBOX.CREATE", body))["error"] == ""
    reply = await mq9.ask("MAILBOX.CREATE", body + b" ")
    assert reply == {
        "error": "invalid request: larger than 131072 bytes",
        "code": "invalid_request",
    }


async def test_a_request_with_every_field_at_its_limit_fits(mq9: Mq9) -> None:
    address = await mq9.box()
    # six bytes of JSON for each of the value: the longest way to write it
    longest = "\\u00e9" * 128
    tags = ",".join(f'"{longest}"' for _ in range(32))
    names = f'"group_name":"{longest}","consumer":"{longest}","tags":[{tags}]'
    body = f'{{{names},"config":{{"max_wait_ms":0}}}}'
    assert (await mq9.ask(f"MSG.FETCH.{address}", body.encode()))["error"] == ""
