"""Users as tests want them, and the authenticator that knows them."""

import secrets

from mq9cluster.domain.access import Access, User
from mq9cluster.gateway.auth import UserAuthenticator
from mq9cluster.gateway.password_checks import PasswordChecks


class Tokens:
    """The randomness of this machine."""

    def token(self, length: int) -> bytes:
        return secrets.token_bytes(length)


def access_of(*users: User, **more) -> Access:
    """An Access of `users`."""
    return Access(users={user.name: user for user in users}, **more)


def authenticator(access: Access, *, by_certificate: bool = False) -> UserAuthenticator:
    """Who lets in those of `access`."""
    tokens = Tokens()
    return UserAuthenticator(access, PasswordChecks(tokens), tokens, by_certificate=by_certificate)
