"""Subject rules."""

import pytest

from mq9cluster.protocol.subjects import (
    is_command,
    is_literal,
    is_valid,
    is_valid_literal,
    matches,
    reads_other_mailboxes,
)


@pytest.mark.parametrize(
    "subject", [b"a", b"a.b", b">", b"*", b"a.*.b.>", b"b*", b">x.a", "ä.ö".encode()]
)
def test_a_subject_without_empty_tokens_may_be_subscribed_to(subject):
    assert is_valid(subject)


@pytest.mark.parametrize("subject", [b"", b".", b".a", b"a.", b"a..b", b">.a", b"a.>.b"])
def test_an_empty_token_or_a_tail_inside_may_not(subject):
    assert not is_valid(subject)


def test_only_whole_tokens_are_wildcards():
    assert [is_literal(s) for s in (b"a", b"b*", b"**", b">x", b"a.>>")] == [True] * 5
    assert [is_literal(s) for s in (b"*", b"a.*", b"*.a", b">", b"a.>", b"a.>.c")] == [False] * 6
    assert [is_valid_literal(s) for s in (b"a.b", b"a.*", b"a..b", b"b*")] == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("pattern", "subject", "does"),
    [
        (b"a", b"a", True),
        (b"a", b"A", False),
        (b"a.*", b"a.b", True),
        (b"a.*", b"a", False),
        (b"a.*", b"a.b.c", False),
        (b"a.>", b"a", False),
        (b"a.>", b"a.b.c", True),
        (b">", b"$SYS.x", True),
        (b"*", b"_INBOX", True),
        (b"b*", b"bx", False),
        (b"b*", b"b*", True),
        (b"*.b", b"a.b", True),
        (b"a.*.c", b"a.b.d", False),
        (b">", b"a..b", False),
    ],
)
def test_matching(pattern, subject, does):
    assert matches(pattern, subject) is does


def test_commands_are_everything_of_mq9_but_broadcasts():
    assert is_command(b"$mq9.AI.MSG.SEND.a")
    assert is_command(b"$mq9.AI.")
    assert is_command(b"$mq9.AI.BROADCAST")
    assert not is_command(b"$mq9.AI.BROADCAST.x.y")
    assert not is_command(b"$mq9.AI")
    assert not is_command(b"a.$mq9.AI.MSG")


@pytest.mark.parametrize(
    ("pattern", "does"),
    [
        (b"$mq9.AI.MAILBOX.MSG.mbx.abc.*", False),
        (b"$mq9.AI.MAILBOX.MSG.mbx.abc.normal", False),
        (b"$mq9.AI.MAILBOX.MSG.mbx.*.normal", True),
        (b"$mq9.AI.MAILBOX.MSG.*", True),
        (b"$mq9.AI.MAILBOX.MSG.*.*", True),
        (b"$mq9.AI.MAILBOX.MSG.>", True),
        (b"$mq9.AI.MAILBOX.MSG.mbx.>", True),
        (b"$mq9.AI.INBOX.a.*", False),
        (b"$mq9.AI.INBOX.*.urgent", True),
        (b"$mq9.AI.INBOX.>", True),
        (b"$mq9.AI.>", False),
        (b">", False),
    ],
)
def test_no_wildcard_where_an_address_stands(pattern, does):
    assert reads_other_mailboxes(pattern) is does
