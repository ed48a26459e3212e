"""TLS and client certificates: one configuration in both servers' words, the same bytes for
both, and what they answer compared byte by byte.
"""

import pytest
from cryptography import x509

from tests.support.certificates import Authority
from tests.support.core_security import talk_in_frames
from tests.support.wire import Wire


@pytest.mark.parametrize(
    ("handshake", "first"),
    [("upgrade", False), ("first", True), ("auto", True), ("auto", False), ("optional", False)],
)
async def test_16_tls_begins_when_both_say(tls_with, authority, handshake, first):
    said = await tls_with("no", handshake).agree(
        b'CONNECT {"verbose":false,"protocol":1}\r\nSUB a 1\r\nPUB a 1\r\nx\r\n',
        tls=authority.trusted(),
        first=first,
    )
    assert said.data == b"MSG a 1 1\r\nx\r\nPONG\r\n"


async def test_16_where_tls_is_optional_clear_text_is_served(tls_with):
    said = await tls_with("no", "optional").agree(QUIET_ECHO)
    assert said.info == {"tls_available": True, "nonce": 0}
    assert said.data == b"MSG a 1 0\r\n\r\nPONG\r\n"


QUIET_ECHO = b'CONNECT {"verbose":false}\r\nSUB a 1\r\nPUB a 0\r\n\r\n'


SHOWN = ("nothing", "a stranger's", "a good one")


def one_of_three(authority, folder, shown):
    """The certificate that a client shows; the good one is of the user svc.x.org, too."""
    if shown == "nothing":
        return None
    if shown == "a stranger's":
        return Authority(folder, "strangers").issue("zed")
    return authority.issue("good", names=(x509.DNSName("svc.x.org"),))


@pytest.mark.parametrize("shown", SHOWN)
async def test_16_a_client_shows_a_certificate(tls_with, authority, tmp_path, shown):
    client = one_of_three(authority, tmp_path, shown)
    said = await tls_with("yes", "upgrade").agree(QUIET_ECHO, tls=authority.trusted(client))
    assert said.closed == (shown != "a good one")


MAPPED = ("ann@x.org", "svc.x.org", "spiffe://x.org/a", "CN=bob,OU=ops,O=X Inc")
MAPPED_OURS = "\n".join(
    f'[[users]]\nuser = "{name}"\npermissions = {{ publish = "only.{number}" }}'
    for number, name in enumerate(MAPPED)
)
MAPPED_NATS = "authorization { users: [%s] }" % ", ".join(  # noqa: UP031  braces
    f'{{user: "{name}", permissions: {{publish: "only.{number}"}}}}'
    for number, name in enumerate(MAPPED)
)
CERTIFIED = {
    "email": ("", (x509.RFC822Name("ann@x.org"), x509.DNSName("other.x.org"))),
    "email of nobody, dns name": ("", (x509.RFC822Name("zed@x.org"), x509.DNSName("svc.x.org"))),
    "dns name": ("", (x509.DNSName("svc.x.org"),)),
    "uri": ("", (x509.UniformResourceIdentifier("spiffe://x.org/a"),)),
    "subject": ("CN=bob,OU=ops,O=X Inc", ()),
    "subject in another order": ("O=X Inc,OU=ops,CN=bob", ()),
    "subject with less": ("CN=bob,OU=ops", ()),
    "subject with more": ("CN=bob,OU=ops,O=X Inc,C=DE", ()),
    "nobody": ("CN=zed", ()),
}
TRIES = b"".join(b"PUB only.%d 0\r\n\r\n" % number for number in range(len(MAPPED)))


def certified(authority, who):
    subject, names = CERTIFIED[who]
    return authority.issue("client", subject=subject, names=names)


@pytest.mark.parametrize("who", CERTIFIED)
async def test_16_a_certificate_names_the_user(tls_with, authority, who):
    client = certified(authority, who)
    both = tls_with("map", "upgrade", MAPPED_OURS, MAPPED_NATS)
    for connect in (
        b'CONNECT {"verbose":false}\r\n',
        b'CONNECT {"verbose":false,"user":"svc.x.org"}\r\n',
        b'CONNECT {"verbose":false,"user":"svc.x.org","pass":"x"}\r\n',
    ):
        await both.agree(connect + TRIES, tls=authority.trusted(client))


async def test_16_over_tls_too_silence_ends_with_a_timeout(tls_with, authority):
    both = tls_with("no", "upgrade", '[authorization]\ntoken = "t"', "authorization { token: t }")
    said = await both.agree(b"", tls=authority.trusted(), ping=False)
    assert said.data == b"-ERR 'Authentication Timeout'\r\n"


async def test_16_a_handshake_that_does_not_come_ends_the_connection(tls_with):
    heard = []
    for port in tls_with("no", "upgrade").ports:
        wire = await Wire.open(port)
        heard.append(await wire.rest())
        wire.close()
    assert heard == [b"", b""]


# --- over websockets -----------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["no", "yes", "map"])
@pytest.mark.parametrize("shown", SHOWN)
async def test_16_a_browser_shows_a_certificate(tls_with, authority, tmp_path, verify, shown):
    client = one_of_three(authority, tmp_path, shown)
    users = (MAPPED_OURS, MAPPED_NATS) if verify == "map" else ()
    both = tls_with(verify, "upgrade", *users)
    trusted = authority.trusted(client)
    ours, theirs = [await talk_in_frames(port, QUIET_ECHO, trusted) for port in both.ws_ports]
    if verify == "no" or shown == "a good one":
        assert ours.same() == theirs.same()
        assert b"MSG a 1 0" in ours.data or verify == "map"  # who may publish elsewhere alone
    else:  # theirs says why in TLS's own alert, as DIFFERENCES has it
        assert (ours.info, ours.data, ours.closed) == ({}, b"", True)
        assert (theirs.info, theirs.closed) == ({}, True)


@pytest.mark.parametrize("who", CERTIFIED)
async def test_16_a_browsers_certificate_names_the_user(tls_with, authority, who):
    client = certified(authority, who)
    both = tls_with("map", "upgrade", MAPPED_OURS, MAPPED_NATS)
    for connect in (
        b'CONNECT {"verbose":false}\r\n',
        b'CONNECT {"verbose":false,"user":"svc.x.org"}\r\n',
    ):
        said = [
            await talk_in_frames(port, connect + TRIES, authority.trusted(client))
            for port in both.ws_ports
        ]
        assert said[0].same() == said[1].same()
        is_nobody = who in {"nobody", "subject with less", "subject with more"}
        assert (b"Authorization Violation" in said[0].data) == is_nobody


# --- where ours differs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"CONNECT {}\r\nPING\r\n", b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_clear_text_is_told_so(tls_with, data):
    ours, theirs = await tls_with("no", "upgrade").say(data)
    assert ours.data == b"-ERR 'Secure Connection - TLS Required'\r\n"
    assert (ours.closed, theirs.closed) == (True, True)
    assert b"-ERR" not in theirs.data
