"""Accounts, users and permissions as the TOML file writes them, read into an `Access`.

Called by config with the tables of the file; imports only domain. What is wrong is a WrongAccess of
one line that names the place, and never shows a password. Names and meanings are nats-server's;
docs/operations.md has an example.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from mq9cluster.domain.access import (
    Access,
    Permissions,
    Responses,
    Rule,
    SubjectRules,
    UseLimits,
    User,
)
from mq9cluster.domain.address import GLOBAL_ACCOUNT
from mq9cluster.domain.nkeys import NotAKey, parse_public
from mq9cluster.domain.passwords import what_is_wrong

ACCESS_KEYS: Final = frozenset({"accounts", "authorization", "no_auth_user", "users"})

USERS_MAX: Final = 100_000  # read anew at each SIGHUP, in some seconds
ACCOUNTS_MAX: Final = 10_000  # each has tables of its own, and lines in /metrics
RULES_MAX: Final = 1_000  # of one list: a subject that is new is compared with all of them
SUBJECT_BYTES_MAX: Final = 1_024
USER_CHARS_MAX: Final = 256  # a distinguished name fits
USE_MAX: Final = 10_000_000

_ACCOUNT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_NUMBER: Final = re.compile(r"\[\d+\]")
_SUBJECT: Final = re.compile(r"[^\s.]+(?:\.[^\s.]+)*")
_DURATION: Final = re.compile(r"(\d{1,9})(ms|s|m|h)", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_USER_KEYS: Final = frozenset(
    {"max_connections", "max_subscriptions", "nkey", "password", "permissions", "user"}
)
_ACCOUNT_KEYS: Final = frozenset(
    {"default_permissions", "max_connections", "max_subscriptions", "name", "users"}
)
_AUTHORIZATION_KEYS: Final = frozenset({"default_permissions", "password", "token", "user"})
_PERMISSION_KEYS: Final = frozenset({"allow_responses", "publish", "subscribe"})

Table = Mapping[str, Any]


class WrongAccess(ValueError):
    """The tables make no sense; the text is one line without secrets."""


def read_access(tables: Table, *, by_certificate: bool) -> Access:
    """The `Access` that the ACCESS_KEYS of `tables` describe. Raises WrongAccess.

    `by_certificate`: users are known by their certificates, and need no password.
    """
    authorization = _table("authorization", tables.get("authorization", {}), _AUTHORIZATION_KEYS)
    default = _permissions("authorization.default_permissions", authorization)
    reader = _Users(by_certificate=by_certificate)
    for at, table in _tables("users", tables.get("users", []), _USER_KEYS):
        reader.read(at, table, GLOBAL_ACCOUNT, default)
    single = {key: authorization[key] for key in ("user", "password") if key in authorization}
    if single:
        reader.read("authorization", single, GLOBAL_ACCOUNT, default)
    accounts = _accounts(tables, reader)
    token = _password("authorization.token", authorization.get("token", ""))
    if token and reader.users:
        raise WrongAccess("authorization.token: there cannot be a token and users")
    if by_certificate and not reader.users:
        raise WrongAccess("users: --tls-verify map needs some")
    no_auth_user = _text("no_auth_user", tables.get("no_auth_user", ""))
    if no_auth_user and no_auth_user not in reader.users:
        raise WrongAccess(f"no_auth_user: there is no user {no_auth_user!r}")
    return Access(
        users=reader.users,
        accounts=accounts,
        token=token,
        token_permissions=default,
        no_auth_user=no_auth_user,
    )


def _accounts(tables: Table, reader: "_Users") -> dict[str, UseLimits]:
    accounts: dict[str, UseLimits] = {}
    for at, table in _tables("accounts", tables.get("accounts", []), _ACCOUNT_KEYS):
        name = _text(f"{at}.name", table.get("name", ""))
        if not _ACCOUNT_NAME.fullmatch(name):
            raise WrongAccess(
                f"{at}.name: {name!r} is no account name: up to 63 letters, digits and . _ -"
            )
        if name in accounts:
            raise WrongAccess(f"{at}.name: account {name} is there twice")
        accounts[name] = _limits(at, table)
        default = _permissions(f"{at}.default_permissions", table)
        for where, user in _tables(f"{at}.users", table.get("users", []), _USER_KEYS):
            reader.read(where, user, name, default)
    if len(accounts) > ACCOUNTS_MAX:
        raise WrongAccess(f"accounts: {len(accounts)}, at most {ACCOUNTS_MAX} are possible")
    return accounts


class _Users:
    """All users read so far, by name."""

    def __init__(self, *, by_certificate: bool) -> None:
        self._by_certificate = by_certificate
        self.users: dict[str, User] = {}

    def read(self, at: str, table: Table, account: str, default: Permissions) -> None:
        """One table of a user, who belongs to `account`."""
        nkey = _text(f"{at}.nkey", table.get("nkey", ""))
        name = _text(f"{at}.user", table.get("user", ""))
        password = _password(f"{at}.password", table.get("password", ""))
        if bool(nkey) == bool(name):
            raise WrongAccess(f"{at}: needs either user or nkey")
        if nkey and password:
            raise WrongAccess(f"{at}: a user with an nkey has no password")
        if not nkey and not password and not self._by_certificate:
            raise WrongAccess(f"{at}: user {name!r} needs a password")
        if len(name) > USER_CHARS_MAX or not name.isprintable():
            raise WrongAccess(f"{at}.user: more than {USER_CHARS_MAX} characters, or unprintable")
        if (nkey or name) in self.users:
            raise WrongAccess(f"{at}: user {nkey or name!r} is there twice")
        if len(self.users) >= USERS_MAX:
            raise WrongAccess(f"users: at most {USERS_MAX} are possible")
        own = "permissions" in table
        self.users[nkey or name] = User(
            name=nkey or name,
            account=account,
            password=password,
            nkey=_nkey(f"{at}.nkey", nkey) if nkey else b"",
            permissions=_permissions(f"{at}.permissions", table) if own else default,
            limits=_limits(at, table),
        )


def _nkey(at: str, written: str) -> bytes:
    try:
        return parse_public(written)
    except NotAKey as error:  # not shown: it may be somebody's seed
        raise WrongAccess(f"{at}: {error}") from None


def _password(at: str, value: object) -> str:
    password = _text(at, value)
    if why := what_is_wrong(password):
        raise WrongAccess(f"{at}: {why}")
    return password


def _limits(at: str, table: Table) -> UseLimits:
    return UseLimits(
        _count(f"{at}.max_connections", table.get("max_connections", 0)),
        _count(f"{at}.max_subscriptions", table.get("max_subscriptions", 0)),
    )


def _permissions(at: str, table: Table) -> Permissions:
    """Those under the last word of `at` in `table`; all where there are none."""
    key = at.rpartition(".")[2]
    if key not in table:
        return Permissions()
    written = _table(at, table[key], _PERMISSION_KEYS)
    publish = _rules(f"{at}.publish", written.get("publish"), queues=False)
    responses = _responses(f"{at}.allow_responses", written.get("allow_responses", False))
    if responses is not None and publish.allow is None:
        publish = SubjectRules((), publish.deny)  # answers, and nothing that is not named
    subscribe = _rules(f"{at}.subscribe", written.get("subscribe"), queues=True)
    return Permissions(publish, subscribe, responses)


def _rules(at: str, written: object, *, queues: bool) -> SubjectRules:
    if written is None:
        return SubjectRules()
    if not isinstance(written, Mapping):
        return SubjectRules(_subjects(at, written, queues=queues))
    table = _table(at, written, frozenset({"allow", "deny"}))
    allow = table.get("allow")
    return SubjectRules(
        None if allow is None else _subjects(f"{at}.allow", allow, queues=queues),
        _subjects(f"{at}.deny", table.get("deny", []), queues=queues),
    )


def _subjects(at: str, written: object, *, queues: bool) -> tuple[Rule, ...]:
    listed = [written] if isinstance(written, str) else written
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise WrongAccess(f"{at}: must be a subject or a list of them")
    if len(listed) > RULES_MAX:
        raise WrongAccess(f"{at}: {len(listed)} subjects, at most {RULES_MAX} are possible")
    return tuple(_rule(at, one, queues=queues) for one in listed)


def _rule(at: str, written: str, *, queues: bool) -> Rule:
    words = written.split()
    if len(words) not in ((1, 2) if queues else (1,)) or not all(map(_is_subject, words)):
        raise WrongAccess(f"{at}: {written!r} is no subject")
    return Rule(words[0].encode(), words[1].encode() if len(words) == 2 else None)


def _is_subject(word: str) -> bool:
    in_bounds = len(word.encode()) <= SUBJECT_BYTES_MAX
    return in_bounds and bool(_SUBJECT.fullmatch(word)) and ">" not in word.split(".")[:-1]


def _responses(at: str, written: object) -> Responses | None:
    if isinstance(written, bool):
        return Responses() if written else None
    table = _table(at, written, frozenset({"expires", "max"}))
    default = Responses()
    return Responses(
        _count(f"{at}.max", table["max"]) if "max" in table else default.messages_max,
        _duration_s(f"{at}.expires", table["expires"]) if "expires" in table else default.within_s,
    )


def _duration_s(at: str, written: object) -> float:
    if type(written) is int and 0 < written <= USE_MAX:
        return float(written)
    found = _DURATION.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        raise WrongAccess(f"{at}: must be seconds, or a time like 500ms, 30s, 2m, 1h")
    return int(found[1]) * _SECONDS[found[2]]


def _count(at: str, written: object) -> int:
    if type(written) is not int or not 0 <= written <= USE_MAX:
        raise WrongAccess(f"{at}: must be a whole number from 0 to {USE_MAX}")
    return written


def _text(at: str, written: object) -> str:
    if not isinstance(written, str):
        raise WrongAccess(f"{at}: must be text")
    return written


def _table(at: str, written: object, keys: frozenset[str]) -> Table:
    if not isinstance(written, Mapping):
        raise WrongAccess(f"{at}: must be a table")
    if unknown := sorted(set(written) - keys):
        raise WrongAccess(f"{at}: unknown key {', '.join(unknown)}")
    return written


def _tables(at: str, written: object, keys: frozenset[str]) -> list[tuple[str, Table]]:
    """Each table with its place: `users[0]`, `accounts[2].users[1]`."""
    if not isinstance(written, list):
        raise WrongAccess(f"{at}: must be written as [[{_NUMBER.sub('', at)}]]")
    places = [f"{at}[{number}]" for number in range(len(written))]
    return [(place, _table(place, one, keys)) for place, one in zip(places, written, strict=True)]
