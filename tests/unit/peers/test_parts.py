"""The parts of peers that need no socket: outboxes, pulses, requests, the door."""

import asyncio

from mq9cluster.cluster.outbox import FRAME_BYTES_MAX, PIECE_BYTES, PIECE_BYTES_MAX, Outbox
from mq9cluster.cluster.peer_pulse import NEVER_MS, PINGS_REMEMBERED, SAMPLES, PingAnswers, Pulse
from mq9cluster.cluster.peer_requests import Answered, Asked, Lost, NotSent
from mq9cluster.cluster.proto import peers_pb2 as pb

MIB = 1 << 20


async def test_an_outbox_hands_out_urgent_pieces_first_and_each_kind_in_order():
    box = Outbox(100 * MIB)
    for piece, urgent in (("1", False), ("a", True), ("2", False), ("b", True)):
        assert box.put(piece, 10, urgent=urgent)
    assert await box.take() == ["a", "b", "1", "2"]
    assert box.bytes == 0


async def test_a_flood_of_urgent_pieces_leaves_room_for_the_others_in_each_frame():
    box = Outbox(100 * MIB)
    for number in range(20):
        box.put(f"urgent {number}", MIB, urgent=True)
    box.put("bulk 0", 3 * MIB)
    box.put("bulk 1", 3 * MIB)
    assert await box.take() == ["urgent 0", "bulk 0"]
    box.put("urgent 20", MIB, urgent=True)
    assert await box.take() == ["urgent 1", "bulk 1"]
    assert await box.take() == ["urgent 2", "urgent 3", "urgent 4"]


async def test_a_frame_is_bounded_but_a_larger_piece_still_leaves():
    box = Outbox(100 * MIB)
    for number in range(9):
        box.put(number, MIB - PIECE_BYTES)
    box.put("large", 2 * FRAME_BYTES_MAX)
    assert [await box.take() for _ in range(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8], ["large"]]


async def test_an_outbox_is_bounded_and_counts_what_small_pieces_cost():
    box = Outbox(10 * PIECE_BYTES)
    assert [box.put(number, 0) for number in range(12)] == [True] * 10 + [True, False]
    assert box.put("cancel", 0, always=True)
    assert len(await box.take()) == 12


async def test_an_empty_outbox_takes_one_piece_beyond_its_bound_but_none_that_no_message_holds():
    box = Outbox(MIB)
    assert not box.put("never", PIECE_BYTES_MAX + 1)
    assert box.put("large", 2 * MIB)
    assert not box.put("small", 1)
    assert await box.take() == ["large"]


async def test_taking_waits_for_something_and_again_after_everything_was_taken():
    box = Outbox(MIB)
    taking = asyncio.ensure_future(box.take())
    await asyncio.sleep(0)
    box.put(1, 1)
    assert await taking == [1]
    taking = asyncio.ensure_future(box.take())
    await asyncio.sleep(0)
    assert not taking.done()
    box.put(2, 1)
    assert await taking == [2]


