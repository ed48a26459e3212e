"""Spans of the SDK: whose they are, when they were, and which are not made at all."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mq9cluster.admin.traces import OtelTracer
from mq9cluster.broker.traced import TracedRouter
from mq9cluster.cluster.tracing import PARCELS_FOLLOWED_MAX, TRACES_PER_PARCEL_MAX, ParcelTraces
from mq9cluster.machine.codec import Parcel, encode_parcel
from mq9cluster.node import SystemClock

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
HEADER = "NATS/1.0\r\nTraceParent: {}\r\nX: y\r\n\r\n"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    tracer = OtelTracer("n1", SystemClock(), SimpleSpanProcessor(exporter))
    yield tracer
    tracer.close()


def test_a_span_belongs_to_the_clients_trace_and_has_its_outcome(tracer, exporter):
    span = tracer.begin("mq9 MSG.SEND", SAMPLED)
    assert span.traceparent.startswith(f"00-{TRACE}-")
    tracer.record("mq9 commit", span.traceparent, 1.0, 2.5, 3)
    span.end("mailbox_full")
    commit, send = exporter.get_finished_spans()
    assert format(send.context.trace_id, "032x") == TRACE
    assert format(send.parent.span_id, "016x") == PARENT
    assert (send.name, send.status.is_ok, send.attributes["error.type"]) == (
        "mq9 MSG.SEND",
        False,
        "mailbox_full",
    )
    assert commit.parent.span_id == send.context.span_id
    assert commit.end_time - commit.start_time == 1_500_000_000
    assert commit.attributes["mq9.shard"] == 3


@pytest.mark.parametrize(
    "parent", [NOT_SAMPLED, "", "rubbish", f"00-{'0' * 32}-{PARENT}-01", "ff-" + SAMPLED[3:]]
)
def test_what_is_not_sampled_begins_no_trace(tracer, exporter, parent):
    assert tracer.begin("mq9 MSG.SEND", parent) is None
    assert exporter.get_finished_spans() == ()


class NoMailboxes:
    """A broker that is never asked."""

    def discover(self, *_):
        raise AssertionError

    def target(self, account, address):
        raise AssertionError


@pytest.fixture
def router(tracer):
    return TracedRouter(
        ParcelTraces(tracer, SystemClock()),
        NoMailboxes(),
        object(),
        object(),
        NoMailboxes(),
        SystemClock(),
    )


@pytest.mark.parametrize(
    ("header", "names"),
    [
        (HEADER.format(SAMPLED), ["mq9 unknown"]),
        (HEADER.format(NOT_SAMPLED), []),
        ("NATS/1.0\r\nX: traceparent\r\n\r\n", []),
        ("NATS/1.0\r\ntraceparent\r\n\r\n", []),
        (None, []),
    ],
)
def test_a_command_is_traced_where_its_header_asks_for_it(router, exporter, header, names):
    replies = []
    raw = header.encode() if header else None
    router.handle(1, "$G", b"$mq9.AI.MSG.SECRET.mbx.abc", raw, b"", replies.append)
    assert len(replies) == 1
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == names
    assert [span.attributes["error.type"] for span in spans] == ["unknown_command"] * len(spans)
    assert "abc" not in str([span.to_json() for span in spans])


class Recorder:
    """A tracer that only remembers."""

    def __init__(self):
        self.recorded = []

    def record(self, name, parent, began_s, ended_s, shard):
        assert began_s <= ended_s
        self.recorded.append((name, parent, shard))


def parcel(sequence):
    return encode_parcel(Parcel(7, 1, sequence, 0), [])


def test_a_parcels_traces_are_followed_from_the_log_into_the_state():
    recorder = Recorder()
    traces = ParcelTraces(recorder, SystemClock())
    traces.expect(2, parcel(1), ["t1", "t2"])
    traces.proposed(2, 10, [parcel(1), parcel(2)])
    assert traces.committed(2, 9) is None
    committed = traces.committed(2, 10)
    traces.applied(2, committed)
    assert recorder.recorded == [
        (name, trace, 2)
        for name in ("mq9 propose", "mq9 commit", "mq9 apply")
        for trace in ("t1", "t2")
    ]
    assert traces.committed(2, 10) is None


def test_what_is_told_and_never_comes_is_forgotten():
    recorder = Recorder()
    traces = ParcelTraces(recorder, SystemClock())
    for sequence in range(PARCELS_FOLLOWED_MAX + 1):
        traces.expect(2, parcel(sequence), ["t"] * (TRACES_PER_PARCEL_MAX + 1))
    traces.proposed(2, 1, [parcel(0)])
    assert recorder.recorded == []
    traces.proposed(2, 2, [parcel(1)])
    assert len(recorder.recorded) == TRACES_PER_PARCEL_MAX
