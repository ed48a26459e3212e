from mq9cluster.cluster.raft_reads import ReadRounds


def test_reads_that_wait_together_share_a_round_and_its_index() -> None:
    reads, found = ReadRounds(), []
    for name in "xy":
        reads.ask(lambda index, name=name: found.append((name, index)))
    reads.open_round(7)
    assert (reads.waiting, reads.number) == (False, 1)
    reads.heard("b", 1)
    reads.confirm(("b", "c"))
    assert found == [("x", 7), ("y", 7)]


def test_a_round_is_not_confirmed_by_answers_to_the_one_before() -> None:
    reads, found = ReadRounds(), []
    reads.ask(lambda index: found.append(("first", index)))
    reads.open_round(7)
    reads.ask(lambda index: found.append(("second", index)))
    reads.open_round(8)
    reads.heard("b", 1)
    reads.confirm(("b", "c"))
    assert found == [("first", 7)]
    reads.heard("c", 2)
    reads.confirm(("b", "c"))
    assert found == [("first", 7), ("second", 8)]


def test_answers_of_strangers_and_of_the_future_do_not_count() -> None:
    reads, found = ReadRounds(), []
    reads.heard("b", 1)  # before the round was opened
    reads.ask(found.append)
    reads.open_round(7)
    reads.heard("x", 1)
    reads.confirm(("b", "c"))
    assert found == []


def test_a_group_of_one_confirms_itself() -> None:
    reads, found = ReadRounds(), []
    reads.ask(found.append)
    reads.open_round(3)
    reads.confirm(())
    assert found == [3]


def test_five_need_two_others() -> None:
    reads, found = ReadRounds(), []
    reads.ask(found.append)
    reads.open_round(3)
    for peer in "bc":
        assert found == []
        reads.heard(peer, 1)
        reads.confirm("bcde")
    assert found == [3]


def test_reads_are_lost_with_leadership_and_rounds_are_never_numbered_twice() -> None:
    reads, found = ReadRounds(), []
    reads.ask(found.append)
    reads.open_round(3)
    reads.ask(found.append)
    reads.lose()
    assert found == [None, None]
    reads.ask(found.append)
    reads.open_round(4)
    reads.heard("b", 1)  # said to the leadership before
    reads.confirm(("b", "c"))
    assert (found, reads.number) == ([None, None], 2)
