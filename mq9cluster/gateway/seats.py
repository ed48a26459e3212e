"""How many connections and subscriptions an account and each of its users have on this node.

Owned by `shared`, counted in by `session`. The limits travel with the identity, so that new ones
count from the next connection or subscription on.
"""

from dataclasses import dataclass

from mq9cluster.gateway.auth import Identity

# nats-server's words for an account, and for a server, that has enough of them.
ACCOUNT_IS_FULL = b"maximum account active connections exceeded"
USER_IS_FULL = b"maximum connections exceeded"


@dataclass(slots=True)
class Use:
    """What somebody uses now."""

    connections: int = 0
    subscriptions: int = 0


class Seats:
    """The use of each account and user that has any."""

    def __init__(self) -> None:
        self.accounts: dict[str, Use] = {}
        self._users: dict[tuple[str, str], Use] = {}

    def take(self, identity: Identity) -> bytes:
        """Count a connection; why it may not be, or b""."""
        limit = identity.account_limits.connections_max
        account = self.accounts.get(identity.account)
        if limit and account is not None and account.connections >= limit:
            return ACCOUNT_IS_FULL
        limit = identity.limits.connections_max
        user = self._users.get((identity.account, identity.user))
        if limit and user is not None and user.connections >= limit:
            return USER_IS_FULL
        for use in self._uses(identity):
            use.connections += 1
        return b""

    def leave(self, identity: Identity) -> None:
        """That connection is gone."""
        for use in self._uses(identity):
            use.connections -= 1
        self._clear(identity)

    def may_subscribe(self, identity: Identity) -> bool:
        """Whether the account and the user have room for one more subscription."""
        for limit, use in zip(
            (identity.account_limits.subscriptions_max, identity.limits.subscriptions_max),
            self._uses(identity),
            strict=True,
        ):
            if limit and use.subscriptions >= limit:
                return False
        return True

    def subscribed(self, identity: Identity, count: int) -> None:
        """So many subscriptions more, or less."""
        for use in self._uses(identity):
            use.subscriptions += count
        if count < 0:
            self._clear(identity)

    def _uses(self, identity: Identity) -> tuple[Use, Use]:
        return (
            self.accounts.setdefault(identity.account, Use()),
            self._users.setdefault((identity.account, identity.user), Use()),
        )

    def _clear(self, identity: Identity) -> None:
        """Forget who uses nothing: names under AllowAll are whatever clients say."""
        account, user = self._uses(identity)
        if not account.connections and not account.subscriptions:
            del self.accounts[identity.account]
        if not user.connections and not user.subscriptions:
            del self._users[identity.account, identity.user]