async def test_what_is_patient_leaves_with_what_is_not_and_in_its_order():
    box = Outbox(MIB)
    taking = asyncio.ensure_future(box.take())
    box.put("patient", 1, urgent=True, patient=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not taking.done()
    box.put("now", 1, urgent=True)
    assert await taking == ["patient", "now"]


async def test_what_is_patient_leaves_alone_in_the_end_each_time():
    box = Outbox(MIB)
    for piece in ("first", "second"):
        box.put(piece, 1, patient=True)
        assert await box.take() == [piece]


def test_time_overslept_is_no_silence_and_never_more_than_that():
    pulse = Pulse(100.0)
    pulse.overslept(3.0, 104.0)
    assert pulse.silent_s(104.0) == 1.0
    pulse.answered(pulse.ping(104.0), 0, 110.0, 0)  # while it woke up
    pulse.overslept(5.0, 111.0)
    assert pulse.silent_s(111.0) == 0.0
    assert pulse.silent_s(112.0) == 1.0


def test_a_pulse_counts_silence_from_the_last_answer():
    pulse = Pulse(100.0)
    assert pulse.silent_s(103.0) == 3
    first, second = pulse.ping(104.0), pulse.ping(105.0)
    pulse.answered(first, 0, 106.0, 0)
    assert (pulse.heard, pulse.silent_s(107.0)) == (first, 1.0)
    pulse.answered(first, 0, 107.0, 0)
    pulse.answered(999, 0, 107.0, 0)
    assert (pulse.heard, pulse.silent_s(107.0)) == (first, 1.0)
    pulse.answered(second, 0, 108.0, 0)
    assert (pulse.heard, pulse.silent_s(108.0)) == (second, 0.0)


def test_an_answer_to_a_ping_of_older_streams_is_no_sign_of_life():
    pulse = Pulse(0.0)
    old = pulse.ping(1.0)
    pulse.begin(2.0)
    pulse.answered(old, 5_000, 3.0, 0)
    assert (pulse.heard, pulse.silent_s(4.0), pulse.offset_ms) == (0, 2.0, None)


def test_the_clock_offset_is_that_of_the_quickest_of_the_last_answers():
    pulse = Pulse(0.0)
    for took_s, measured_ms in ((0.8, 900), (0.02, 510), (0.4, 700)):
        ping = pulse.ping(10.0)
        pulse.answered(ping, 1_000 + measured_ms, 10.0 + took_s, 1_000)
    assert pulse.offset_ms == 510 + 10
    for _ in range(SAMPLES):
        pulse.answered(pulse.ping(20.0), 3_000, 20.1, 1_000)
    assert pulse.offset_ms == 2_050


def test_a_lease_counts_from_the_answer_that_was_heard_not_from_when_one_is_told():
    answers = PingAnswers()
    assert answers.silent_ms(0, 1.0) == NEVER_MS
    answers.answer(1, 10.0)
    answers.answer(2, 10.25)
    # The process is stopped for nine seconds; then it reads what waited in its buffers.
    assert answers.silent_ms(1, 19.5) == 9_500
    assert answers.silent_ms(2, 19.5) == 9_250
    assert answers.silent_ms(77, 19.5) == NEVER_MS


def test_only_some_answers_are_remembered():
    answers = PingAnswers()
    for ping in range(1, PINGS_REMEMBERED + 2):
        answers.answer(ping, float(ping))
    assert answers.silent_ms(1, 100.0) == NEVER_MS
    assert answers.silent_ms(2, 100.0) == 98_000


async def test_what_left_is_lost_what_waits_was_not_sent_and_what_was_answered_stays_so():
    asked, told = Asked(), []

    def note(what):
        return lambda reply: told.append((what, reply))

    for what in ("answered", "lost", "cancelled"):
        asked.ask(1, b"", note(what)).cancel() if what == "cancelled" else asked.ask(
            1, b"", note(what)
        )
    left = await asked.outbox.take()
    assert [(item.id, item.cancel) for item in left] == [
        (1, False),
        (2, False),
        (3, False),
        (3, True),
    ]
    asked.hear([pb.Item(id=1, data=b"yes"), pb.Item(id=3, data=b"too late")])
    asked.ask(1, b"", note("waiting"))
    asked.break_off()
    asked.break_off()
    asked.hear([pb.Item(id=2, data=b"too late")])
    assert told == [("answered", Answered(b"yes"))]
    await asyncio.sleep(0)
    assert told[1:] == [("lost", Lost()), ("waiting", NotSent())]


async def test_one_that_fails_to_hear_the_bad_news_does_not_keep_it_from_others():
    asked, told, errors = Asked(), [], []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.append(str(context["exception"]))
    )

    def fail(reply):
        raise ValueError("a mistake")

    asked.ask(1, b"", fail)
    asked.ask(1, b"", told.append)
    asked.break_off()
    await asyncio.sleep(0)
    assert (told, errors) == ([NotSent()], ["a mistake"])


async def test_a_request_that_is_cancelled_after_the_break_is_not_told():
    asked, told = Asked(), []
    pending = asked.ask(1, b"", told.append)
    asked.break_off()
    pending.cancel()
    await asyncio.sleep(0)
    assert told == []
