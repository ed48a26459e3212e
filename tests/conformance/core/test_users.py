"""Credentials and permissions: one configuration in both servers' words, the same bytes for
both, and what they answer compared byte by byte.
"""

import asyncio
import base64
import json

import nkeys
import pytest

from mq9cluster.domain.nkeys import KeyPair, make_user
from mq9cluster.domain.passwords import hashed
from tests.conformance.core.script import Heard, play
from tests.conformance.core.secured import Both, user
from tests.support.wire import WAIT_S, Wire

ALL_PERMISSIONS = (
    b"PUB x.ok 0\r\n\r\nPUB x.no 0\r\n\r\nPUB nope 0\r\n\r\nSUB in.a 1\r\nSUB nope 2\r\n"
)

HASH_BCRYPT = hashed("pw", "bcrypt", 4)
KEY: KeyPair = make_user()

USERS_NATS = f"""
authorization {{
  default_permissions: {{ publish: "usual", subscribe: ["usual"] }}
  users: [
    {{user: ann, password: pw, permissions: {{
      publish: {{allow: ["x.*", "y.>"], deny: ["x.no"]}}
      subscribe: {{allow: ["in.*", "z.>", "q.a grp", "q.b g.*"], deny: ["z.no", "z.deep.>"]}} }}}}
    {{user: asks, password: pw, permissions: {{subscribe: ["svc"], allow_responses: true}}}}
    {{user: asks2, password: pw, permissions: {{
      subscribe: svc, publish: ok, allow_responses: {{max: 2, expires: "1h"}} }}}}
    {{user: denied, password: pw, permissions: {{
      publish: {{deny: "no"}}, subscribe: {{deny: ["no", "w.*"]}} }}}}
    {{user: usual, password: pw}}
    {{user: hashed, password: "{HASH_BCRYPT}", permissions: {{}}}}
    {{nkey: {KEY.public}, permissions: {{publish: one}}}}
  ]
}}
"""
USERS_OURS = f"""
[authorization.default_permissions]
publish = "usual"
subscribe = ["usual"]

[[users]]
user = "ann"
password = "pw"
[users.permissions]
publish = {{ allow = ["x.*", "y.>"], deny = ["x.no"] }}
subscribe = {{ allow = ["in.*", "z.>", "q.a grp", "q.b g.*"], deny = ["z.no", "z.deep.>"] }}

[[users]]
user = "asks"
password = "pw"
permissions = {{ subscribe = ["svc"], allow_responses = true }}

[[users]]
user = "asks2"
password = "pw"
[users.permissions]
subscribe = "svc"
publish = "ok"
allow_responses = {{ max = 2, expires = "1h" }}

[[users]]
user = "denied"
password = "pw"
permissions = {{ publish = {{ deny = "no" }}, subscribe = {{ deny = ["no", "w.*"] }} }}

[[users]]
user = "usual"
password = "pw"

[[users]]
user = "hashed"
password = "{HASH_BCRYPT}"
permissions = {{}}

[[users]]
nkey = "{KEY.public}"
permissions = {{ publish = "one" }}
"""

