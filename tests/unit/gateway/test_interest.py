"""The subscription table against the plain definition of a match."""

import random

from hypothesis import given
from hypothesis import strategies as st

from mq9cluster.gateway.interest import NOBODY, Interest, Subscription
from mq9cluster.protocol.subjects import matches


def sub(subject: bytes, queue: bytes | None = None, sid: bytes = b"1") -> Subscription:
    return Subscription(None, subject, queue, sid)


class Observer:
    def __init__(self):
        self.changes = []

    def interest_changed(self, subject, queue, members):
        self.changes.append((subject, queue, members))


TOKENS = st.sampled_from([b"a", b"b", b"c", b"*"])
PATTERNS = st.tuples(st.lists(TOKENS, min_size=1, max_size=4), st.booleans()).map(
    lambda made: b".".join([*made[0], b">"] if made[1] else made[0])
)
SUBJECTS = st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), min_size=1, max_size=5).map(
    b".".join
)


@given(
    st.lists(st.tuples(PATTERNS, st.sampled_from([None, b"q", b"r"]), st.booleans()), max_size=20),
    st.lists(SUBJECTS, min_size=1, max_size=5),
)
def test_a_match_is_what_the_definition_says_after_any_changes(changes, subjects):
    table = Interest()
    present = []
    for pattern, queue, removes in changes:
        table.match(subjects[0])
        if removes and present:
            table.remove(present.pop(0))
        else:
            present.append(sub(pattern, queue))
            table.add(present[-1])
    for subject in subjects:
        matching = [s for s in present if matches(s.subject, subject)]
        found = table.match(subject)
        assert set(found.plain) == {s for s in matching if s.queue is None}
        assert {queue: set(members) for queue, members in found.groups} == {
            queue: {s for s in matching if s.queue == queue}
            for queue in {s.queue for s in matching} - {None}
        }
    assert table.count == len(present)


def test_an_emptied_table_keeps_nothing():
    table = Interest()
    subs = [sub(s, q) for s in (b"a", b"a.*", b"a.>", b"*.b.*.c", b">") for q in (None, b"q")]
    for each in subs:
        table.add(each)
    random.Random(3).shuffle(subs)
    for each in subs:
        table.remove(each)
        table.remove(each)
    assert table.count == 0
    assert list(table.subjects()) == []
    assert table._root.empty
    assert table._literals == {}


def test_an_exact_match_never_goes_through_a_wildcard():
    table = Interest()
    literal, grouped = sub(b"_INBOX.a.1"), sub(b"_INBOX.a.1", b"q")
    for each in (sub(b"_INBOX.>"), sub(b">"), sub(b"_INBOX.a.*", b"q"), literal, grouped):
        table.add(each)
    assert table.match_literal(b"_INBOX.a.1") == ((literal,), ((b"q", (grouped,)),))
    assert table.match_literal(b"_INBOX.a.2") == NOBODY
    assert table.match_literal(b"_INBOX.>") == NOBODY


def test_the_observer_hears_how_many_there_are_of_each_kind():
    observer = Observer()
    table = Interest(observer)
    first, second, member = sub(b"a.*"), sub(b"a.*"), sub(b"a.*", b"q")
    for each in (first, second, member):
        table.add(each)
    listed = [(*place, table.members_of(*place)) for place in table.subjects()]
    assert sorted(listed, key=str) == [(b"a.*", None, 2), (b"a.*", b"q", 1)]
    for each in (first, second, member, member):
        table.remove(each)
    assert observer.changes == [
        (b"a.*", None, 1),
        (b"a.*", None, 2),
        (b"a.*", b"q", 1),
        (b"a.*", None, 1),
        (b"a.*", None, 0),
        (b"a.*", b"q", 0),
    ]


def test_a_literal_change_spares_the_answers_of_other_subjects():
    table = Interest()
    table.add(sub(b"a.>"))
    table.match(b"a.b")
    table.match(b"x")
    table.add(sub(b"x"))
    assert table.answers_cached == 1


def test_a_subject_with_an_empty_token_matches_nothing():
    table = Interest()
    table.add(sub(b">"))
    assert table.match(b"a..b") == NOBODY


def test_searches_and_fanouts_tell_how_the_cache_serves():
    table = Interest()
    for sid in (b"1", b"2"):
        table.add(Subscription(None, b"a.*", None, sid))
    table.add(Subscription(None, b"a.b", b"group", b"3"))
    for subject in (b"a.b", b"a.b", b"a.c", b"nobody"):
        table.match(subject)
    assert (table.searches, sorted(table.fanouts())) == (3, [0, 2, 3])
