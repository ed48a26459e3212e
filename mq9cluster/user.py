"""`mq9cluster user`: a user as the configuration wants it, and what the user keeps.

Called by cli, which asks for the password. What goes into the configuration comes on stdout; what
only the user may see comes separately, so that `>> mq9.toml` never writes a secret into a file.
"""

import json
import secrets
from typing import Final, NamedTuple

from mq9cluster.domain.nkeys import make_user
from mq9cluster.domain.passwords import BCRYPT_COST, hashed

PASSWORD_BYTES: Final = 24  # of a generated one: 192 bits, 32 characters


class NewUser(NamedTuple):
    """`table` is for the configuration; `secret`, for the user alone, "" where they know it."""

    table: str
    secret: str


def with_nkey() -> NewUser:
    """A user who signs with a new key."""
    key = make_user()
    return NewUser(_table(nkey=key.public), key.seed)


def with_password(name: str, password: str, kind: str, bcrypt_cost: int = BCRYPT_COST) -> NewUser:
    """A user with `password`, or with a generated one where it is "". Raises ValueError."""
    if not name.isprintable() or not name:
        raise ValueError("a user's name is printable text")
    secret = "" if password else secrets.token_urlsafe(PASSWORD_BYTES)
    return NewUser(
        _table(user=name, password=hashed(password or secret, kind, bcrypt_cost)), secret
    )


def _table(**values: str) -> str:
    # JSON writes printable text as TOML does.
    lines = (f"{key} = {json.dumps(text, ensure_ascii=False)}\n" for key, text in values.items())
    return "[[users]]\n" + "".join(lines)
