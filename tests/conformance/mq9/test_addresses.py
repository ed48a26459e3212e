"""PROTOCOL section 1: what is an address, for every command that takes one; generated ones."""

import re

import pytest

from mq9cluster.domain.limits import ADDRESS_CHARS_MAX, ADDRESS_DEAD_LETTER_CHARS_MAX
from tests.support.mq9 import Mq9, failure, fresh
from tests.support.raw_nats import RawNats

EMPTY = "invalid mail_address: empty"
TOO_LONG = "invalid mail_address: longer than 128 characters"
FOREIGN = "invalid mail_address: only a-z, 0-9 and . are allowed"
DOTS = "invalid mail_address: two dots in a row"
ENDS = "invalid mail_address: must begin and end with a letter or digit"

REFUSED = (
    ("Upper.case", FOREIGN),
    ("with-hyphen", FOREIGN),
    ("under_score", FOREIGN),
    ("münchen", FOREIGN),
    ("٣", FOREIGN),  # a digit, but not an ASCII one
    ("star.*", FOREIGN),
    ("greater.>", FOREIGN),
    ("dollar$", FOREIGN),
    ("a..b", DOTS),
    (".first", ENDS),
    ("last.", ENDS),
    ("a" * (ADDRESS_CHARS_MAX + 1), TOO_LONG),
)

# Every command that carries an address in its subject, with what it needs besides.
ADDRESSED = (
    ("MSG.SEND.{}", None),
    ("MSG.FETCH.{}", None),
    ("MSG.ACK.{}", {"group_name": "g", "msg_id": 1}),
    ("MSG.NACK.{}", {"group_name": "g", "msg_id": 1}),
    ("MSG.QUERY.{}", None),
    ("MSG.DELETE.{}.1", None),
)


@pytest.mark.parametrize(("name", "why"), REFUSED)
async def test_create_refuses_a_malformed_name(mq9: Mq9, name: str, why: str) -> None:
    reply = await mq9.ask("MAILBOX.CREATE", {"name": name})
    assert failure(reply) == (why, "invalid_mail_address")


@pytest.mark.parametrize(
    "name", ["a", "0", "a.b", "0.9.z", "a" * ADDRESS_CHARS_MAX, "b." * 63 + "bb"]
)
async def test_create_takes_every_well_formed_name(mq9: Mq9, name: str) -> None:
    assert await mq9.create(name) == name
    assert await mq9.send(name) == 1


@pytest.mark.parametrize(("command", "body"), ADDRESSED)
async def test_every_command_refuses_every_malformed_address(
    raw: RawNats, command: str, body: dict[str, object] | None
) -> None:
    mq9 = Mq9(raw)
    answers = [failure(await mq9.ask(command.format(name), body)) for name, _ in REFUSED]
    assert answers == [(why, "invalid_mail_address") for _, why in REFUSED]


@pytest.mark.parametrize(("command", "body"), ADDRESSED)
async def test_every_command_on_a_missing_mailbox_says_so(
    mq9: Mq9, command: str, body: dict[str, object] | None
) -> None:
    name = fresh("missing")
    expected = (f"mailbox not found: mailbox {name} does not exist", "mailbox_not_found")
    assert failure(await mq9.ask(command.format(name), body)) == expected


@pytest.mark.parametrize("length", [1, ADDRESS_CHARS_MAX])
async def test_commands_take_addresses_of_any_allowed_length(mq9: Mq9, length: int) -> None:
    name = "q" * length
    await mq9.create(name)
    msg_id = await mq9.send(name, b"in")
    assert (await mq9.fetch(name, "g"))["messages"][0]["msg_id"] == msg_id
    assert await mq9.ack(name, "g", msg_id) == {"error": ""}
    assert await mq9.delete(name, msg_id) == {"error": "", "deleted": True}


@pytest.mark.parametrize("body", [None, {}, {"name": ""}, {"name": None}])
async def test_without_a_name_the_broker_generates_an_address(
    mq9: Mq9, body: dict[str, object] | None
) -> None:
    reply = await mq9.ask("MAILBOX.CREATE", body)
    assert reply["error"] == ""
    # 128 bits are 25.6 base32 digits
    assert re.fullmatch(r"mbx\.[a-z2-7]{26,}", reply["mail_address"])
    assert await mq9.send(reply["mail_address"]) == 1


async def test_generated_addresses_differ_and_use_the_whole_alphabet(mq9: Mq9) -> None:
    made = [await mq9.create() for _ in range(200)]
    assert len(set(made)) == 200
    digits = "".join(address.removeprefix("mbx.") for address in made)
    assert set(digits) == set("abcdefghijklmnopqrstuvwxyz234567")
    # no position is constant: nothing of a clock or a counter shows
    assert all(len({address[place] for address in made}) > 16 for place in range(4, 4 + 25))


async def test_an_address_with_room_for_dlq_is_needed_for_max_deliver(mq9: Mq9) -> None:
    fits = "d" * ADDRESS_DEAD_LETTER_CHARS_MAX
    assert await mq9.create(fits, max_deliver=3) == fits
    reply = await mq9.ask(
        "MAILBOX.CREATE", {"name": "d" * (ADDRESS_DEAD_LETTER_CHARS_MAX + 1), "max_deliver": 3}
    )
    assert reply["error"].startswith("invalid mail_address: ")
    assert await mq9.create("d" * (ADDRESS_DEAD_LETTER_CHARS_MAX + 1))


@pytest.mark.parametrize("name", [7, 1.5, True, [], {}, ["a"]])
async def test_a_name_that_is_no_string_is_an_invalid_name(mq9: Mq9, name: object) -> None:
    reply = await mq9.ask("MAILBOX.CREATE", {"name": name})
    assert reply["error"].startswith("invalid name: ")
    assert reply["code"] == "invalid_field"
