"""Who is let in, as whom, and what they may do then: raw connections to a listener with users."""

import pytest

from mq9cluster.domain.access import (
    Access,
    Permissions,
    Responses,
    Rule,
    SubjectRules,
    UseLimits,
    User,
)
from mq9cluster.domain.passwords import hashed
from tests.support.access import access_of, authenticator
from tests.support.wire import Wire

QUIET = b',"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
BCRYPT_CHEAP = 4


def as_user(name: str, password: str = "pw") -> bytes:
    return b'CONNECT {"user":"%b","pass":"%b"' % (name.encode(), password.encode()) + QUIET


def rules(*allow: str, deny: tuple[str, ...] = ()) -> SubjectRules:
    allowed = tuple(Rule(subject.encode()) for subject in allow) if allow else None
    return SubjectRules(allowed, tuple(Rule(subject.encode()) for subject in deny))


@pytest.mark.parametrize(
    ("access", "good", "bad"),
    [
        (Access(token="s3cret"), b'{"auth_token":"s3cret"', b'{"auth_token":"x"'),
        (
            Access(token=hashed("s3cret", "bcrypt", BCRYPT_CHEAP)),
            b'{"auth_token":"s3cret"',
            b'{"auth_token":"x"',
        ),
        (
            access_of(User("ann", "A", "pw")),
            b'{"user":"ann","pass":"pw"',
            b'{"user":"bob","pass":""',
        ),
        (
            access_of(User("ann", "A", hashed("pw", "bcrypt", BCRYPT_CHEAP))),
            b'{"user":"ann","pass":"pw"',
            b'{"user":"ann","pass":"PW"',
        ),
        (
            access_of(User("ann", "A", hashed("pw", "argon2"))),
            b'{"user":"ann","pass":"pw"',
            b'{"user":"bob","pass":"pw"',
        ),
    ],
)
async def test_credentials_are_asked_for_and_checked(start_gateway, access, good, bad):
    gateway = await start_gateway(authenticator(access))
    rest = b',"verbose":false,"pedantic":false}\r\n'
    wire = await gateway.open(connect=b"CONNECT " + good + rest)
    assert wire.info["auth_required"] is True
    assert await wire.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n") == b"MSG a 1 0\r\n\r\n"
    for refused in (b"CONNECT " + bad + rest, b"PING\r\n", b"PUB a 0\r\n\r\n", b"SUB a 1\r\n"):
        wire = await Wire.open(gateway.listener.port)
        wire.send(refused)
        assert await wire.rest() == b"-ERR 'Authorization Violation'\r\n"
        wire.close()
    assert gateway.listener.totals.auth_violations == 4


async def test_accounts_do_not_hear_each_other(start_gateway):
    gateway = await start_gateway(
        authenticator(access_of(User("ann", "A", "pw"), User("bob", "B", "pw")))
    )
    ann = await gateway.open(connect=as_user("ann"))
    bob = await gateway.open(connect=as_user("bob"))
    await ann.answers(b"SUB > 1\r\n")
    await bob.answers(b"PUB a 1\r\nx\r\nPUB $mq9.AI.X 0\r\n\r\n")
    assert await ann.answers() == b""
    assert gateway.handler.commands[0][1] == "B"


async def test_who_says_nothing_in_time_is_sent_away(start_gateway):
    gateway = await start_gateway(authenticator(Access(token="t")), auth_timeout_s=0.05)
    wire = await Wire.open(gateway.listener.port)
    assert await wire.rest() == b"-ERR 'Authentication Timeout'\r\n"
    wire.close()


async def test_what_is_sent_behind_connect_waits_for_the_password_check(start_gateway):
    users = access_of(User("ann", "A", hashed("pw", "bcrypt", BCRYPT_CHEAP)))
    gateway = await start_gateway(authenticator(users))
    wire = await Wire.open(gateway.listener.port)
    wire.send(as_user("ann") + b"SUB a 1\r\n" + b"PUB a 1\r\nx\r\n" * 3)
    assert await wire.answers() == b"MSG a 1 1\r\nx\r\n" * 3
    wire.close()


