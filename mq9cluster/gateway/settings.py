"""What an operator may set about connections, each number with its reason."""

from dataclasses import dataclass

from mq9cluster.domain.limits import PAYLOAD_BYTES_DEFAULT
from mq9cluster.protocol.nats import CONTROL_LINE_BYTES_MAX

# What one client's turn may gather before it is written: bounds memory under a fan-out.
FLUSH_BYTES = 262_144
# Parts at least this long on average are handed to the socket as they are, not copied together.
SHARED_PART_BYTES = 4_096
# A publisher with many subscribers yields to others after so many: some milliseconds.
DELIVERIES_PER_TURN_MAX = 8_192
# A client that ends with a hundred thousand subscriptions must not hold up the others while these
# are forgotten; it takes no deliveries any more.
DROPPED_PER_TURN_MAX = 128
# A reader that is owed this share of pending_bytes_max is behind, and who publishes to it pauses so
# long after each turn, as nats-server's producers do: a burst is then slowed instead of lost.
BEHIND_SHARE = 0.5
PUSHED_AHEAD_BYTES_MAX = 1 << 20  # owed to a client, from which on mailboxes wait for it to read
OUTRAN_PAUSE_S = 0.005
# A command with more headers or JSON than this ends its client's turn: parsing takes a millisecond.
PARSED_PER_TURN_BYTES = 16_384
# After a fatal error a client may finish sending, into the void, so that it reads why it has to go
# instead of a reset.
LINGER_S = 1.0
# A client uses one or two inbox prefixes; more would be unique ones, not worth remembering, and
# long ones are somebody's joke.
REPLY_PREFIXES_MAX = 8
REPLY_PREFIX_BYTES_MAX = 256
# How often each connection's keepalive and write deadline are looked at, and in how many slices, so
# that tens of thousands of connections cost a millisecond here and there, not one long pause.
SWEEP_S = 1.0
SWEEP_SLICES = 16
FIRST_PING_S = 2.0  # the round trip is measured soon after CONNECT, as nats-server does


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and times of one listener; the defaults are mostly nats-server's."""

    payload_bytes_max: int = PAYLOAD_BYTES_DEFAULT
    control_line_bytes_max: int = CONTROL_LINE_BYTES_MAX
    connections_max: int = 65_536
    subscriptions_max: int = 100_000  # per connection, 40 MB at worst; 0: no limit
    pending_bytes_max: int = 67_108_864  # a reader further behind than this is cut off
    write_deadline_s: float = 10.0
    ping_interval_s: float = 120.0
    pings_out_max: int = 2
    auth_timeout_s: float = 2.0
    # Commands a second that one connection may send, a second's worth at once; 0: no limit.
    requests_per_s_max: int = 0
    commands_in_flight_max: int = 4_096  # per connection: beyond it the client is not read from
    commands_in_flight_bytes_max: int = 33_554_432  # the same by payload, for 8 MiB messages
    # Clients are sent away evenly over this time, so that they do not all come back at once.
    lame_duck_s: float = 10.0
