"""Hashed passwords: what matches, and that checking them holds up nobody else."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from mq9cluster.domain.access import User
from mq9cluster.domain.nkeys import NotAKey, make_user, parse_public, signed
from mq9cluster.domain.passwords import hashed, matches
from mq9cluster.gateway import password_checks
from mq9cluster.gateway.password_checks import PasswordChecks
from tests.support.access import Tokens, access_of, authenticator
from tests.support.wire import Wire, eventually

CHEAP = 4
KEPT = hashed("pw", "bcrypt", CHEAP)


@pytest.mark.parametrize(
    "kept",
    ["pw", KEPT, KEPT.replace("$2b$", "$2a$"), hashed("pw", "argon2")],
    ids=["clear", "bcrypt", "bcrypt 2a", "argon2"],
)
def test_only_the_password_matches(kept):
    assert matches(kept, "pw")
    for wrong in ("", "PW", "pw ", "pw\0", "pw" + "x" * 200, "ü", kept + "x"):
        assert not matches(kept, wrong)


def test_bcrypt_does_not_take_what_it_would_not_read():
    kept = hashed("x" * 72, "bcrypt", CHEAP)
    assert matches(kept, "x" * 72)
    assert not matches(kept, "x" * 73)


def test_a_public_key_is_read_back_and_typos_are_noticed():
    key = make_user()
    assert len(parse_public(key.public)) == 32
    for wrong in ("", key.public[:-1], key.seed, key.public.lower(), "U" * 56, "é" * 56):
        with pytest.raises(NotAKey):
            parse_public(wrong)


@pytest.mark.parametrize("signature", ["", "A", "=", "é", "\0", "A" * 86, "A" * 100_000])
def test_a_signature_that_is_none_is_refused(signature):
    assert not signed(parse_public(make_user().public), b"nonce", signature)


# --- many of them --------------------------------------------------------------------------------


class Gate:
    """Stands in for the hash: a check of "slow…" waits until the gate is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.order: list[str] = []

    def matches(self, kept: str, given: str) -> bool:
        if given.startswith("slow"):
            self.opened.wait(60)
        self.order.append(given)
        return given.endswith(kept)


@pytest.fixture
def gate(monkeypatch) -> Gate:
    made = Gate()
    monkeypatch.setattr(password_checks, "matches", made.matches)
    return made


@pytest.fixture
async def checks(gate):
    made = PasswordChecks(Tokens())
    yield made
    gate.opened.set()
    made.close()


Ask = Callable[..., "asyncio.Future[bool | None]"]


@pytest.fixture
def ask(checks) -> Ask:
    def ask(given: str, address: str = "10.0.0.1", kept: str = "right"):
        answer = asyncio.get_running_loop().create_future()
        checks.check(kept, given, address, answer.set_result)
        return answer

    return ask


async def test_what_was_right_once_is_not_checked_again(ask, checks):
    assert await ask("right") is True
    assert ask("right").result() is True
    assert checks.checked == 1
    assert await ask("right", kept="other") is False  # but another hash is


async def test_what_was_wrong_is_checked_every_time(ask, checks):
    assert [await ask("wrong") for _ in range(3)] == [False] * 3
    assert checks.checked == 3


async def test_a_fleet_with_one_password_costs_one_check(ask, checks, gate):
    answers = [ask("slow right", f"10.0.0.{n}") for n in range(200)]
    gate.opened.set()
    assert await asyncio.gather(*answers) == [True] * 200
    assert checks.checked == 1


async def test_who_tries_a_thousand_waits_behind_who_tries_once(ask, gate):
    flood = [ask(f"slow wrong {n}") for n in range(100)]
    calm = ask("right", "10.0.0.2")
    gate.opened.set()
    assert await calm is True
    assert gate.order.index("right") <= 4  # those under way, and one turn of the other's
    await asyncio.gather(*flood)


async def test_more_than_may_wait_are_told_so_at_once(ask, checks, gate, monkeypatch):
    monkeypatch.setattr(password_checks, "WAITING_PER_ADDRESS_MAX", 10)
    monkeypatch.setattr(password_checks, "WAITING_MAX", 15)
    threads = password_checks.THREADS
    held = [ask(f"slow {n}") for n in range(10 + threads)]
    assert not any(answer.done() for answer in held)
    assert ask("one more").result() is None
    others = [ask(f"slow too {n}", "10.0.0.2") for n in range(5)]
    others += [ask("slow at last", "10.0.0.3")]
    assert [answer.done() for answer in others] == [False] * 5 + [True]
    assert checks.refused == 2
    gate.opened.set()
    assert None not in await asyncio.gather(*held)


async def test_a_flood_of_logins_does_not_hold_up_who_is_in(start_gateway, gate):
    gate.opened.clear()
    users = access_of(User("ann", password=KEPT), User("key", password="clear"))
    gateway = await start_gateway(authenticator(users))
    calm = await gateway.open(
        connect=b'CONNECT {"user":"key","pass":"clear","verbose":false,"pedantic":false}\r\n'
    )
    flood = [await Wire.open(gateway.listener.port) for _ in range(50)]
    for number, wire in enumerate(flood):
        wire.send(b'CONNECT {"user":"ann","pass":"slow %d"}\r\nPING\r\n' % number)
    for _ in range(100):
        assert await calm.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n") == b"MSG a 1 0\r\n\r\n"
    gate.opened.set()
    for wire in flood:
        assert await wire.rest() == b"-ERR 'Authorization Violation'\r\n"
        wire.close()
    await eventually(lambda: len(gateway.listener.sessions) == 1)