async def test_a_client_that_leaves_during_the_check_leaves_nothing_behind(start_gateway):
    users = access_of(User("ann", "A", hashed("pw", "bcrypt", BCRYPT_CHEAP)))
    gateway = await start_gateway(authenticator(users))
    wire = await Wire.open(gateway.listener.port)
    wire.send(as_user("ann") + b"SUB a 1\r\n")
    wire.abort()
    other = await gateway.open(connect=as_user("ann"))
    assert await other.answers(b"PUB a 0\r\n\r\n") == b""
    assert list(gateway.listener.seats.accounts) == ["A"]
    assert gateway.listener.seats.accounts["A"].connections == 1


async def test_the_secrets_of_connect_are_forgotten_and_never_shown(start_gateway):
    gateway = await start_gateway(authenticator(access_of(User("ann", "A", "hush"))))
    wire = await gateway.open(connect=as_user("ann", "hush"))
    await wire.answers()
    (session,) = gateway.listener.sessions.values()
    assert session.options.password == ""
    assert "hush" not in repr((session.options, session.identity, User("ann", "A", "hush")))
    assert "hush" not in repr(access_of(User("ann", "A", "hush"), token="hush"))


# --- permissions ---------------------------------------------------------------------------------

LIMITED = Permissions(
    rules("out.*", "$mq9.AI.MSG.SEND.>", deny=("out.no",)),
    rules("in.>", "_INBOX.>", deny=("in.no", "in.deep.>")),
)


async def test_a_denied_publish_is_told_and_goes_nowhere(start_gateway):
    gateway = await start_gateway(
        authenticator(
            access_of(User("ann", password="pw", permissions=LIMITED), User("all", password="pw"))
        )
    )
    hears = await gateway.open(connect=as_user("all"))
    await hears.answers(b"SUB > 1\r\n")
    ann = await gateway.open(connect=as_user("ann"))
    told = await ann.answers(b"PUB out.a 0\r\n\r\nPUB out.no 0\r\n\r\nPUB else 0\r\n\r\n")
    assert told == (
        b"-ERR 'Permissions Violation for Publish to \"out.no\"'\r\n"
        b"-ERR 'Permissions Violation for Publish to \"else\"'\r\n"
    )
    assert await hears.answers() == b"MSG out.a 1 0\r\n\r\n"
    assert gateway.listener.totals.permission_violations == 2


async def test_who_may_send_but_not_fetch_is_told_at_once(start_gateway):
    gateway = await start_gateway(
        authenticator(access_of(User("ann", password="pw", permissions=LIMITED)))
    )
    ann = await gateway.open(connect=as_user("ann"))
    told = await ann.answers(
        b"SUB _INBOX.a.* 1\r\n"
        b"PUB $mq9.AI.MSG.SEND.box _INBOX.a.1 2\r\nhi\r\n"
        b"PUB $mq9.AI.MSG.FETCH.box _INBOX.a.2 2\r\n{}\r\n"
    )
    reply = b'{"error":"permission denied: this user may not publish to the command\'s subject",'
    reply += b'"code":"permission_denied"}'
    assert told == (
        b"MSG _INBOX.a.1 1 2\r\nhi\r\n"
        b"-ERR 'Permissions Violation for Publish to \"$mq9.AI.MSG.FETCH.box\"'\r\n"
        b"MSG _INBOX.a.2 1 %d\r\n%b\r\n" % (len(reply), reply)
    )
    assert [command[2] for command in gateway.handler.commands] == [b"$mq9.AI.MSG.SEND.box"]


async def test_a_reply_reaches_no_subject_that_its_asker_may_not_publish_to(start_gateway):
    gateway = await start_gateway(
        authenticator(
            access_of(User("ann", password="pw", permissions=LIMITED), User("all", password="pw"))
        )
    )
    hears = await gateway.open(connect=as_user("all"))
    await hears.answers(b"SUB control 1\r\nSUB out.a 2\r\n")
    ann = await gateway.open(connect=as_user("ann"))
    send = b"PUB $mq9.AI.MSG.SEND.box %b 2\r\nhi\r\n"
    assert await ann.answers(send % b"control" + send % b"out.a") == b""
    assert await hears.answers() == b"MSG out.a 2 2\r\nhi\r\n"


async def test_a_wildcard_does_not_get_what_is_denied(start_gateway):
    gateway = await start_gateway(
        authenticator(
            access_of(User("ann", password="pw", permissions=LIMITED), User("all", password="pw"))
        )
    )
    ann = await gateway.open(connect=as_user("ann"))
    assert await ann.answers(b"SUB in.> 1\r\nSUB in.> q 2\r\n") == b""
    says = await gateway.open(connect=as_user("all"))
    await says.answers(b"PUB in.no 0\r\n\r\nPUB in.deep.x 0\r\n\r\nPUB in.yes 0\r\n\r\n")
    assert await ann.answers() == b"MSG in.yes 1 0\r\n\r\nMSG in.yes 2 0\r\n\r\n"


