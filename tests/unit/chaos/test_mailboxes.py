"""The judge of the crash tests can tell wrong from right: histories made wrong on purpose."""

import pytest

from chaos.checkers.mailboxes import check, summary
from chaos.history import (
    Confirmation,
    Delete,
    HandOut,
    History,
    Repeat,
    Send,
    Span,
    Stored,
    Told,
)

CRASH_AT = 100


def sent(number: int, msg_id: int, *, began: int = 0, **fields: object) -> Send:
    """An acknowledged SEND of payload p<number>, over in one tick."""
    began = began or 2 * number
    made = Send(began, payload=f"p{number}", **fields)  # type: ignore[arg-type]
    made.end(began + 1, Told.DONE)
    made.msg_id = msg_id
    return made


def unanswered(number: int, **fields: object) -> Send:
    """A SEND under way when the node died."""
    return Send(CRASH_AT - 1, payload=f"p{number}", **fields)  # type: ignore[arg-type]


def stored(number: int, msg_id: int, priority: str = "normal", key: str = "") -> Stored:
    return Stored(msg_id, f"p{number}", priority, key)


def handed_out(
    group: str, msg_ids: tuple[int, ...], at: int, until: float, consumer: str = "a"
) -> HandOut:
    made = HandOut(
        at,
        group=group,
        consumer=consumer,
        msg_ids=msg_ids,
        payloads=tuple(f"p{msg_id}" for msg_id in msg_ids),
        released=until,
    )
    made.end(at + 1, Told.DONE)
    return made


def confirmed(
    group: str, msg_ids: tuple[int, ...], at: int, told: Told = Told.DONE
) -> Confirmation:
    made = Confirmation(at, group=group, msg_ids=msg_ids)
    if told is not Told.UNKNOWN:
        made.end(at + 1, told)
    return made


def created() -> Span:
    made = Span(0)
    made.end(1, Told.DONE)
    return made


def right() -> History:
    """Three messages, one read and acknowledged before the crash, the others after it."""
    history = History("box", created())
    history.sends = [sent(1, 1), sent(2, 2), sent(3, 3)]
    history.hand_outs = [handed_out("g", (1, 2), 20, 22), handed_out("g", (2, 3), 110, 112)]
    history.confirmations = [confirmed("g", (1,), 22), confirmed("g", (2, 3), 112)]
    history.found = [stored(1, 1), stored(2, 2), stored(3, 3)]
    history.drained = frozenset({"g"})
    return history


def kinds(history: History) -> list[str]:
    return sorted({violation.kind for violation in check(history)})


def test_a_right_history_has_no_violation() -> None:
    assert check(right()) == []


def test_a_lost_message_is_told_with_its_place_among_the_acknowledged() -> None:
    history = right()
    del history.found[1]
    history.hand_outs[1] = handed_out("g", (3,), 110, 112)
    (lost,) = check(history)
    assert lost == ("lost", "box", "p2 (msg_id 2), acknowledged as number 2 of 3")


def test_a_lost_delayed_message_is_told() -> None:
    history = right()
    history.sends.append(sent(4, -1, delay_s=1))
    assert kinds(history) == ["lost"]
    history.found.append(stored(4, 4))
    history.confirmations.append(confirmed("g", (4,), 120))
    assert kinds(history) == []


def test_a_message_without_an_answer_may_be_there_or_not() -> None:
    history = right()
    history.sends.append(unanswered(4))
    assert kinds(history) == []
    history.found.append(stored(4, 4))
    history.confirmations.append(confirmed("g", (4,), 120))
    assert kinds(history) == []


@pytest.mark.parametrize("told", [None, Told.REFUSED])
def test_a_message_never_sent_or_refused_is_a_phantom(told: Told | None) -> None:
    history = right()
    if told is not None:
        refused = unanswered(4)
        refused.end(CRASH_AT, told)
        history.sends.append(refused)
    history.found.append(stored(4, 4))
    history.confirmations.append(confirmed("g", (4,), 120))
    assert kinds(history) == ["phantom"]