CASES = {
    "nothing": b"",
    "CONNECT without credentials": b"CONNECT {}\r\n",
    "PUB before CONNECT": b"PUB a 0\r\n\r\n",
    "a password that is wrong": user("ann", "PW"),
    "a password that is empty": user("ann", ""),
    "a user without a password": b'CONNECT {"user":"ann"}\r\n',
    "a user nobody knows": user("zed"),
    "a token": b'CONNECT {"auth_token":"pw"}\r\n',
    "an nkey without a signature": b'CONNECT {"nkey":"%b"}\r\n' % KEY.public.encode(),
    "an nkey with a wrong one": b'CONNECT {"nkey":"%b","sig":"AAAA"}\r\n' % KEY.public.encode(),
    "an nkey as a user": user(KEY.public, ""),
    "a nkey nobody knows": b'CONNECT {"nkey":"UAAA","sig":"AAAA"}\r\n',
    "a hash as the password": user("hashed", HASH_BCRYPT),
    "a wrong password for a hash": user("hashed", "PW"),
    "the right password for a hash": user("hashed") + b"SUB a 1\r\nPUB a 0\r\n\r\n",
    "a password longer than bcrypt reads": user("hashed", "pw" + "x" * 100),
    "an unknown protocol": user("ann", more=b',"protocol":7'),
    "an unknown protocol and a wrong password": user("ann", "PW", b',"protocol":7'),
    "PUB": user("ann") + b"".join(
        b"PUB %b 0\r\n\r\n" % subject
        for subject in (b"x.ok", b"x.no", b"x.a.b", b"y.*", b"x.*", b"x.>", b"y", b"y.a.b", b"x..a")
    ),
    "PUB with a reply": user("ann") + b"PUB nope in.a 1\r\na\r\nPUB x.ok nope 0\r\n\r\n",
    "PUB, verbose": b'CONNECT {"user":"ann","pass":"pw"}\r\nPUB x.ok 0\r\n\r\nPUB x.no 0\r\n\r\n'
    b"PUB nope.* 0\r\n\r\n",
    "HPUB": user("ann") + b"HPUB nope 12 12\r\nNATS/1.0\r\n\r\n\r\n",
    "SUB": user("ann") + b"".join(
        b"SUB %b %d\r\n" % (subject, sid)
        for sid, subject in enumerate(
            (b"in.a", b"in.*", b">", b"*", b"in", b"in.a.b", b"z.no", b"z.>", b"z.*", b"z.a.>",
             b"z.deep.a", b"z.deep.*", b"z.deep.>", b"nope", b"in..x", b"z.>.a")
        )
    ),
    "SUB in a queue": user("ann") + b"".join(
        b"SUB %b %d\r\n" % (subject, sid)
        for sid, subject in enumerate(
            (b"q.a", b"q.a grp", b"q.a other", b"q.b g.1", b"q.b h.1", b"in.a any", b"nope grp")
        )
    ),
    "SUB, verbose": b'CONNECT {"user":"ann","pass":"pw"}\r\nSUB in.a 1\r\nSUB nope 2\r\n',
    "a SUB that was refused leaves its sid": user("ann") + b"SUB no 1\r\nSUB in.a 1\r\nUNSUB 1\r\n",
    "denied and nothing else": user("denied")
    + b"SUB a 1\r\nPUB a 1\r\nx\r\nPUB no 0\r\n\r\n"
    + b"SUB no 2\r\nSUB w.* 3\r\nSUB w.a 4\r\nSUB w.> 5\r\n",
    "what is usual": user("usual")
    + b"SUB usual 1\r\nPUB usual 0\r\n\r\nPUB x 0\r\n\r\nSUB x 2\r\n",
    "no_responders of what is denied": user("ann")
    + b"SUB in.r 1\r\nPUB x.q in.r 0\r\n\r\nPUB nope in.r 0\r\n\r\n",
    "another CONNECT keeps who it was": user("ann")
    + b'SUB in.a 1\r\nCONNECT {"verbose":false}\r\nPUB x.a 0\r\n\r\nPUB nope 0\r\n\r\n',
    "another CONNECT of another user": user("ann")
    + b"SUB in.a 1\r\n" + user("denied") + b"SUB nope 2\r\nPUB nope 0\r\n\r\nPUB no 0\r\n\r\n",
    "another CONNECT that is wrong": user("ann") + b"SUB in.a 1\r\n" + user("denied", "PW"),
}  # fmt: skip


@pytest.fixture(scope="module")
def users(both_with) -> Both:
    return both_with(USERS_OURS, USERS_NATS)


@pytest.mark.parametrize("case", CASES)
async def test_16_17_the_same_answer(users, case):
    await users.agree(CASES[case])


async def test_17_wildcards_get_nothing_that_is_denied(users):
    said = []
    for port in users.ports:
        ann = await Wire.open(port, connect=user("ann") + b"SUB z.> 1\r\nSUB z.> q 2\r\n")
        denied = await Wire.open(port, connect=user("denied"))
        await denied.answers(
            b"".join(
                b"PUB %b 1\r\nx\r\n" % subject
                for subject in (b"z.no", b"z.yes", b"z.deep.x", b"z.deep", b"z.deep.x.y", b"z.no.x")
            )
        )
        said.append((await ann.answers()).replace(b" 2 1", b" 1 1"))
        ann.abort()
        denied.abort()
    assert said[0] == said[1]
    assert said[0].count(b"MSG") == 6


