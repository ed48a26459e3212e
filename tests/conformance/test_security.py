"""Real nodes with users, accounts and certificates, and real clients: nats-py, as applications use
it. What nats-server would have said is compared in core (test_users, test_tls, test_reload).
"""

import asyncio
import gc
import json
import signal
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from chaos.cluster.process import ServedNode
from mq9cluster.domain.nkeys import make_user
from mq9cluster.domain.passwords import hashed
from tests.support.certificates import LOCALHOST, Authority
from tests.support.cluster import until
from tests.support.mq9 import ANSWER_S_MAX, checked, fresh
from tests.support.nats_py import settled
from tests.support.raw_nats import RawNats

KEY, STRANGERS_KEY = make_user(), make_user()
SECRETS = {"ann-secret", "amy-secret", "bob-secret", "sends-secret", "gone-secret", "new-secret"}
BCRYPT, ARGON2 = hashed("ann-secret", "bcrypt", 4), hashed("amy-secret", "argon2")

USERS = f"""
[[accounts]]
name = "A"

[[accounts.users]]
user = "ann"
password = "{BCRYPT}"

[[accounts.users]]
user = "amy"
password = "{ARGON2}"

[[accounts.users]]
nkey = "{KEY.public}"

[[accounts.users]]
user = "sends"
password = "sends-secret"
[accounts.users.permissions]
publish = {{ allow = ["$mq9.AI.MSG.SEND.>", "events.*"], deny = ["events.secret"] }}
subscribe = ["_INBOX.>", "events.*"]

[[accounts]]
name = "B"
max_connections = 2

[[accounts.users]]
user = "bob"
password = "bob-secret"
"""


class Changing(ServedNode):
    """A node whose configuration file is rewritten and read again."""

    def __init__(self, folder: Path, text: str, **flags: object) -> None:
        self.file = folder / "mq9.toml"
        self.file.write_text(text)
        super().__init__(folder / "data", config=self.file, **flags)

    async def reload(self, text: str | None = None, *, refused: bool = False) -> None:
        """SIGHUP; returns once it was heeded."""
        if text is not None:
            self.file.write_text(text)
        event = "not reloaded" if refused else "reloaded"
        before = len(self.events(event))
        self.signal(signal.SIGHUP)
        await until(lambda: len(self.events(event)) > before, f"{event}: {self.log_text()}")


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Iterator[Changing]:
    """A node with USERS, for tests that leave them as they are."""
    served = Changing(tmp_path_factory.mktemp("users"), USERS)
    served.start_now()
    yield served
    served.kill_now()


async def connect(node: ServedNode, **who: Any) -> Client:
    options = {"allow_reconnect": False, "connect_timeout": ANSWER_S_MAX, **who}
    return await nats.connect(node.url, **options)


@asynccontextmanager
async def connected(node: ServedNode, **who: Any) -> AsyncIterator[Client]:
    client = await connect(node, **who)
    try:
        yield client
    finally:
        await client.close()


async def refused(node: ServedNode, **who: Any) -> bool:
    """Whether these credentials are not good enough."""
    with warnings.catch_warnings():  # nats-py leaves a refused socket to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        said = await _refused(node, who)
        gc.collect()
    return said


async def _refused(node: ServedNode, who: dict[str, Any]) -> bool:
    async def quiet(_: Exception) -> None:
        pass

    try:
        client = await connect(node, error_cb=quiet, **who)
    except (nats.errors.Error, OSError):
        return True
    try:
        await client.flush(ANSWER_S_MAX)
    except (nats.errors.Error, OSError, TimeoutError):
        return True
    finally:
        await client.close()
    return False


async def ask(client: Client, subject: str, body: Any = None) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    return checked((await client.request("$mq9.AI." + subject, raw, timeout=ANSWER_S_MAX)).data)


ANN = {"user": "ann", "password": "ann-secret"}
AMY = {"user": "amy", "password": "amy-secret"}
BOB = {"user": "bob", "password": "bob-secret"}
SENDS = {"user": "sends", "password": "sends-secret"}


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        (ANN, True),
        ({**ANN, "password": "amy-secret"}, False),
        ({**ANN, "password": BCRYPT}, False),
        ({"user": "zed", "password": "ann-secret"}, False),
        (AMY, True),
        ({**AMY, "password": "amy-secret "}, False),
        ({"nkeys_seed_str": KEY.seed}, True),
        ({"nkeys_seed_str": STRANGERS_KEY.seed}, False),
        ({"token": "ann-secret"}, False),
        ({}, False),
    ],
)
async def test_each_kind_of_credentials_right_and_wrong(node, who, allowed):
    assert await refused(node, **who) is not allowed


