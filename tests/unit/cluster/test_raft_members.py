import pytest

from mq9cluster.cluster.engine import Members, MembersRefused
from mq9cluster.cluster.raft_members import (
    MalformedMembers,
    MembersHistory,
    check_change,
    decode_members,
    encode_members,
    sets_members,
)
from tests.support.raft import entry

ABC = Members(("a", "b", "c"))
ABCD = Members(("a", "b", "c", "d"))
WITH_LEARNER = Members(("a", "b", "c"), ("d",))


@pytest.mark.parametrize("members", [ABC, WITH_LEARNER, Members((), ()), Members(("ä" * 127,))])
def test_what_is_encoded_is_decoded(members: Members) -> None:
    assert sets_members(encode_members(members))
    assert decode_members(encode_members(members)) == members


@pytest.mark.parametrize("damage", [slice(0, 3), slice(0, -1), slice(1, None)])
def test_damaged_members_are_malformed(damage: slice) -> None:
    with pytest.raises(MalformedMembers):
        decode_members(encode_members(WITH_LEARNER)[damage])


@pytest.mark.parametrize(
    "new",
    [
        ABCD,
        Members(("a", "b")),
        WITH_LEARNER,
        Members(("a", "b"), ("c",)),
        Members(("a", "b", "c"), ("x", "y")),
    ],
)
def test_a_voter_may_come_or_go_and_learners_as_they_like(new: Members) -> None:
    check_change(ABC, new, leader="a")


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (Members(("a", "b", "d")), "one voter at a time"),
        (Members(("b", "c")), "transfer leadership first"),
        (Members(("a", "b", "c"), ("a",)), "named twice"),
        (Members(("a", "b", "c", "")), "empty"),
        (Members(("a", "b", "c", "x" * 256)), "too long"),
    ],
)
def test_other_changes_are_refused(new: Members, why: str) -> None:
    with pytest.raises(MembersRefused, match=why):
        check_change(ABC, new, leader="a")


def test_the_newest_entry_that_sets_members_is_in_force() -> None:
    history = MembersHistory(5, ABC)
    assert not history.append(entry(6, 1))
    assert history.append(entry(7, 1, encode_members(ABCD)))
    assert (history.current, history.changed_at) == (ABCD, 7)


def test_a_replaced_entry_takes_its_change_back() -> None:
    history = MembersHistory(5, ABC)
    history.append(entry(7, 1, encode_members(ABCD)))
    assert not history.truncate(8)
    assert history.truncate(7)
    assert (history.current, history.changed_at) == (ABC, 5)


def test_applied_changes_cannot_be_taken_back() -> None:
    history = MembersHistory(5, ABC)
    history.append(entry(7, 1, encode_members(ABCD)))
    history.append(entry(9, 1, encode_members(ABC)))
    history.forget(8)
    history.truncate(6)
    assert history.current == ABCD