@pytest.mark.parametrize("subject", [b"in.no", b"in.deep.a", b"in.deep.>", b">", b"*", b"other"])
async def test_a_denied_subscription_is_told(start_gateway, subject):
    gateway = await start_gateway(
        authenticator(access_of(User("ann", password="pw", permissions=LIMITED)))
    )
    ann = await gateway.open(connect=as_user("ann"))
    told = await ann.answers(b"SUB %b 1\r\nSUB %b q 2\r\n" % (subject, subject))
    text = b"-ERR 'Permissions Violation for Subscription to \"%b\"%b'\r\n"
    assert told == text % (subject, b"") + text % (subject, b' using queue "q"')


async def test_a_tail_is_not_covered_by_a_star(start_gateway):
    """nats-server lets it pass; it would read what `in.*` does not."""
    few = Permissions(subscribe=rules("in.*"))
    gateway = await start_gateway(
        authenticator(access_of(User("ann", password="pw", permissions=few)))
    )
    ann = await gateway.open(connect=as_user("ann"))
    told = await ann.answers(b"SUB in.* 1\r\nSUB in.> 2\r\n")
    assert told == b"-ERR 'Permissions Violation for Subscription to \"in.>\"'\r\n"


async def test_requests_may_be_answered_as_often_as_allowed(start_gateway):
    may_answer = Permissions(rules("out.x"), rules("svc"), Responses(2, 60.0))
    gateway = await start_gateway(
        authenticator(
            access_of(
                User("ann", password="pw", permissions=may_answer), User("all", password="pw")
            )
        )
    )
    ann = await gateway.open(connect=as_user("ann"))
    await ann.answers(b"SUB svc 1\r\n")
    asks = await gateway.open(connect=as_user("all"))
    await asks.answers(b"SUB r 1\r\nPUB svc r 0\r\n\r\n")
    told = await ann.answers(b"PUB r 0\r\n\r\n" * 3)
    assert told == (b"MSG svc 1 r 0\r\n\r\n-ERR 'Permissions Violation for Publish to \"r\"'\r\n")
    assert await asks.answers() == b"MSG r 1 0\r\n\r\n" * 2


# --- limits --------------------------------------------------------------------------------------


async def test_an_account_has_only_so_many_connections_and_subscriptions(start_gateway):
    access = access_of(
        User("ann", "A", "pw"),
        User("bob", "A", "pw"),
        User("zed", "B", "pw"),
        accounts={"A": UseLimits(2, 2)},
    )
    gateway = await start_gateway(authenticator(access))
    ann = await gateway.open(connect=as_user("ann"))
    bob = await gateway.open(connect=as_user("bob"))
    full = await Wire.open(gateway.listener.port)
    full.send(as_user("ann"))
    assert await full.rest() == b"-ERR 'maximum account active connections exceeded'\r\n"
    zed = await gateway.open(connect=as_user("zed"))
    assert await zed.answers(b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n") == b""
    assert await ann.answers(b"SUB a 1\r\n") == b""
    told = b"-ERR 'maximum subscriptions exceeded'\r\n"
    assert await bob.answers(b"SUB a 1\r\nSUB b 2\r\n") == told
    assert await bob.answers(b"UNSUB 1\r\nSUB b 2\r\n") == b""
    bob.close()
    await bob.writer.wait_closed()
    full.close()


async def test_a_user_has_only_so_many_connections_and_subscriptions(start_gateway):
    access = access_of(User("ann", "A", "pw", limits=UseLimits(1, 1)), User("bob", "A", "pw"))
    gateway = await start_gateway(authenticator(access))
    ann = await gateway.open(connect=as_user("ann"))
    full = await Wire.open(gateway.listener.port)
    full.send(as_user("ann"))
    assert await full.rest() == b"-ERR 'maximum connections exceeded'\r\n"
    full.close()
    told = await ann.answers(b"SUB a 1\r\nSUB b 2\r\n")
    assert told == b"-ERR 'maximum subscriptions exceeded'\r\n"
    bob = await gateway.open(connect=as_user("bob"))
    assert await bob.answers(b"SUB a 1\r\nSUB b 2\r\n") == b""
