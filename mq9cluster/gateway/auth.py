"""Who may connect, and as whom. Called by `gateway.session` at CONNECT."""

import hmac
from dataclasses import dataclass
from typing import Protocol

from mq9cluster.protocol.nats_connect import ConnectOptions

ACCOUNT_DEFAULT = "$G"  # nats-server's global account


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a connection speaks for: its user (empty where none is asked) and the account its
    subjects belong to.
    """

    account: str = ACCOUNT_DEFAULT
    user: str = ""


class Authenticator(Protocol):
    """Decides about CONNECT."""

    @property
    def required(self) -> bool:
        """Whether INFO asks for credentials and nothing is served before they came."""

    def authenticate(self, options: ConnectOptions) -> Identity | None:
        """The identity that `options` prove, or None: `Authorization Violation`."""


class AllowAll:
    """Everybody, whatever credentials they bring."""

    required = False

    def authenticate(self, options: ConnectOptions) -> Identity | None:
        """The same identity for all."""
        return Identity(user=options.user)


class TokenAuthenticator:
    """One token shared by all clients."""

    required = True

    def __init__(self, token: str) -> None:
        self._token = token

    def authenticate(self, options: ConnectOptions) -> Identity | None:
        """Compares in constant time, so that the time taken tells nothing about the token."""
        return Identity() if _equal(options.token, self._token) else None


class PasswordAuthenticator:
    """Users with plain passwords, each in an account."""

    required = True

    def __init__(self, users: dict[str, tuple[str, str]]) -> None:
        """`users`: name → (password, account)."""
        self._users = users

    def authenticate(self, options: ConnectOptions) -> Identity | None:
        """An unknown user costs the same comparison as a wrong password."""
        password, account = self._users.get(options.user, ("", ""))
        if not _equal(options.password, password) or not account:
            return None
        return Identity(account, options.user)


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))
