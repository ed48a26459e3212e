"""Commands, parcels, entries and outcomes as bytes: read as written, refused where not ours."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.errors import InvalidField, MailboxNotFound, MessageNotFound
from mq9cluster.domain.limits import DUPLICATE_WINDOW_MS_DEFAULT
from mq9cluster.domain.outcome import (
    AgentRegistered,
    AgentsReported,
    AgentsUnregistered,
    Done,
    HandedOut,
    MailboxCreated,
    MessageStored,
    Outcome,
    Refused,
)
from mq9cluster.machine.codec import (
    PARCEL_OF_NOBODY,
    Parcel,
    UnknownFormat,
    decode_command,
    decode_entry,
    decode_outcomes,
    decode_parcel,
    encode_command,
    encode_entry,
    encode_outcomes,
    encode_parcel,
    plain_report,
)

REFS = st.sampled_from([mailbox_ref("$G", "a"), mailbox_ref("acc\u00e9", "x." * 60 + "y")])
NAMES = st.text(min_size=1, max_size=40)
IDS = st.one_of(st.integers(0, 300), st.integers(0, 2**53))
U32 = st.integers(0, 2**32 - 1)
OWNERS = st.builds(c.Owner, IDS, IDS, IDS)
SMALL_BYTES = st.binary(max_size=256)


PAYLOADS = st.binary(max_size=3_000)
PRIORITIES = st.integers(0, 3)


@st.composite
def full_sends(draw: st.DrawFn) -> c.SendMessage:
    """With every field; the window travels only beside the id it is for."""
    own_id = draw(SMALL_BYTES)
    return c.SendMessage(
        draw(REFS),
        draw(PAYLOADS),
        draw(PRIORITIES),
        draw(SMALL_BYTES),
        draw(SMALL_BYTES),
        draw(U32),
        draw(U32),
        own_id,
        draw(U32) if own_id else DUPLICATE_WINDOW_MS_DEFAULT,
    )


SENDS = st.one_of(
    st.tuples(REFS, PAYLOADS, PRIORITIES).map(lambda given: c.SendMessage(*given)), full_sends()
)
COMMANDS = st.one_of(
    SENDS,
    st.builds(
        c.CreateMailbox,
        REFS,
        U32,
        st.text(max_size=99),
        IDS,
        IDS,
        IDS,
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        c.FetchMessages,
        REFS,
        NAMES,
        OWNERS,
        st.text(max_size=9),
        st.sampled_from(c.Deliver),
        IDS,
        st.booleans(),
        st.lists(NAMES, max_size=3).map(tuple),
        IDS,
        U32,
        st.tuples(st.integers(0, 3), IDS),
        st.integers(1, 15),
    ),
    st.builds(
        c.AckMessages, REFS, NAMES, IDS, OWNERS, st.text(max_size=20), st.sampled_from(c.AckScope)
    ),
    st.builds(c.NackMessage, REFS, NAMES, IDS, OWNERS, U32),
    st.builds(c.DeleteMessage, REFS, IDS),
    st.builds(c.EndConnection, OWNERS),
    st.builds(c.EndIncarnation, IDS, IDS),
    st.builds(c.Expire),
    st.builds(
        c.RegisterAgent,
        REFS,
        st.text(max_size=9),
        U32,
        PAYLOADS,
        st.lists(st.tuples(st.text(max_size=9), SMALL_BYTES), max_size=3).map(tuple),
    ),
    st.builds(c.UnregisterAgent, REFS),
    st.builds(c.ReportAgent, REFS, SMALL_BYTES),
    st.builds(c.UnregisterAgents, REFS, st.text(max_size=9)),
    st.builds(c.ReportAgents, REFS, st.text(max_size=99).map(str.encode), st.text(max_size=9)),
    st.builds(c.SetAgentCode, REFS, SMALL_BYTES, st.text(max_size=9), SMALL_BYTES),
    st.builds(c.DropEmbedder, st.text(max_size=9)),
)

PARCELS = st.builds(Parcel, IDS, IDS, IDS, IDS)
PLACES = st.tuples(st.integers(0, 3), IDS)
OUTCOMES = st.one_of(
    st.builds(MessageStored, st.one_of(IDS, st.just(-1)), st.booleans()),
    st.builds(MessageStored, IDS, st.just(False)),
    st.builds(
        HandedOut, st.text(max_size=9), st.lists(PLACES).map(tuple), st.one_of(st.none(), PLACES)
    ),
    st.builds(MailboxCreated, REFS),
    st.builds(Refused, st.builds(InvalidField, NAMES, NAMES)),
    st.builds(Refused, st.builds(MessageNotFound, NAMES)),
    st.builds(Done),
    st.builds(AgentRegistered, NAMES, IDS),
    st.builds(AgentsReported, st.just(1), IDS),
    st.builds(AgentsReported, IDS, IDS, st.text(max_size=9)),
    st.builds(AgentsUnregistered, IDS, st.text(max_size=9)),
)

BOX = mailbox_ref("$G", "box")
OWNER = c.Owner(1, 2, 3)

# Version 1, byte for byte: a replica of any later version must read these.
VERSION_1 = [
    (c.SendMessage(BOX, b"hi"), "01 00 02 00062447 00 626f786869"),
    (
        c.SendMessage(BOX, b"hi", 0, b"k", b"{}", 60, 5, b"id", 1000),
        "01 01 00 00062447 00 626f780000003c 00000005 0001 00000002 0002 000003e86b 7b7d 6964 6869",
    ),
    (
        c.RegisterAgent(BOX, "m", 60, b"{}", (("e", b"\x01\x02"),)),
        "0a 0006 2447 00 626f78 0000003c 0001 0001 00000002 6d 7b7d 0001 00000002 65 0102",
    ),
    (c.ReportAgent(BOX, b"{}"), "0b 0006 2447 00 626f78 7b7d"),
    (c.SetAgentCode(BOX, b"dg", "e", b"\x01"), "0f 0006 2447 00 626f78 0002 0001 6467 65 01"),
]
VERSION_1_JSON = [
    (c.CreateMailbox(BOX, 60, "d", 3, 4, 5, retain_acked=True), 2, b'[60,"d",3,4,5,true]'),
    (
        c.FetchMessages(BOX, "g", OWNER, "c", 1, 7, True, ("t",), 10, 2000, (2, 9)),
        3,
        b'["g",[1,2,3],"c",1,7,true,["t"],10,2000,[2,9]]',
    ),
    (
        c.CreateMailbox(BOX, 60, "d", 3, 4, 5, retain_acked=True, public=True),
        2,
        b'[60,"d",3,4,5,true,true,false]',
    ),
    (
        c.FetchMessages(BOX, "g", OWNER, priorities=6),
        3,
        b'["g",[1,2,3],"",0,0,false,[],100,0,[0,0],6]',
    ),
    (c.AckMessages(BOX, "g", 5, OWNER, "1-1", 1), 4, b'["g",5,[1,2,3],"1-1",1]'),
    (c.NackMessage(BOX, "g", 5, OWNER, 9), 5, b'["g",5,[1,2,3],9]'),
    (c.DeleteMessage(BOX, 5), 6, b"[5]"),
    (c.EndConnection(OWNER), 7, b"[1,2,3]"),
    (c.EndIncarnation(1, 2), 8, b"[1,2]"),
    (c.Expire(), 9, b"[]"),
    (c.UnregisterAgent(BOX), 12, b"[]"),
    (c.UnregisterAgents(BOX, "a"), 13, b'["a"]'),
    (c.ReportAgents(BOX, b"{}", "a"), 14, b'["{}","a"]'),
    (c.DropEmbedder("e"), 16, b'["e"]'),
]


@given(COMMANDS)
def test_a_command_is_read_as_it_was_written(command: c.Command) -> None:
    read = decode_command(encode_command(command))
    assert read == command
    assert type(read) is type(command)


@given(REFS, SMALL_BYTES)
def test_a_plain_report_is_the_command_encoded(ref: bytes, info: bytes) -> None:
    assert plain_report(ref, info) == encode_command(c.ReportAgent(ref, info))


@given(PARCELS, st.lists(COMMANDS, max_size=8))
def test_a_parcel_is_read_as_it_was_written(parcel: Parcel, commands: list[c.Command]) -> None:
    written = encode_parcel(parcel, [encode_command(command) for command in commands])
    assert decode_parcel(written) == (parcel, commands)


@given(st.integers(0, 2**63), st.lists(st.binary(max_size=99), max_size=5))
def test_an_entry_is_read_as_it_was_written(stamp_ms: int, parcels: list[bytes]) -> None:
    assert decode_entry(encode_entry(stamp_ms, parcels)) == (stamp_ms, parcels)


@given(st.lists(OUTCOMES, max_size=8))
def test_outcomes_are_read_as_they_were_written(outcomes: list[Outcome]) -> None:
    read = decode_outcomes(encode_outcomes(outcomes))
    assert read == outcomes
    assert [type(outcome) for outcome in read] == [type(outcome) for outcome in outcomes]


@given(st.lists(COMMANDS, min_size=1, max_size=3), st.data())
def test_a_parcel_cut_short_or_too_long_is_refused(
    commands: list[c.Command], data: st.DataObject
) -> None:
    parcel = encode_parcel(PARCEL_OF_NOBODY, [encode_command(command) for command in commands])
    with pytest.raises(UnknownFormat):
        decode_parcel(parcel[: data.draw(st.integers(0, len(parcel) - 1))])
    with pytest.raises(UnknownFormat):
        decode_parcel(parcel + b"x")


@given(st.lists(st.binary(max_size=9), min_size=1, max_size=3), st.data())
def test_an_entry_cut_short_or_too_long_is_refused(
    parcels: list[bytes], data: st.DataObject
) -> None:
    entry = encode_entry(1, parcels)
    with pytest.raises(UnknownFormat):
        decode_entry(entry[: data.draw(st.integers(0, len(entry) - 1))])
    with pytest.raises(UnknownFormat):
        decode_entry(entry + b"x")


@given(st.binary(max_size=60))
def test_rubbish_for_a_command_is_refused(rubbish: bytes) -> None:
    for kind in range(256):
        with contextlib.suppress(UnknownFormat):
            decode_parcel(encode_parcel(PARCEL_OF_NOBODY, [bytes([kind]) + rubbish]))


def test_an_entry_of_another_version_is_refused() -> None:
    entry = encode_entry(1, [encode_command(c.Expire())])
    for version in (0, 2, 255):
        with pytest.raises(UnknownFormat):
            decode_entry(bytes([version]) + entry[1:])


def test_a_command_of_an_unknown_kind_is_refused() -> None:
    for kind in (0, 17, 255):
        data = bytes([kind]) + encode_command(c.Expire())[1:]
        with pytest.raises(UnknownFormat):
            decode_command(data)
        with pytest.raises(UnknownFormat):
            decode_parcel(encode_parcel(PARCEL_OF_NOBODY, [data]))


@pytest.mark.parametrize(("command", "written"), VERSION_1)
def test_version_1_of_binary_commands_is_these_bytes(command: c.Command, written: str) -> None:
    assert encode_command(command).hex(" ") == bytes.fromhex(written).hex(" ")
    assert decode_command(bytes.fromhex(written)) == command


@pytest.mark.parametrize(("command", "kind", "fields"), VERSION_1_JSON)
def test_version_1_of_the_other_commands_is_these_bytes(
    command: c.Command, kind: int, fields: bytes
) -> None:
    ref = BOX if kind < 7 or 9 < kind < 16 else b""
    written = bytes([kind]) + len(ref).to_bytes(2, "big") + ref + fields
    assert encode_command(command) == written
    assert decode_command(written) == command


def test_version_1_of_an_entry_is_these_bytes() -> None:
    written = bytes.fromhex("01 0000018bcfe56800 00000002 00000003 616263 00000002 6465")
    assert encode_entry(1_700_000_000_000, [b"abc", b"de"]) == written


def test_version_1_of_a_parcel_is_these_bytes() -> None:
    written = bytes.fromhex(
        "0000000000000001 0000000000000002 0000000000000003 0000000000000004"
        "00000002 00000003 00000002 616263 6465"
    )
    assert encode_parcel(Parcel(1, 2, 3, 4), [b"abc", b"de"]).hex() == written.hex()


def test_version_1_of_outcomes_is_these_bytes() -> None:
    assert encode_outcomes([MessageStored(7), MessageStored(-1)]) == b"S" + bytes.fromhex(
        "0000000000000007 ffffffffffffffff"
    )
    assert encode_outcomes([AgentsReported(1, 7), AgentsReported(1, 0)]) == b"R" + bytes.fromhex(
        "0000000000000007 0000000000000000"
    )
    mixed = [
        MessageStored(7, duplicate=True),
        HandedOut("1-2", ((0, 3), (2, 1)), None),
        HandedOut("", (), (2, 9)),
        MailboxCreated(BOX),
        Refused(MailboxNotFound("box")),
        Done(),
        AgentRegistered("a", 7),
        AgentsReported(2, 7, "a"),
        AgentsUnregistered(1),
    ]
    assert encode_outcomes(mixed) == (
        b'J[["stored",7,true],["handed","1-2",[[0,3],[2,1]],null],["handed","",[],[2,9]],'
        b'["created","$G\\u0000box"],["refused","mailbox_not_found","mailbox not found: mailbox box'
        b' does not exist"],["done"],["registered","a",7],["reported",2,7,"a"],['
        b'"unregistered",1,""]]'
    )
    assert decode_outcomes(encode_outcomes(mixed)) == mixed


def test_a_send_cut_short_before_its_payload_is_refused() -> None:
    send = c.SendMessage(b"$G\0a", b"", key=b"key", meta=b"{}", dedupe_id=b"id")
    whole = encode_command(send)
    for length in range(len(whole)):
        with pytest.raises(UnknownFormat):
            decode_command(whole[:length])
    assert decode_command(whole) == send


@pytest.mark.parametrize("data", [b"\x0e\x00\x00[4]", b"\x0e\x00\x00[]", b"\x0e\x00\x00{}"])
def test_a_command_whose_fields_are_of_other_kinds_is_refused(data: bytes) -> None:
    with pytest.raises(UnknownFormat):
        decode_command(data)


@pytest.mark.parametrize(
    "data", [b"", b"S1", b"R1234567", b"J", b"J[1]", b'J[["none"]]', b'J[["stored"]]', b"J{}1"]
)
def test_outcomes_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(UnknownFormat):
        decode_outcomes(data)
