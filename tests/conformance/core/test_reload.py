"""A changed configuration: one configuration in both servers' words, the same bytes for
both, and what they answer compared byte by byte.
"""

import asyncio

import pytest

from tests.conformance.core.secured import user
from tests.support.core_security import talk
from tests.support.wire import Wire

ACCOUNTS_NATS = """
accounts {
  A: {users: [{user: ann, password: %s %s}, {user: amy, password: pw}]}
  B: {users: [{user: bob, password: pw}]}
}
"""
ACCOUNTS_OURS = """
[[accounts]]
name = "A"
[[accounts.users]]
user = "ann"
password = "%s"
%s
[[accounts.users]]
user = "amy"
password = "pw"
[[accounts]]
name = "B"
[[accounts.users]]
user = "bob"
password = "pw"
"""


async def test_19_fewer_permissions_take_subscriptions_back(both_with):
    both = both_with(ACCOUNTS_OURS % ("pw", ""), ACCOUNTS_NATS % ("pw", ""))
    wires = [
        await Wire.open(port, connect=user("ann") + b"SUB x 1\r\nSUB y grp 2\r\nSUB z 4\r\n")
        for port in both.ports
    ]
    both.reload(
        ACCOUNTS_OURS % ("pw", 'permissions = { subscribe = ["z"], publish = { deny = "q" } }'),
        ACCOUNTS_NATS % ("pw", ", permissions: {subscribe: [z], publish: {deny: q}}"),
    )
    said = []
    for wire in wires:
        taken = sorted([await wire.until(b"\")'\r\n") for _ in range(2)])  # in any order
        more = b"PUB q 0\r\n\r\nSUB x 9\r\nPUB z 1\r\nz\r\n"
        said.append((taken, (await wire.answers(more)).replace(b"PING\r\n", b"")))
        wire.abort()
    assert said[0] == said[1]


async def test_19_a_changed_password_ends_the_connection_and_no_other(both_with):
    both = both_with(ACCOUNTS_OURS % ("pw", ""), ACCOUNTS_NATS % ("pw", ""))
    wires = [await Wire.open(port, connect=user("ann")) for port in both.ports]
    others = [await Wire.open(port, connect=user("bob")) for port in both.ports]
    both.reload(ACCOUNTS_OURS % ("new", ""), ACCOUNTS_NATS % ("new", ""))
    said = [(await wire.rest()).replace(b"PING\r\n", b"") for wire in wires]
    assert said == [b"-ERR 'Authorization Violation'\r\n"] * 2
    for wire, port in zip(others, both.ports, strict=True):
        echoed = await wire.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n")
        assert echoed.replace(b"PING\r\n", b"") == b"MSG a 1 0\r\n\r\n"
        assert (await talk(port, user("ann", "new"))).data == b"PONG\r\n"
        assert b"Violation" in (await talk(port, user("ann"))).data
    for wire in (*wires, *others):
        wire.abort()


TURNS = {
    "a token changes": (
        '[authorization]\ntoken = "a"', "authorization { token: a }",
        '[authorization]\ntoken = "b"', "authorization { token: b }", True,
    ),
    "a token stays": (
        '[authorization]\ntoken = "a"', "authorization { token: a }",
        '[authorization]\ntoken = "a"\n', "authorization { token: a, timeout: 3 }", False,
    ),
    "credentials are asked for": ("", "", '[authorization]\ntoken = "b"',
                                  "authorization { token: b }", True),
    "nobody is asked any more": ('[authorization]\ntoken = "a"', "authorization { token: a }",
                                 "", "", False),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
async def test_19_who_is_still_allowed_stays(both_with, turn):
    toml, conf, toml_then, conf_then, ends = TURNS[turn]
    both = both_with(toml, conf)
    connect = b'CONNECT {"auth_token":"a","verbose":false}\r\n'
    wires = [await Wire.open(port, connect=connect) for port in both.ports]
    both.reload(toml_then, conf_then)
    for wire in wires:
        if ends:
            said = (await wire.rest()).replace(b"PING\r\n", b"")
            assert said == b"-ERR 'Authorization Violation'\r\n"
        else:
            assert b"MSG a 1 0" in await wire.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n")
        wire.abort()


async def test_19_lame_duck_is_told_at_once_and_nobody_new_comes_in(both_with):
    conf = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"\n'
    both = both_with("", conf, lame_duck_s=0.5)
    connect = b'CONNECT {"verbose":false,"protocol":1}\r\n'
    wires = [await Wire.open(port, connect=connect) for port in both.ports]
    both.theirs.lame_duck()
    leaving = asyncio.create_task(asyncio.to_thread(both.ours.lame_duck))
    for wire, port in zip(wires, both.ports, strict=True):
        said = await wire.until(b'"ldm":true')
        assert said.rpartition(b"\r\n")[2].startswith(b"INFO {")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        wire.abort()
    await leaving


# --- where ours differs --------------------------------------------------------------------------


async def test_a_removed_user_is_told(both_with):
    both = both_with(ACCOUNTS_OURS % ("pw", ""), ACCOUNTS_NATS % ("pw", ""))
    wires = [await Wire.open(port, connect=user("ann")) for port in both.ports]
    both.reload(
        ACCOUNTS_OURS.replace('"ann"', '"gone"') % ("pw", ""),
        ACCOUNTS_NATS.replace("ann", "gone") % ("pw", ""),
    )
    ours, _ = [(await wire.rest()).replace(b"PING\r\n", b"") for wire in wires]
    assert ours == b"-ERR 'Authorization Violation'\r\n"
    for wire in wires:
        wire.close()
