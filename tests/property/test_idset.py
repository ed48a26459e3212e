"""IdSet against a plain set of integers."""

from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.machine.idset import BUCKET_IDS, IdSet

LAST = 3 * BUCKET_IDS
IDS = st.one_of(
    st.integers(1, LAST),
    st.integers(1, 40),
    st.integers(BUCKET_IDS - 3, BUCKET_IDS + 3),
    st.integers(2 * BUCKET_IDS - 3, 2 * BUCKET_IDS + 3),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), IDS, st.sampled_from([0, 1, 7, 300, BUCKET_IDS, 9000])),
        st.tuples(st.just("discard"), IDS, st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.lists(IDS, min_size=5, max_size=15))
def test_an_id_set_is_a_set(steps: list[tuple[str, int, int]], asked: list[int]) -> None:
    ids, model = IdSet(), {0}
    for what, first, more in steps:
        if what == "add":
            last = min(first + more, LAST)
            ids.add_range(first, last)
            model.update(range(first, last + 1))
        else:
            ids.discard(first)
            model.discard(first)
        for msg_id in asked:
            absent = next(i for i in range(msg_id, LAST + 2) if i not in model)
            assert (msg_id in ids) == (msg_id in model)
            assert ids.next_absent(msg_id) == absent


@given(STEPS)
def test_what_changed_is_enough_to_follow_the_set(steps: list[tuple[str, int, int]]) -> None:
    """The owner stores the floor and the changed buckets; one who takes those has the same set."""
    ids, follower = IdSet(), IdSet()
    for what, first, more in steps:
        ids.changed.clear()
        if what == "add":
            ids.add_range(first, first + more)
        else:
            ids.discard(first)
        follower.floor = ids.floor
        for bucket in ids.changed:
            if bucket in ids.buckets:
                follower.buckets[bucket] = ids.buckets[bucket]
            else:
                follower.buckets.pop(bucket, None)
        assert (follower.floor, follower.buckets) == (ids.floor, ids.buckets)