def test_a_phantom_seen_only_in_a_hand_out_is_told() -> None:
    history = right()
    history.hand_outs.append(handed_out("g", (4,), 120, 122))
    assert kinds(history) == ["phantom"]


@pytest.mark.parametrize("found", [stored(2, 2, "urgent"), stored(2, 2, "normal", "k")])
def test_a_message_found_other_than_it_was_sent_is_a_phantom(found: Stored) -> None:
    history = right()
    history.found[1] = found
    history.found.sort(key=lambda one: (one.priority != "urgent", one.msg_id))
    assert kinds(history) == ["phantom"]


def test_a_doubled_message_is_told() -> None:
    history = right()
    history.found.append(stored(3, 4))
    history.confirmations.append(confirmed("g", (4,), 120))
    assert kinds(history) == ["doubled", "renumbered"]


def test_two_messages_under_one_msg_id_are_told() -> None:
    history = right()
    history.sends[2].msg_id = 2
    history.found[2] = stored(3, 2)
    assert kinds(history) == ["doubled", "renumbered"]


def test_a_repeat_that_was_stored_anew_is_told() -> None:
    history = right()
    history.sends[0].dedupe_id = "m-1"
    again = Repeat(110, of=history.sends[0], msg_id=1, duplicate=True)
    again.end(111, Told.DONE)
    history.repeats = [again]
    assert kinds(history) == []
    again.duplicate = False
    assert kinds(history) == ["doubled"]
    again.msg_id, again.duplicate = 4, True
    assert kinds(history) == ["doubled"]


def test_an_id_that_changed_is_told() -> None:
    history = right()
    history.found[2] = stored(3, 7)
    history.confirmations.append(confirmed("g", (7,), 120))
    assert kinds(history) == ["renumbered"]


def test_a_wrong_delivery_order_is_told() -> None:
    history = right()
    history.hand_outs[1] = handed_out("g", (3, 2), 110, 112)
    assert kinds(history) == ["reordered"]


def test_a_normal_message_delivered_before_a_critical_one_is_told() -> None:
    history = right()
    history.sends[2].priority = "critical"
    history.found = [stored(3, 3, "critical"), stored(1, 1), stored(2, 2)]
    # the hand-out after the crash gave 2 before the critical 3
    assert kinds(history) == ["reordered"]
    history.hand_outs[1] = handed_out("g", (3, 2), 110, 112)
    assert kinds(history) == []


def test_an_id_lower_than_one_told_before_is_told() -> None:
    history = right()
    history.sends[0].msg_id, history.sends[2].msg_id = 3, 1
    history.found = [stored(3, 1), stored(2, 2), stored(1, 3)]
    history.hand_outs = []
    assert "reordered" in kinds(history)


def test_sends_under_way_together_may_get_their_ids_in_any_order() -> None:
    history = right()
    for send, msg_id in zip(history.sends, (3, 2, 1), strict=True):
        send.began, send.ended, send.msg_id = 2, 10, msg_id
    history.found = [stored(3, 1), stored(2, 2), stored(1, 3)]
    history.hand_outs = []
    assert kinds(history) == []


def test_a_deleted_message_that_is_there_again_is_told() -> None:
    history = right()
    history.deletes = [Delete(30, msg_id=2)]
    assert kinds(history) == []
    history.deletes[0].end(31, Told.DONE)
    assert kinds(history) == ["resurrected"]


def test_a_deleted_message_may_be_absent_and_must_not_be_handed_out_again() -> None:
    history = right()
    history.deletes = [Delete(30, msg_id=2)]
    history.deletes[0].end(31, Told.DONE)
    del history.found[1]
    assert kinds(history) == ["resurrected"]
    history.hand_outs[1] = handed_out("g", (3,), 110, 112)
    assert kinds(history) == []


