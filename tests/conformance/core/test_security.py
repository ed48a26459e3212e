"""Users, permissions and TLS: the same configuration in both servers' words, the same bytes sent,
and what they answer compared byte by byte.

What differs on purpose is in DIFFERENCES, each with its test: ours allows less, or says more.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator

import nkeys
import pytest
from cryptography import x509

from mq9cluster.config_tls import client_tls
from mq9cluster.domain.nkeys import KeyPair, make_user
from mq9cluster.domain.passwords import hashed
from mq9cluster.gateway.settings import Settings
from tests.conformance.core.script import Heard, play
from tests.support.certificates import LOCALHOST, Authority
from tests.support.core_security import OurSecureServer, Said, TheirSecureServer, talk
from tests.support.wire import WAIT_S, Wire

REST = b',"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
ALL_PERMISSIONS = (
    b"PUB x.ok 0\r\n\r\nPUB x.no 0\r\n\r\nPUB nope 0\r\n\r\nSUB in.a 1\r\nSUB nope 2\r\n"
)

DIFFERENCES = {
    "an allowed `in.*` does not let `in.>` pass": "test_a_tail_is_not_covered_by_a_star",
    "an empty list allows nothing": "test_an_empty_list_allows_nothing",
    "who speaks in clear where TLS is needed is told so": "test_clear_text_is_told_so",
    "a user without a password is refused at start": "test_what_is_wrong (unit/config)",
    "a user who was removed is told why": "test_a_removed_user_is_told",
}


def user(name: str, password: str = "pw", more: bytes = b"") -> bytes:
    who = json.dumps({"user": name, "pass": password}).encode()[:-1]
    return b"CONNECT " + who + more + REST


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

Ports = tuple[int, int]


class Both:
    """Our server and theirs with one configuration."""

    def __init__(self, toml: str, conf: str, tls: tuple = (), **settings) -> None:
        built = client_tls(*tls) if tls else None
        self.ours = OurSecureServer(toml, built, Settings(**settings))
        self.theirs = TheirSecureServer(conf)
        self.ours.start()
        self.theirs.start()

    @property
    def ports(self) -> Ports:
        return self.ours.port, self.theirs.port

    async def say(self, data: bytes, **how) -> tuple[Said, Said]:
        ours, theirs = await asyncio.gather(*(talk(port, data, **how) for port in self.ports))
        return ours, theirs

    async def agree(self, data: bytes, **how) -> Said:
        """What both said; fails where they did not say the same."""
        ours, theirs = await self.say(data, **how)
        assert ours.same() == theirs.same()
        return ours

    def reload(self, toml: str, conf: str) -> None:
        self.ours.reload(toml)
        self.theirs.reload(conf)

    def end(self) -> None:
        self.ours.end()
        self.theirs.end()


MakeBoth = Callable[..., Both]


@pytest.fixture(scope="module")
def both_with() -> Iterator[MakeBoth]:
    made: list[Both] = []

    def make(toml: str, conf: str, tls: tuple = (), **settings) -> Both:
        made.append(Both(toml, conf, tls, **settings))
        return made[-1]

    yield make
    for both in made:
        both.end()


@pytest.fixture(scope="module")
def users(both_with) -> Both:
    return both_with(USERS_OURS, USERS_NATS)


# --- credentials and permissions -----------------------------------------------------------------


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


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("certificates"))
    made.issue("server", names=LOCALHOST)
    return made


TlsBoth = Callable[..., Both]


@pytest.fixture(scope="module")
def tls_with(both_with, authority) -> TlsBoth:
    """`tls_with("verify", "first")`: both servers with certificates."""
    pair = authority.issue("server", names=LOCALHOST)
    made: dict[tuple, Both] = {}

    def make(verify: str, handshake: str, toml: str = "", conf: str = "") -> Both:
        key = verify, handshake, toml
        if key not in made:
            words = {"no": "", "yes": ", verify: true", "map": ", verify_and_map: true"}[verify]
            words += {"first": ", handshake_first: true", "auto": ', handshake_first: "auto"'}.get(
                handshake, ""
            )
            text = (
                f'tls {{ cert_file: "{pair.certificate_file}", key_file: "{pair.key_file}"'
                f', ca_file: "{authority.file}"{words} }}\n{conf}\n'
            )
            if handshake == "optional":
                text += "allow_non_tls: true\n"
            files = (pair.certificate_file, pair.key_file, authority.file, verify, handshake)
            made[key] = both_with(toml, text, files, auth_timeout_s=2.0)
        return made[key]

    return make


@pytest.mark.parametrize(
    ("handshake", "first"),
    [("upgrade", False), ("first", True), ("auto", True), ("auto", False), ("optional", False)],
)
async def test_16_tls_begins_when_both_say(tls_with, authority, handshake, first):
    said = await tls_with("no", handshake).agree(
        b'CONNECT {"verbose":false,"protocol":1}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n',
        tls=authority.trusted(),
        first=first,
    )
    assert said.data == b"MSG a 1 1\r\nx\r\nPONG\r\n"


async def test_16_where_tls_is_optional_clear_text_is_served(tls_with):
    said = await tls_with("no", "optional").agree(QUIET_ECHO)
    assert said.info == {"tls_available": True, "nonce": 0}
    assert said.data == b"MSG a 1 0\r\n\r\nPONG\r\n"


QUIET_ECHO = b'CONNECT {"verbose":false}\r\nSUB a 1\r\nPUB a 0\r\n\r\n'


@pytest.mark.parametrize("shown", ["nothing", "a stranger's", "a good one"])
async def test_16_a_client_shows_a_certificate(tls_with, authority, tmp_path, shown):
    strangers = Authority(tmp_path, "strangers")
    client = {
        "nothing": None,
        "a stranger's": strangers.issue("zed"),
        "a good one": authority.issue("good"),
    }[shown]
    said = await tls_with("yes", "upgrade").agree(QUIET_ECHO, tls=authority.trusted(client))
    assert said.closed == (shown != "a good one")


MAPPED = ("ann@x.org", "svc.x.org", "spiffe://x.org/a", "CN=bob,OU=ops,O=X Inc")
MAPPED_OURS = "\n".join(
    f'[[users]]\nuser = "{name}"\npermissions = {{ publish = "only.{number}" }}'
    for number, name in enumerate(MAPPED)
)
MAPPED_NATS = "authorization { users: [%s] }" % ", ".join(  # noqa: UP031  braces
    f'{{user: "{name}", permissions: {{publish: "only.{number}"}}}}'
    for number, name in enumerate(MAPPED)
)
CERTIFIED = {
    "email": ("", (x509.RFC822Name("ann@x.org"), x509.DNSName("other.x.org"))),
    "email of nobody, dns name": ("", (x509.RFC822Name("zed@x.org"), x509.DNSName("svc.x.org"))),
    "dns name": ("", (x509.DNSName("svc.x.org"),)),
    "uri": ("", (x509.UniformResourceIdentifier("spiffe://x.org/a"),)),
    "subject": ("CN=bob,OU=ops,O=X Inc", ()),
    "subject in another order": ("O=X Inc,OU=ops,CN=bob", ()),
    "subject with less": ("CN=bob,OU=ops", ()),
    "subject with more": ("CN=bob,OU=ops,O=X Inc,C=DE", ()),
    "nobody": ("CN=zed", ()),
}


@pytest.mark.parametrize("who", CERTIFIED)
async def test_16_a_certificate_names_the_user(tls_with, authority, who):
    subject, names = CERTIFIED[who]
    client = authority.issue("client", subject=subject, names=names)
    tries = b"".join(b"PUB only.%d 0\r\n\r\n" % number for number in range(len(MAPPED)))
    both = tls_with("map", "upgrade", MAPPED_OURS, MAPPED_NATS)
    for connect in (
        b'CONNECT {"verbose":false}\r\n',
        b'CONNECT {"verbose":false,"user":"svc.x.org"}\r\n',
        b'CONNECT {"verbose":false,"user":"svc.x.org","pass":"x"}\r\n',
    ):
        await both.agree(connect + tries, tls=authority.trusted(client))


async def test_16_over_tls_too_silence_ends_with_a_timeout(tls_with, authority):
    both = tls_with("no", "upgrade", '[authorization]\ntoken = "t"', "authorization { token: t }")
    said = await both.agree(b"", tls=authority.trusted(), ping=False)
    assert said.data == b"-ERR 'Authentication Timeout'\r\n"


async def test_16_a_handshake_that_does_not_come_ends_the_connection(tls_with):
    heard = []
    for port in tls_with("no", "upgrade").ports:
        wire = await Wire.open(port)
        heard.append(await wire.rest())
        wire.close()
    assert heard == [b"", b""]


# --- reload --------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    "data", [b"CONNECT {}\r\nPING\r\n", b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_clear_text_is_told_so(tls_with, data):
    ours, theirs = await tls_with("no", "upgrade").say(data)
    assert ours.data == b"-ERR 'Secure Connection - TLS Required'\r\n"
    assert (ours.closed, theirs.closed) == (True, True)
    assert b"-ERR" not in theirs.data


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
