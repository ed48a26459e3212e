"""A search that runs out of its budget again and again ends, and misses nothing."""

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from mq9cluster.domain.outcome import HandedOut
from mq9cluster.machine import search
from tests.property.machine_shard import MachineShard

NOW_MS = 1_700_000_000_000
BOX = mailbox_ref("$G", "box")
FATES = ["open", "open", "other tag", "held", "done", "deleted", "expired", "given back"]
HOLDER, SEEKER = c.Owner(1, 1, 1), c.Owner(1, 1, 2)


def mailbox_of(fates: list[tuple[str, int]]) -> MachineShard:
    """A machine with a message for each fate and priority, as the group `g` stands to it."""
    machine = MachineShard()
    machine.entry(NOW_MS, [c.CreateMailbox(BOX)])
    fetch = c.FetchMessages(BOX, "g", HOLDER, deliver=c.Deliver.EARLIEST, num_msgs=1_000)
    held = [fate in {"held", "done", "given back"} for fate, _ in fates]
    for (fate, priority), is_held in zip(fates, held, strict=True):
        tag = b"h" if is_held else b"o" if fate == "other tag" else b"s"
        ttl_s = 1 if fate == "expired" else 0
        machine.apply(
            NOW_MS, c.SendMessage(BOX, b"", priority, meta=b'{"tags":["%b"]}' % tag, ttl_s=ttl_s)
        )
    machine.apply(NOW_MS + 1_000, fetch._replace(tags=("h",)))
    for msg_id, (fate, _) in enumerate(fates, 1):
        match fate:
            case "done":
                ack = c.AckMessages(BOX, "g", msg_id, HOLDER, "", c.AckScope.MESSAGE)
                machine.apply(NOW_MS + 1_000, ack)
            case "given back":
                machine.apply(NOW_MS + 1_000, c.NackMessage(BOX, "g", msg_id, HOLDER))
            case "deleted":
                machine.apply(NOW_MS + 1_000, c.DeleteMessage(BOX, msg_id))
    return machine


@given(
    st.lists(st.tuples(st.sampled_from(FATES), st.sampled_from([0, 2, 2])), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 4),
    st.booleans(),
)
def test_a_search_in_steps_finds_the_best_there_is(
    fates: list[tuple[str, int]], rows: int, num_msgs: int, seek: int, tagged: bool
) -> None:
    machine = mailbox_of(fates)
    wanted = {"open"} if tagged else {"open", "other tag", "given back"}
    expected = sorted(
        (priority, msg_id) for msg_id, (fate, priority) in enumerate(fates, 1) if fate in wanted
    )
    tags = ("s",) if tagged else ()
    fetch = c.FetchMessages(BOX, "g", SEEKER, tags=tags, num_msgs=num_msgs)
    with patch.multiple(search, SEARCH_ROWS_MAX=rows, SEEK_IDS_MIN=seek):
        for _ in range(len(fates) + 2):
            found = machine.apply(NOW_MS + 1_000, fetch)
            assert isinstance(found, HandedOut)
            if found.resume is None:
                break
            assert found.resume > fetch.resume
            assert found.places == ()
            fetch = fetch._replace(resume=found.resume)
    assert found.resume is None
    assert list(found.places) == expected[: len(found.places)]
    assert bool(found.places) == bool(expected)


@given(st.lists(st.tuples(st.sampled_from(FATES), st.sampled_from([0, 2, 2])), max_size=60))
def test_a_search_never_takes_what_another_holds_for_absent(fates: list[tuple[str, int]]) -> None:
    machine = mailbox_of(fates)
    machine.apply(NOW_MS + 1_000, c.FetchMessages(BOX, "g", SEEKER, num_msgs=1_000))
    machine.apply(NOW_MS + 1_000, c.EndConnection(HOLDER))
    machine.restart()
    found = machine.apply(NOW_MS + 1_000, c.FetchMessages(BOX, "g", HOLDER, num_msgs=1_000))
    assert isinstance(found, HandedOut)
    assert list(found.places) == sorted(
        (priority, msg_id) for msg_id, (fate, priority) in enumerate(fates, 1) if fate == "held"
    )
