"""What is measured: the same jobs put to mq9cluster and to JetStream, each in its own best words.

Called by run. A *column* is a number of connections and of requests outstanding on each. Every
connection has a mailbox of its own; beside it stands a subject of its own in one stream per
column, which is JetStream's faster way (a stream per mailbox is measured apart, as *boxes*).
FETCH+ACK is the pair: one message handed out, its acknowledgement answered.
"""

from dataclasses import dataclass
from typing import Protocol

from bench.loadgen import Figures, Load, LoadFailed, LoadGenerator

PAYLOAD_BYTES = 200
STREAMS_PER_TRIAL = 200  # JetStream makes 20 (R3) to 1,000 (R1) a second, and each costs memory
MAILBOXES_PER_TRIAL = 500_000  # bounds the disk a fast machine fills; a trial normally ends by time
BOXES = 1000
PREPARING = 64  # outstanding while preparing: fast, and far from any limit
PLACEMENT_TRIES = 100  # a JetStream cluster says healthy shortly before it can place a stream
CONSUMERS_MAX = 16  # more on one stream slow JetStream down: then one that all connections share
STREAM_MADE = '"type":"io.nats.jetstream.api.v1.stream_create_response","config"'


@dataclass(frozen=True, slots=True)
class Column:
    """Connections, and requests outstanding on each."""

    connections: int
    outstanding: int

    @property
    def name(self) -> str:
        """As the tables write it."""
        return f"c{self.connections} o{self.outstanding}"

    @property
    def token(self) -> str:
        """As subjects and addresses write it."""
        return f"c{self.connections}o{self.outstanding}"


JOBS = ("SEND", "FETCH+ACK", "CREATE")
COLUMNS = (Column(1, 1), Column(1, 64), Column(1, 1000), Column(16, 64), Column(1000, 1))


class Contender(Protocol):
    """One side of the comparison."""

    name: str

    def prepare(self, column: Column) -> None:
        """Make what SEND needs."""

    def send(self, column: Column, seconds: float) -> Figures:
        """Durable sends of PAYLOAD_BYTES."""

    def prepare_fetch(self, column: Column, trial: int) -> None:
        """Make a reader of this trial's own, that starts at the oldest message."""

    def fetch_ack(self, column: Column, trial: int, seconds: float) -> Figures:
        """Fetch a message, acknowledge it, wait for the answer to that."""

    def create(self, column: Column, trial: int, seconds: float) -> Figures:
        """Make mailboxes, or streams."""

    def prepare_boxes(self) -> None:
        """Make BOXES mailboxes, or streams."""

    def send_boxes(self, seconds: float) -> Figures:
        """Send to these, each from a connection of its own."""


def offer(side: Contender, job: str, column: Column, trial: int, seconds: float) -> Figures:
    """Have a side do one of JOBS for some time."""
    if job == "SEND":
        return side.send(column, seconds)
    if job == "FETCH+ACK":
        return side.fetch_ack(column, trial, seconds)
    return side.create(column, trial, seconds)


class Mq9:
    """Ours: one mailbox per connection."""

    name = "mq9cluster"

    def __init__(self, generator: LoadGenerator) -> None:
        self.generator = generator

    def prepare(self, column: Column) -> None:
        """Make one mailbox per connection."""
        self._make_mailboxes(f"bench.{column.token}", column.connections)

    def send(self, column: Column, seconds: float) -> Figures:
        """SEND, each connection to its own mailbox."""
        return self._send(f"bench.{column.token}", column, seconds)

    def prepare_fetch(self, column: Column, trial: int) -> None:
        """Do nothing: the first FETCH makes the group."""

    def fetch_ack(self, column: Column, trial: int, seconds: float) -> Figures:
        """FETCH one and ACK it; each request in flight is a consumer of its own."""
        load = Load(
            "fetch-ack",
            address=f"bench.{column.token}.%c",
            group=f"trial-{trial}",
            connections=column.connections,
            outstanding=column.outstanding,
            seconds=seconds,
        )
        return self.generator.run(load)

    def create(self, column: Column, trial: int, seconds: float) -> Figures:
        """CREATE with a name."""
        load = Load(
            "request",
            "$mq9.AI.MAILBOX.CREATE",
            f'{{"name":"made.{column.token}.{trial}.%i"}}',
            connections=column.connections,
            outstanding=column.outstanding,
            operations=MAILBOXES_PER_TRIAL,
            seconds=seconds,
        )
        return self.generator.run(load)

    def prepare_boxes(self) -> None:
        """Make the mailboxes."""
        self._make_mailboxes("boxes", BOXES)

    def send_boxes(self, seconds: float) -> Figures:
        """SEND, each connection to its own mailbox."""
        return self._send("boxes", Column(BOXES, 1), seconds)

    def _make_mailboxes(self, prefix: str, count: int) -> None:
        load = Load(
            "request",
            "$mq9.AI.MAILBOX.CREATE",
            f'{{"name":"{prefix}.%i"}}',
            outstanding=PREPARING,
            operations=count,
        )
        self.generator.run_faultless(load)

    def _send(self, prefix: str, column: Column, seconds: float) -> Figures:
        load = Load(
            "request",
            f"$mq9.AI.MSG.SEND.{prefix}.%c",
            PAYLOAD_BYTES,
            connections=column.connections,
            outstanding=column.outstanding,
            seconds=seconds,
        )
        return self.generator.run(load)