@pytest.mark.parametrize("who", ["asks", "asks2"])
async def test_17_who_is_asked_may_answer_so_often(users, who):
    said = []
    for port in users.ports:
        asked = await Wire.open(port, connect=user(who) + b"SUB svc 1\r\n")
        asks = await Wire.open(port, connect=user("denied") + b"SUB r.* 1\r\n")
        await asks.answers(b"PUB svc r.1 0\r\n\r\nPUB svc r.2 0\r\n\r\nPUB svc 0\r\n\r\n")
        answers = b"PUB r.1 1\r\na\r\n" * 3 + b"PUB r.2 1\r\nb\r\nPUB r.3 0\r\n\r\nPUB ok 0\r\n\r\n"
        said.append((await asked.answers(answers), await asks.answers()))
        asked.abort()
        asks.abort()
    assert said[0] == said[1]


def signature(nonce: str, key: KeyPair = KEY) -> bytes:
    return nkeys.from_seed(bytearray(key.seed.encode())).sign(nonce.encode())


SIGNATURES = {
    "base64url": lambda nonce: base64.urlsafe_b64encode(signature(nonce)).rstrip(b"="),
    "base64 with padding": lambda nonce: base64.b64encode(signature(nonce)),
    "base64url with padding": lambda nonce: base64.urlsafe_b64encode(signature(nonce)),
    "base64 without padding": lambda nonce: base64.b64encode(signature(nonce) * 2)[:86],
    "of another nonce": lambda nonce: base64.urlsafe_b64encode(signature(nonce[::-1])).rstrip(b"="),
    "by another key": lambda nonce: base64.urlsafe_b64encode(signature(nonce, OTHER)).rstrip(b"="),
}
OTHER = make_user()


@pytest.mark.parametrize("how", SIGNATURES)
async def test_16_an_nkey_signs_the_nonce(users, how):
    said = []
    for port in users.ports:
        wire = await Wire.open(port)
        nonce = wire.info["nonce"]
        # Chance decides whether base64 and base64url differ: until they do.
        while how.startswith("base64") and not {43, 47} & set(base64.b64encode(signature(nonce))):
            wire.abort()
            wire = await Wire.open(port)
            nonce = wire.info["nonce"]
        signed = SIGNATURES[how](nonce).decode()
        connect = json.dumps({"nkey": KEY.public, "sig": signed, "verbose": False})
        wire.send(b"CONNECT " + connect.encode() + b"\r\nPUB two 0\r\n\r\nPING\r\n")
        said.append(await asyncio.wait_for(wire.reader.readline(), WAIT_S))
        wire.abort()
    assert said[0] == said[1]
    right = said[0].startswith(b"-ERR 'Permissions Violation for Publish")
    assert right == (how in ("base64url", "base64 with padding"))


async def test_16_every_connection_gets_a_nonce_of_its_own(users):
    wires = [await Wire.open(users.ours.port) for _ in range(10)]
    assert len({wire.info["nonce"] for wire in wires}) == 10
    for wire in wires:
        wire.abort()


async def test_16_info_is_the_same_in_every_field(users):
    steps = [("a", user("ann", more=b',"protocol":1')), ("a", b"")]
    heard = await asyncio.gather(*(play(port, steps) for port in users.ports))
    assert _without_nonce(heard[0]["a"]) == _without_nonce(heard[1]["a"])


def _without_nonce(heard: Heard) -> list:
    events = heard.events()
    for event in events:
        if event[0] == "INFO" and "nonce" in event[2]:
            event[2]["nonce"] = len(event[2]["nonce"])
    return events


