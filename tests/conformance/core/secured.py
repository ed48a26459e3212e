"""Two servers of one configuration, in each one's words, and what is said to both of them.

What differs on purpose is in DIFFERENCES, each with its test: ours allows less, or says more.
"""

import asyncio
import json
from collections.abc import Callable

from mq9cluster.config_tls import client_tls
from mq9cluster.gateway.settings import Settings
from tests.support.core_security import OurSecureServer, Said, TheirSecureServer, talk

REST = b',"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'

DIFFERENCES = {
    "an allowed `in.*` does not let `in.>` pass": "test_a_tail_is_not_covered_by_a_star",
    "an empty list allows nothing": "test_an_empty_list_allows_nothing",
    "who speaks in clear where TLS is needed is told so": "test_clear_text_is_told_so",
    "a user without a password is refused at start": "test_what_is_wrong (unit/config)",
    "a user who was removed is told why": "test_a_removed_user_is_told",
    "wss:// tells nobody why a certificate is refused": "test_16_a_browser_shows_a_certificate",
}


def user(name: str, password: str = "pw", more: bytes = b"") -> bytes:
    who = json.dumps({"user": name, "pass": password}).encode()[:-1]
    return b"CONNECT " + who + more + REST


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

    @property
    def ws_ports(self) -> Ports:
        """Where there is TLS."""
        return self.ours.ws_port, self.theirs.ws_port

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
TlsBoth = Callable[..., Both]
