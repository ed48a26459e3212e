"""A REPORT by name noted from its bytes leaves the state that the command itself leaves."""

from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.domain.command import (
    Expire,
    RegisterAgent,
    ReportAgent,
    ReportAgents,
    SendMessage,
    UnregisterAgent,
    UnregisterAgents,
)
from mq9cluster.domain.limits import AGENT_KEPT_MS
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, encode_command, encode_parcel, open_parcel
from tests.property.by_bytes import assert_same_by_bytes

MAILBOX = b"$G\0m"
refs = st.sampled_from([b"$G\0a", b"$G\0b", b"other\0a"])
infos = st.sampled_from([b"", b'{"load":1}', b'{"load":2}'])
reports = st.builds(ReportAgent, refs, infos)
registers = st.builds(
    RegisterAgent, refs, st.sampled_from(["", "m"]), st.integers(0, 2), st.just(b"{}"), st.just(())
)
commands = st.one_of(
    reports,
    reports,
    reports,
    registers,
    st.builds(UnregisterAgent, refs),
    st.builds(ReportAgents, st.just(MAILBOX), infos),
    st.builds(UnregisterAgents, st.just(MAILBOX)),
    st.just(SendMessage(MAILBOX, b"x")),
    st.just(Expire()),
)
pauses_ms = st.one_of(st.integers(0, 2_500), st.just(AGENT_KEPT_MS + 3_000))
entries = st.lists(st.tuples(pauses_ms, st.lists(commands, max_size=6)), max_size=5)


@given(registers, entries)
def test_a_plain_report_does_what_the_command_does(first, entries):
    assert_same_by_bytes([(0, [first]), *entries])


def test_a_report_by_name_stays_bytes_and_one_by_mailbox_becomes_a_command():
    said = [ReportAgent(b"$G\0a", b"{}"), ReportAgents(MAILBOX, b"{}"), Expire()]
    _, found = open_parcel(encode_parcel(PARCEL_OF_NOBODY, list(map(encode_command, said))))
    assert found == [encode_command(said[0]), *said[1:]]