async def test_who_may_send_but_not_fetch(node):
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    box = fresh()
    async with connected(node, **ANN) as ann, connected(node, **SENDS, error_cb=on_error) as sends:
        await ask(ann, "MAILBOX.CREATE", {"name": box})
        assert await ask(sends, f"MSG.SEND.{box}", b"hello") == {"error": "", "msg_id": 1}
        for command in (f"MSG.FETCH.{box}", f"MSG.QUERY.{box}", "MAILBOX.CREATE"):
            assert (await ask(sends, command))["code"] == "permission_denied"
        assert (await ask(ann, f"MSG.FETCH.{box}"))["messages"][0]["msg_id"] == 1
        await until(lambda: len(errors) == 3, "three -ERR")
    assert all("permissions violation for publish" in error.lower() for error in errors)


async def test_core_permissions_over_a_real_client(node):
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error).lower())

    async with connected(node, **ANN) as ann, connected(node, **SENDS, error_cb=on_error) as sends:
        heard = await ann.subscribe("events.*")
        own = await sends.subscribe("events.*")
        await sends.subscribe("other")
        await settled(ann)
        for subject in ("events.a", "events.secret", "else", "events.b"):
            await sends.publish(subject, b"")
        await sends.flush()
        for subscription in (heard, own):
            got = [(await subscription.next_msg(ANSWER_S_MAX)).subject for _ in range(2)]
            assert got == ["events.a", "events.b"]
        await until(lambda: len(errors) == 3, "three -ERR")
    told = "".join(errors)
    for words in ('subscription to "other"', 'publish to "events.secret"', 'publish to "else"'):
        assert words in told


async def test_an_account_has_no_more_connections_than_it_may(node):
    async with connected(node, **BOB), connected(node, **BOB):
        assert await refused(node, **BOB)
        assert not await refused(node, **ANN)


async def test_accounts_share_no_mailbox_and_no_subject(node):
    box = fresh()
    async with connected(node, **ANN) as ann, connected(node, **BOB) as bob:
        assert (await ask(ann, "MAILBOX.CREATE", {"name": box}))["mail_address"] == box
        await ask(ann, f"MSG.SEND.{box}", b"for A")
        for command in (f"MSG.QUERY.{box}", f"MSG.FETCH.{box}", f"MSG.DELETE.{box}.1"):
            assert (await ask(bob, command))["code"] == "mailbox_not_found"
        assert (await ask(bob, "MAILBOX.CREATE", {"name": box}))["mail_address"] == box
        assert (await ask(bob, f"MSG.QUERY.{box}"))["messages"] == []
        everything = await bob.subscribe(">")
        await settled(bob)
        await ann.publish("a.b", b"")
        await ask(ann, f"MSG.SEND.{box}", b"again for A")
        await ann.flush()
        await bob.publish("mine", b"")
        assert (await everything.next_msg(ANSWER_S_MAX)).subject == "mine"


async def test_no_secret_is_in_logs_metrics_or_monitoring(node):
    await refused(node, user="ann", password="gone-secret")
    async with connected(node, **ANN), connected(node, nkeys_seed_str=KEY.seed) as key:
        await key.subscribe("a")
        await settled(key)
        pages = [
            (await node.get(path)).body.decode()
            for path in ("/varz", "/connz?subs=detail&auth=1", "/subsz?subs=1", "/routez",
                         "/cluster", "/metrics", "/nowhere")
        ]  # fmt: skip
    assert '"auth_required"' in pages[0]
    assert 'mq9_account_connections{account="A"} 2' in pages[5]
    for text in (*pages, node.log_text()):
        for secret in (*SECRETS, BCRYPT, ARGON2, KEY.seed, "$2b$", "$argon2"):
            assert secret not in text


# --- reload --------------------------------------------------------------------------------------


@pytest.fixture
async def changing(tmp_path) -> AsyncIterator[Changing]:
    """A node with USERS of this test's own."""
    served = Changing(tmp_path, USERS)
    await served.start()
    yield served
    await served.kill()