class JetStream:
    """Theirs: one stream per column, a subject per connection, durable pull consumers."""

    name = "JetStream"

    def __init__(self, generator: LoadGenerator, replicas: int) -> None:
        self.generator = generator
        self.replicas = replicas

    def prepare(self, column: Column) -> None:
        """Make the column's stream."""
        body = self._stream(column.token, f"{column.token}.>")
        for attempt in range(1, PLACEMENT_TRIES + 1):
            try:
                self.generator.ask(f"$JS.API.STREAM.CREATE.{column.token}", body, STREAM_MADE)
            except LoadFailed:
                if attempt == PLACEMENT_TRIES:
                    raise
            else:
                return

    def send(self, column: Column, seconds: float) -> Figures:
        """Publish and wait for the stream's acknowledgement."""
        return self._publish(f"{column.token}.%c", column, seconds)

    def prepare_fetch(self, column: Column, trial: int) -> None:
        """Make durable pull consumers: for each connection's subject, or one for all."""
        shared = self._shares_consumer(column)
        name = f"t{trial}" if shared else f"t{trial}-%i"
        subject = f"{column.token}.>" if shared else f"{column.token}.%i"
        config = (
            f'{{"durable_name":"{name}","ack_policy":"explicit","deliver_policy":"all",'
            f'"filter_subject":"{subject}","max_ack_pending":-1,"max_waiting":200000}}'
        )
        load = Load(
            "request",
            f"$JS.API.CONSUMER.DURABLE.CREATE.{column.token}.{name}",
            f'{{"stream_name":"{column.token}","config":{config}}}',
            '"name":',
            operations=1 if shared else column.connections,
        )
        self.generator.run_faultless(load)

    def fetch_ack(self, column: Column, trial: int, seconds: float) -> Figures:
        """Pull one and acknowledge it with a request (AckSync)."""
        name = f"t{trial}" if self._shares_consumer(column) else f"t{trial}-%c"
        load = Load(
            "js-fetch-ack",
            f"$JS.API.CONSUMER.MSG.NEXT.{column.token}.{name}",
            connections=column.connections,
            outstanding=column.outstanding,
            seconds=seconds,
        )
        return self.generator.run(load)

    def create(self, column: Column, trial: int, seconds: float) -> Figures:
        """Make streams of one subject each, and remove them afterwards: they burden the rest."""
        name = f"m{column.token}-{trial}-%i"
        load = Load(
            "request",
            f"$JS.API.STREAM.CREATE.{name}",
            self._stream(name, f"made.{column.token}.{trial}.%i"),
            STREAM_MADE,
            connections=column.connections,
            outstanding=column.outstanding,
            operations=STREAMS_PER_TRIAL,
            seconds=seconds,
        )
        figures = self.generator.run(load)
        remove = Load(
            "request",
            f"$JS.API.STREAM.DELETE.{name}",
            expect='"success":true',
            outstanding=PREPARING,
            operations=figures.operations,
        )
        self.generator.run(remove)
        return figures

    def prepare_boxes(self) -> None:
        """Make the streams."""
        load = Load(
            "request",
            "$JS.API.STREAM.CREATE.box%i",
            self._stream("box%i", "box.%i"),
            STREAM_MADE,
            outstanding=PREPARING,
            operations=BOXES,
        )
        self.generator.run_faultless(load)

    def send_boxes(self, seconds: float) -> Figures:
        """Publish, each connection to its own stream."""
        return self._publish("box.%c", Column(BOXES, 1), seconds)

    def _shares_consumer(self, column: Column) -> bool:
        return self.replicas > 1 or column.connections > CONSUMERS_MAX

    def _stream(self, name: str, subject: str) -> str:
        return (
            f'{{"name":"{name}","subjects":["{subject}"],"storage":"file","retention":"limits",'
            f'"max_consumers":-1,"num_replicas":{self.replicas}}}'
        )

    def _publish(self, subject: str, column: Column, seconds: float) -> Figures:
        load = Load(
            "request",
            subject,
            PAYLOAD_BYTES,
            '"seq":',
            connections=column.connections,
            outstanding=column.outstanding,
            seconds=seconds,
        )
        return self.generator.run(load)
