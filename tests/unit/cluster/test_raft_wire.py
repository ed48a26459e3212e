import pytest
from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.cluster.engine import LogEntry
from mq9cluster.cluster.raft_wire import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    MalformedMessage,
    RaftMessage,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    decode,
    encode,
)

u64 = st.integers(0, 2**64 - 1)


def append(term: int, prev: int, rest: list[tuple[int, bytes]]) -> Append:
    new = [LogEntry(prev + 1 + place, one, data) for place, (one, data) in enumerate(rest)]
    return Append(term, prev, 3, 4, 5, new)


MESSAGES = st.one_of(
    st.builds(VoteRequest, u64, u64, u64, st.booleans(), st.booleans()),
    st.builds(VoteReply, u64, st.booleans(), st.booleans()),
    st.builds(
        append, u64, st.integers(0, 2**63), st.lists(st.tuples(u64, st.binary()), max_size=4)
    ),
    st.builds(AppendReply, u64, u64, st.booleans(), u64, u64, u64),
    st.builds(Heartbeat, u64, u64, u64),
    st.builds(HeartbeatReply, u64, u64),
    st.builds(TimeoutNow, u64),
)


@given(MESSAGES)
def test_what_is_encoded_is_decoded(message: RaftMessage) -> None:
    assert decode(encode(message)) == message


@given(MESSAGES, st.data())
def test_a_message_cut_short_or_grown_is_malformed(
    message: RaftMessage, data: st.DataObject
) -> None:
    whole = encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:cut], whole + b"\x00"):
        with pytest.raises(MalformedMessage):
            decode(damaged)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        message = decode(data)
    except MalformedMessage:
        return
    assert decode(encode(message)) == message


def test_another_format_is_refused_by_name() -> None:
    with pytest.raises(MalformedMessage, match="format 2, this build speaks 1"):
        decode(b"\x02" + encode(TimeoutNow(1))[1:])


def test_an_append_of_too_many_entries_is_malformed_before_they_are_looked_at() -> None:
    whole = bytearray(encode(append(1, 0, [])))
    whole[-4:] = (10**9).to_bytes(4, "little")
    with pytest.raises(MalformedMessage, match="1000000000 entries"):
        decode(bytes(whole))


def test_an_entry_costs_twelve_bytes_beside_its_data() -> None:
    assert len(encode(append(1, 0, [(1, b"x" * 100)]))) - len(encode(append(1, 0, []))) == 112