async def test_a_reload_sends_away_whom_it_must_and_nobody_else(changing):
    clients = {}
    for name, who in (("ann", ANN), ("bob", BOB), ("sends", SENDS)):
        clients[name] = await connect(changing, **who)
    box = fresh()
    await ask(clients["ann"], "MAILBOX.CREATE", {"name": box})
    # amy is new to everybody, bob is gone, and sends may do less.
    less = USERS.replace('user = "bob"\npassword = "bob-secret"', 'user = "ben"\npassword = "x"')
    await changing.reload(less.replace('"events.*"], deny', '"none"], deny'))
    await until(lambda: clients["bob"].is_closed, "bob is away")
    assert (await ask(clients["ann"], f"MSG.SEND.{box}", b"x"))["msg_id"] == 1
    assert (await ask(clients["sends"], f"MSG.SEND.{box}", b"x"))["msg_id"] == 2
    assert await refused(changing, **BOB)
    # What is wrong is told, and changes nothing.
    await changing.reload('[[users]]\nuser = "x"\n', refused=True)
    told = changing.events("not reloaded")[0]["why"]
    assert told.endswith("users[0]: user 'x' needs a password")
    assert not await refused(changing, **ANN)
    # A setting that a running node cannot take is named.
    await changing.reload("shards = 4\n" + less)
    assert changing.events("changed, but only taken at a restart")[0]["settings"] == "shards"
    # Limits count from now on.
    fields = {"user": "amy", "pass": "amy-secret"}
    raw = await RawNats.connect(changing.host, changing.port, **fields)
    assert raw.info["max_payload"] == 1_048_576
    await changing.reload("max_connections = 3\nmax_payload = 2000\n" + less)
    await clients["ann"].flush()
    assert await refused(changing, **ANN)
    await raw.flush()
    assert raw.info["max_payload"] == 2000
    await raw.close()
    await changing.reload(less)
    assert not await refused(changing, **ANN)
    # Nobody is asked any more; then for a token.
    await changing.reload("")
    assert not await refused(changing)
    await changing.reload('[authorization]\ntoken = "new-secret"\n')
    assert await refused(changing)
    assert await refused(changing, token="gone-secret")
    assert not await refused(changing, token="new-secret")
    for client in clients.values():
        with suppress(nats.errors.Error):
            await client.close()
    for secret in SECRETS:
        assert secret not in changing.log_text()


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture
async def secure(tmp_path) -> AsyncIterator[tuple[Changing, Authority]]:
    """A node with a certificate, and who signed it."""
    authority = Authority(tmp_path)
    pair = authority.issue("server", names=LOCALHOST)
    flags = {
        "tls_cert": pair.certificate_file,
        "tls_key": pair.key_file,
        "tls_ca": authority.file,
        "auth_timeout": 30,
    }
    served = Changing(tmp_path, 'tls_handshake = "upgrade"', **flags)
    await served.start()
    yield served, authority
    await served.kill()


async def serial_shown(node: ServedNode, authority: Authority) -> int:
    """Of the certificate that a new handshake gets."""
    reader, writer = await asyncio.open_connection(node.host, node.port)
    await reader.readline()
    await writer.start_tls(authority.trusted(), server_hostname="localhost")
    shown = writer.get_extra_info("peercert")
    serial = int(shown["serialNumber"], 16)
    writer.transport.abort()
    return serial


async def test_tls_as_real_clients_make_it(secure, tmp_path):
    node, authority = secure
    trusted = authority.trusted()
    strangers = Authority(tmp_path, "strangers")
    assert not await refused(node, tls=trusted)
    assert await refused(node, tls=strangers.trusted())
    # nats-py waits out its time when it hears INFO instead of a handshake.
    assert await refused(node, tls=trusted, tls_handshake_first=True, connect_timeout=1)
    await node.reload('tls_handshake = "first"')
    assert not await refused(node, tls=trusted, tls_handshake_first=True)
    await node.reload('tls_handshake = "auto"')
    assert not await refused(node, tls=trusted, tls_handshake_first=True)
    assert not await refused(node, tls=trusted)
    await node.reload('tls_handshake = "optional"')
    assert not await refused(node)
    await node.reload(
        'tls_verify = "map"\n[[users]]\nuser = "CN=ann"\npermissions = { publish = "a" }\n'
    )
    assert await refused(node, tls=trusted)
    assert await refused(node, tls=authority.trusted(authority.issue("zed")))
    ann = authority.trusted(authority.issue("ann"))
    assert not await refused(node, tls=ann)
    async with connected(node, tls=ann) as client:
        assert (await ask(client, "MAILBOX.CREATE"))["code"] == "permission_denied"


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


async def test_a_certificate_changes_under_load_and_nothing_is_lost(secure):
    node, authority = secure
    first = await serial_shown(node, authority)
    lost: list[str] = []

    async def on_loss() -> None:
        lost.append("disconnected")

    box = fresh()
    async with connected(node, tls=authority.trusted(), disconnected_cb=on_loss) as client:
        core = await client.subscribe("core")
        await settled(client)
        await ask(client, "MAILBOX.CREATE", {"name": box})
        sent = 0
        stop = asyncio.Event()

        async def publish() -> None:
            nonlocal sent
            while not stop.is_set():
                await client.publish("core", b"%d" % sent)
                answer = await ask(client, f"MSG.SEND.{box}", b"%d" % sent)
                sent += 1
                assert answer["msg_id"] == sent

        publishing = asyncio.create_task(publish())
        seen = {first}
        for _ in range(4):
            issued = authority.issue("server", names=LOCALHOST)
            at = sent
            await node.reload()
            assert await serial_shown(node, authority) == issued.serial
            seen.add(issued.serial)
            await until(lambda at=at: sent > at or publishing.done(), "it goes on")
        stop.set()
        await publishing
        assert len(seen) == 5
        for number in range(sent):
            assert (await core.next_msg(ANSWER_S_MAX)).data == b"%d" % number
        found = await ask(client, f"MSG.QUERY.{box}", {"limit": 1})
        assert found["messages"][-1]["msg_id"] == sent
        assert lost == []
    # A key that does not go with its certificate is refused, and the old pair stays.
    shown = await serial_shown(node, authority)
    other = authority.issue("other")
    _copy(other.key_file, issued.key_file)
    await node.reload(refused=True)
    assert await serial_shown(node, authority) == shown