SINGLES = {
    "token": (
        "authorization { token: s3cret }",
        '[authorization]\ntoken = "s3cret"',
        [
            b'CONNECT {"auth_token":"s3cret","verbose":false}\r\nSUB a 1\r\nPUB a 0\r\n\r\n',
            b'CONNECT {"auth_token":"s3cret","user":"u","pass":"p","verbose":false}\r\n',
            b'CONNECT {"user":"s3cret","pass":"s3cret"}\r\n',
            b'CONNECT {"auth_token":""}\r\n',
        ],
    ),
    "hashed token": (
        f'authorization {{ token: "{HASH_BCRYPT}" }}',
        f'[authorization]\ntoken = "{HASH_BCRYPT}"',
        [
            b'CONNECT {"auth_token":"pw","verbose":false}\r\nSUB a 1\r\nPUB a 0\r\n\r\n',
            b'CONNECT {"auth_token":"PW"}\r\n',
            b'CONNECT {"auth_token":"%b"}\r\n' % HASH_BCRYPT.encode(),
        ],
    ),
    "one user": (
        "authorization { user: ann, password: pw }",
        '[authorization]\nuser = "ann"\npassword = "pw"',
        [
            user("ann"),
            user("bob"),
            user("ann", "pw", b',"auth_token":"x"'),
            b'CONNECT {"auth_token":"pw"}\r\n',
        ],
    ),
    "no_auth_user": (
        "no_auth_user: guest\nauthorization { users: [{user: guest, password: x,"
        " permissions: {publish: one}}, {user: ann, password: pw}] }",
        'no_auth_user = "guest"\n[[users]]\nuser = "guest"\npassword = "x"\n'
        'permissions = { publish = "one" }\n[[users]]\nuser = "ann"\npassword = "pw"',
        [
            b"PUB zero 0\r\n\r\nSUB a 1\r\n",
            b'PUB zero 0\r\n\r\nCONNECT {"verbose":false}\r\nPUB two 0\r\n\r\nPUB one 0\r\n\r\n',
            user("ann") + b"PUB zero 0\r\n\r\n",
            user("ann", "PW"),
            user("", "PW"),
            user("guest", "PW"),
            b'CONNECT {"auth_token":"x"}\r\n',
        ],
    ),
    "accounts": (
        "accounts { A: {users: [{user: ann, password: pw}]}, B: {users: [{user: bob, password: pw,"
        ' permissions: {publish: {deny: "no"}}}]} }',
        '[[accounts]]\nname = "A"\n[[accounts.users]]\nuser = "ann"\npassword = "pw"\n'
        '[[accounts]]\nname = "B"\n[[accounts.users]]\nuser = "bob"\npassword = "pw"\n'
        'permissions = { publish = { deny = "no" } }',
        [
            user("ann") + b"SUB > 1\r\nPUB no 0\r\n\r\n",
            user("bob") + b"SUB > 1\r\nPUB no 0\r\n\r\nPUB yes 0\r\n\r\n",
            user("zed"),
        ],
    ),
}


@pytest.mark.parametrize("name", SINGLES)
async def test_16_each_kind_of_credentials_right_and_wrong(both_with, name):
    conf, toml, cases = SINGLES[name]
    both = both_with(toml, conf)
    for data in cases:
        await both.agree(data)


async def test_accounts_hear_nothing_of_each_other(both_with):
    conf, toml, _ = SINGLES["accounts"]
    both = both_with(toml, conf)
    said = []
    for port in both.ports:
        bob = await Wire.open(port, connect=user("bob", more=b',"protocol":1') + b"SUB > 1\r\n")
        info = json.loads((await bob.until(b"\r\n"))[5:])
        ann = await Wire.open(port, connect=user("ann") + b"SUB i.* 1\r\n")
        asked = await ann.answers(b"PUB a 0\r\n\r\nPUB q i.1 0\r\n\r\n")
        said.append((info["remote_account"], asked, await bob.answers()))
        bob.abort()
        ann.abort()
    assert said[0] == said[1]
    assert said[0][0] == "B"
    assert b"503" in said[0][1]


# --- where ours differs --------------------------------------------------------------------------


async def test_a_tail_is_not_covered_by_a_star(users):
    ours, theirs = await users.say(user("ann") + b"SUB in.> 1\r\n")
    assert ours.data == (b"-ERR 'Permissions Violation for Subscription to \"in.>\"'\r\nPONG\r\n")
    assert theirs.data == b"PONG\r\n"


async def test_an_empty_list_allows_nothing(both_with):
    both = both_with(
        '[[users]]\nuser = "u"\npassword = "pw"\npermissions = { publish = { allow = [] } }',
        "authorization { users: [{user: u, password: pw, permissions: {publish: {allow: []}}}] }",
    )
    ours, theirs = await both.say(user("u") + b"PUB a 0\r\n\r\n")
    assert ours.data == b"-ERR 'Permissions Violation for Publish to \"a\"'\r\nPONG\r\n"
    assert theirs.data == b"PONG\r\n"
