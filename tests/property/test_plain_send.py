"""A plain SEND stored from its bytes leaves the state that the command itself leaves."""

from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.domain.command import (
    AckMessages,
    CreateMailbox,
    DeleteMessage,
    Deliver,
    Expire,
    FetchMessages,
    Owner,
    SendMessage,
)
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, encode_command, encode_parcel, open_parcel
from tests.property.by_bytes import assert_same_by_bytes

OWNER = Owner(1, 1, 1)
refs = st.sampled_from([b"$G\0a", b"$G\0b", b"$G\0full"])
payloads = st.binary(max_size=5)
priorities = st.integers(0, 3)


def _made(kind, *fields, **named):
    """`builds` would make up what is not given."""
    values = st.tuples(st.tuples(*fields), st.fixed_dictionaries(named))
    return values.map(lambda given: kind(*given[0], **given[1]))


plain = _made(SendMessage, refs, payloads, priorities)
full = st.just(b"$G\0full")
commands = st.one_of(
    plain,
    plain,
    plain,
    _made(SendMessage, refs, payloads, priorities, key=st.just(b"k")),
    _made(SendMessage, refs, payloads, delay_s=st.integers(1, 2)),
    _made(CreateMailbox, refs, ttl_s=st.integers(0, 2)),
    _made(CreateMailbox, full, max_msgs=st.integers(1, 3)),
    _made(CreateMailbox, full, max_bytes=st.integers(1, 9)),
    _made(CreateMailbox, refs, latest=st.just(True)),
    _made(DeleteMessage, refs, st.integers(1, 6)),
    _made(
        FetchMessages,
        refs,
        st.just("g"),
        st.just(OWNER),
        deliver=st.just(Deliver.EARLIEST),
        num_msgs=st.integers(1, 3),
    ),
    _made(AckMessages, refs, st.just("g"), st.integers(1, 6), st.just(OWNER)),
    st.just(Expire()),
)
entries = st.lists(st.tuples(st.integers(0, 1500), st.lists(commands, max_size=6)), max_size=5)


@given(entries)
def test_a_plain_send_does_what_the_command_does(entries):
    born = [CreateMailbox(b"$G\0a"), CreateMailbox(b"$G\0b", ttl_s=2)]
    assert_same_by_bytes([(0, born), *entries])


def test_a_plain_send_stays_bytes_and_others_become_commands():
    said = [SendMessage(b"$G\0a", b"x"), SendMessage(b"$G\0a", b"x", key=b"k"), Expire()]
    _, found = open_parcel(encode_parcel(PARCEL_OF_NOBODY, list(map(encode_command, said))))
    assert found == [encode_command(said[0]), *said[1:]]
