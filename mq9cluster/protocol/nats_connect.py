"""What a client says of itself in CONNECT. Pure; called by `gateway.session`, calls nothing."""

from dataclasses import dataclass, field, replace
from typing import Any

import orjson

PROTOCOLS = (0, 1)  # 1: the client takes INFO at any time


class BadConnect(ValueError):
    """CONNECT's argument is no JSON object of the expected types: the connection ends without a
    word.
    """


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """The fields of CONNECT that mean something here; the defaults are nats-server's for a client
    that sends none.
    """

    verbose: bool = True
    pedantic: bool = True
    echo: bool = True
    headers: bool = False
    no_responders: bool = False
    protocol: int = 0
    name: str = ""
    lang: str = ""
    version: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    nkey: str = ""
    signature: str = field(default="", repr=False)
    jwt: str = field(default="", repr=False)

    def without_secrets(self) -> "ConnectOptions":
        """These options once they have been checked: nobody can be made to tell what is gone."""
        if not (self.password or self.token or self.signature or self.jwt):
            return self
        return replace(self, password="", token="", signature="", jwt="")

    def brings_other_credentials(self, before: "ConnectOptions") -> bool:
        """Whether a later CONNECT is somebody else's, or proves again who it is; `before` is
        without secrets.
        """
        return (self.user, self.nkey) != (before.user, before.nkey) or bool(
            self.password or self.token or self.signature or self.jwt
        )

    def updated(self, text: bytes) -> "ConnectOptions":
        """These options with what `text` names changed: a later CONNECT keeps what it does not
        mention.

        Raises BadConnect.
        """
        try:
            # Go reads bytes that are no UTF-8 as U+FFFD: a strange name is no reason to refuse.
            said = orjson.loads(text.decode("utf-8", "replace"))
        except orjson.JSONDecodeError as error:
            raise BadConnect(str(error)) from error
        if said is None:
            return self
        if not isinstance(said, dict):
            raise BadConnect("not an object")
        changes: dict[str, Any] = {}
        for key, value in said.items():
            # Go matches names in any case, so clients may rely on it
            known = _FIELDS.get(key.lower())
            if known is None or value is None:
                continue
            name, kind = known
            if type(value) is not kind:
                raise BadConnect(f"{key} is no {kind.__name__}")
            changes[name] = value
        return replace(self, **changes)


_FIELDS: dict[str, tuple[str, type]] = {
    "verbose": ("verbose", bool),
    "pedantic": ("pedantic", bool),
    "echo": ("echo", bool),
    "headers": ("headers", bool),
    "no_responders": ("no_responders", bool),
    "protocol": ("protocol", int),
    "name": ("name", str),
    "lang": ("lang", str),
    "version": ("version", str),
    "user": ("user", str),
    "pass": ("password", str),
    "auth_token": ("token", str),
    "nkey": ("nkey", str),
    "sig": ("signature", str),
    "jwt": ("jwt", str),
}
