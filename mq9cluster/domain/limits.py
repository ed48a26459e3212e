"""Every bound the wire contract or the broker sets, each with its reason (docs/protocol.md)."""

ADDRESS_CHARS_MAX = 128  # fits a subject token path and a fixed error line
ADDRESS_DEAD_LETTER_CHARS_MAX = 124  # ".dlq" must still fit behind it
DEAD_LETTER_SUFFIX = ".dlq"
NAME_BYTES_MAX = 256  # groups, consumers, keys, tags, agent names
TAGS_MAX = 32  # a message's tags are scanned on every filtered read
REQUEST_BYTES_MAX = 131_072  # JSON of a command: every field at its limit fits; parsed in some ms
HEADER_BLOCK_BYTES_MAX = 65_536  # all headers of a SEND as sent: 32 long tags and a key fit well
HEADER_BYTES_MAX = 4096  # stored headers of one message, names and values together
TTL_SECONDS_MAX = 315_360_000  # ten years: later is "never", and sums stay far below 2**63 ms
WAIT_MS_MAX = 300_000  # a waiting FETCH holds a timer and a slot
WAIT_MS_DEFAULT = 500
WAITING_FETCHES_DEFAULT = 1_000  # of one connection: a flood is refused before it stalls itself
ACK_WAIT_MS_MIN = 1_000  # shorter than a round trip plus a clock step would redeliver for nothing
ACK_WAIT_MS_MAX = 86_400_000
RESULTS_MAX = 1_000  # num_msgs and limit: one reply's worth
RESULTS_DEFAULT = 100
LIST_MAX = 10_000  # messages of a MAILBOX.LIST, the newest: about 60 bytes each
PUSH_PAGE_MAX = 100  # messages a push subscription is given at a time: one reply's worth
PUSH_GROUP_PAGE_FIRST = (
    8  # of a queue group: few, so that members share; twice that after each full
)
REMOVED_TOLD_S = 3_600  # so long PUBLIC.LIST says that a mailbox is gone, to readers who are behind
NOTIFY_TTL_S = 3_600  # dialect 000: a `notify` message that says nothing of its ttl
PAGE_MAX = 10_000
MAX_DELIVER_MAX = 1_000
GROUPS_PER_MAILBOX_MAX = 1_000  # retain "acked" looks at all of them
GROUP_IDLE_MS = 7 * 86_400_000  # a forgotten worker pool must not hold messages for ever
GROUP_TOUCH_MS = 3_600_000  # a FETCH that finds nothing is recorded at most once an hour
HELD_PER_GROUP_MAX = 100_000  # a group's hand-outs are held in memory while it is in use
HANDOUTS_REMEMBERED_MAX = 256  # ended hand-outs of a group that a late ACK may still name
HANDOUTS_UNSETTLED_MAX = 256  # older ones beside these, with messages that nobody is done with yet
DESC_BYTES_MAX = 1_024  # shown whole in listings
REPORT_INFO_BYTES_MAX = 16_384  # written by every replica with every heartbeat
REPORT_WAIT_MS = 250  # a REPORT waits so long at most for others to share an entry with
REPORT_HOLD_MS = 25  # and about so long at its leader, for those that other nodes took
AGENT_KEPT_MS = 600_000  # an expired agent can still be asked for, and then is swept
AGENTS_PER_SHARD_MAX = 1_000_000  # each replica's search index holds them in memory
AGENTS_PER_STEP_MAX = 500  # of one mailbox, done by one command: about 10 ms
PAYLOAD_BYTES_DEFAULT = 1_048_576
PAYLOAD_BYTES_MAX = 8_388_608
REPLY_JSON_BYTES_MAX = 8_388_608  # a FETCH or QUERY reply stops adding messages here
DUPLICATE_WINDOW_MS_DEFAULT = 120_000
MAILBOX_COUNT_MAX = 2**53 - 1  # max_msgs and max_bytes: what JSON readers hold exactly
SLOTS = 16_384  # units of placement: a shard owns some of them
