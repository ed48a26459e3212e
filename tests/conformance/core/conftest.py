"""Both servers, started once for each configuration that a check asks for."""

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.core.secured import Both, MakeBoth, TlsBoth
from tests.support.certificates import LOCALHOST, Authority
from tests.support.core_servers import CoreConfig, NatsServer, OurServer

Ports = tuple[int, int]


@pytest.fixture(scope="session")
def both() -> Iterator[Callable[..., Ports]]:
    """`both(connections_max=2)` → (our port, nats-server's port)."""
    started: dict[CoreConfig, tuple[OurServer, NatsServer]] = {}

    def ports(**config) -> Ports:
        wanted = CoreConfig(**config)
        if wanted not in started:
            ours, theirs = OurServer(wanted), NatsServer(wanted)
            ours.start()
            theirs.start()
            started[wanted] = ours, theirs
        ours, theirs = started[wanted]
        return ours.port, theirs.port

    yield ports
    for ours, theirs in started.values():
        ours.end()
        theirs.end()


@pytest.fixture(params=["ours", "nats-server"])
def port(request, both) -> int:
    """The port of each server in turn, for checks that cannot be compared byte by byte."""
    ours, theirs = both()
    return ours if request.param == "ours" else theirs


@pytest.fixture(scope="module")
def both_with() -> Iterator[MakeBoth]:
    made: list[Both] = []

    def make(toml: str, conf: str, tls: tuple = (), **settings) -> Both:
        made.append(Both(toml, conf, tls, **settings))
        return made[-1]

    yield make
    for both in made:
        both.end()


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("certificates"))
    made.issue("server", names=LOCALHOST)
    return made


@pytest.fixture(scope="module")
def tls_with(both_with, authority) -> TlsBoth:
    """`tls_with("verify", "first")`: both servers with certificates."""
    pair = authority.issue("server", names=LOCALHOST)
    made: dict[tuple, Both] = {}

    def make(verify: str, handshake: str, toml: str = "", conf: str = "") -> Both:
        key = verify, handshake, toml
        if key not in made:
            asked = {"no": "", "yes": ", verify: true", "map": ", verify_and_map: true"}[verify]
            first = {"first": ", handshake_first: true", "auto": ', handshake_first: "auto"'}
            words = asked + first.get(handshake, "")
            text = (
                f'tls {{ cert_file: "{pair.certificate_file}", key_file: "{pair.key_file}"'
                f', ca_file: "{authority.file}"{words} }}\n{conf}\n'
            )
            text += (
                f'websocket {{ host: "127.0.0.1", port: -1, tls {{ '
                f'cert_file: "{pair.certificate_file}", key_file: "{pair.key_file}"'
                f', ca_file: "{authority.file}"{asked} }} }}\n'
            )
            if handshake == "optional":
                text += "allow_non_tls: true\n"
            files = (pair.certificate_file, pair.key_file, authority.file, verify, handshake)
            made[key] = both_with(toml, text, files, auth_timeout_s=2.0)
        return made[key]

    return make
