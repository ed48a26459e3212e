"""Who may connect and what they may do: accounts, users, their permissions and limits.

Plain facts, made by the configuration, read by the gateway. Secrets are kept out of `repr`, so that
no log or traceback shows one. Source: nats-server's authorization and accounts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mq9cluster.domain.address import GLOBAL_ACCOUNT

RESPONSES_MAX_DEFAULT = 1  # nats-server's
RESPONSES_WITHIN_S_DEFAULT = 120.0  # nats-server's


class Rule(NamedTuple):
    """A subject, wildcards allowed; with `queue` (a pattern too) only as member of such a group."""

    subject: bytes
    queue: bytes | None = None


@dataclass(frozen=True, slots=True)
class SubjectRules:
    """What is allowed, less what is denied. `allow` None: everything; empty: nothing."""

    allow: tuple[Rule, ...] | None = None
    deny: tuple[Rule, ...] = ()

    @property
    def restrict(self) -> bool:
        """Whether anything is forbidden."""
        return self.allow is not None or bool(self.deny)


@dataclass(frozen=True, slots=True)
class Responses:
    """Leave to answer a received request on its reply subject: so often (0: any number of times),
    for so long.
    """

    messages_max: int = RESPONSES_MAX_DEFAULT
    within_s: float = RESPONSES_WITHIN_S_DEFAULT


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may publish and subscribe to."""

    publish: SubjectRules = SubjectRules()
    subscribe: SubjectRules = SubjectRules()
    responses: Responses | None = None

    @property
    def restrict(self) -> bool:
        """Whether anything is forbidden."""
        return self.publish.restrict or self.subscribe.restrict


@dataclass(frozen=True, slots=True)
class UseLimits:
    """How much of one node an account, or one of its users, may use; 0: no limit of its own."""

    connections_max: int = 0
    subscriptions_max: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """One who may connect: by `password` (in clear, or a hash), as the owner of `nkey` (then the
    name is the public key), or, with neither, by certificate only.
    """

    name: str
    account: str = GLOBAL_ACCOUNT
    password: str = field(default="", repr=False)
    nkey: bytes = b""  # the 32 bytes of the public key
    permissions: Permissions = Permissions()
    limits: UseLimits = UseLimits()


@dataclass(frozen=True, slots=True)
class Access:
    """Everybody who may connect, and the accounts they belong to.

    Without users and token everybody may. `no_auth_user` is whom those are taken for who bring no
    credentials; "": nobody.
    """

    users: Mapping[str, User] = field(default_factory=dict)
    accounts: Mapping[str, UseLimits] = field(default_factory=dict)
    token: str = field(default="", repr=False)
    token_permissions: Permissions = Permissions()
    no_auth_user: str = ""

    @property
    def open(self) -> bool:
        """Whether nobody is asked for credentials."""
        return not self.users and not self.token