def test_a_delete_without_an_answer_excuses_the_absence() -> None:
    history = right()
    history.deletes = [Delete(30, msg_id=2)]
    del history.found[1]
    assert kinds(history) == []


def keyed() -> History:
    history = right()
    for send in history.sends[:2]:
        send.key = "k"
    history.found = [stored(2, 2, key="k"), stored(3, 3)]
    return history


def test_a_replaced_message_may_be_absent_and_its_replacement_not() -> None:
    assert kinds(keyed()) == []
    history = keyed()
    history.found = [stored(3, 3)]
    assert kinds(history) == ["lost"]


def test_a_replaced_message_that_is_there_again_is_told() -> None:
    history = keyed()
    history.found.insert(0, stored(1, 1, key="k"))
    assert kinds(history) == ["resurrected"]


def test_a_replacement_without_an_answer_excuses_the_absence_only_if_it_is_there() -> None:
    history = keyed()
    history.sends[1] = unanswered(2, key="k")
    assert kinds(history) == []
    history.found = [stored(3, 3)]
    history.hand_outs = []
    assert kinds(history) == ["lost"]


def test_an_acknowledged_message_that_comes_again_is_told() -> None:
    history = right()
    history.hand_outs[1] = handed_out("g", (1, 2, 3), 110, 112)
    assert kinds(history) == ["came back"]


def test_an_ack_without_an_answer_allows_both() -> None:
    history = right()
    history.confirmations[0] = confirmed("g", (1,), 22, Told.UNKNOWN)
    assert kinds(history) == []
    history.hand_outs[1] = handed_out("g", (1, 2, 3), 110, 112)
    assert kinds(history) == []


def test_groups_are_judged_apart() -> None:
    history = right()
    history.hand_outs.append(handed_out("h", (1, 2, 3), 120, 122))
    assert kinds(history) == []


def test_a_message_given_to_one_while_another_holds_it_is_told() -> None:
    history = right()
    history.hand_outs = [
        handed_out("g", (1, 2), 20, 40, "a"),
        handed_out("g", (2, 3), 30, 60, "b"),
    ]
    history.confirmations = [confirmed("g", (1, 2), 40), confirmed("g", (3,), 60)]
    assert kinds(history) == ["shared"]
    history.hand_outs[1].consumer = "a"
    assert kinds(history) == []


def test_a_message_given_on_while_its_holder_was_letting_go_is_right() -> None:
    history = right()
    history.hand_outs = [
        handed_out("g", (1, 2), 20, 29, "a"),
        handed_out("g", (2, 3), 30, 60, "b"),
    ]
    assert kinds(history) == []


def test_a_message_that_never_comes_though_nobody_acknowledged_it_is_told() -> None:
    history = right()
    history.hand_outs[1] = handed_out("g", (3,), 110, 112)
    history.confirmations[1] = confirmed("g", (3,), 112)
    assert kinds(history) == ["withheld"]


def test_a_refused_ack_confirms_nothing() -> None:
    history = right()
    history.confirmations[1] = confirmed("g", (2, 3), 112, Told.REFUSED)
    assert kinds(history) == ["withheld"]


def test_a_repeated_ack_that_is_refused_is_told() -> None:
    history = right()
    history.confirmations.append(confirmed("g", (1,), 105, Told.REFUSED))
    assert kinds(history) == []
    history.confirmations[-1].repeats = True
    assert kinds(history) == ["forgotten"]


def test_a_lost_mailbox_is_told_unless_its_create_had_no_answer() -> None:
    history = right()
    history.exists = False
    assert kinds(history) == ["mailbox lost"]
    history.create = Span(0)
    assert kinds(history) == []


def test_a_summary_counts_each_kind_and_names_the_first() -> None:
    history = right()
    history.found = []
    lines = summary(check(history)).splitlines()
    assert lines[0] == "3 lost"
    assert lines[1] == "  box: p1 (msg_id 1), acknowledged as number 1 of 3"
