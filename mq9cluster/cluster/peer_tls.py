"""TLS between nodes: both sides show a certificate that one authority has signed.

Called by `peers`. Python's `ssl` takes certificates from files only, so ours stand in an anonymous
file in memory for a moment.
"""

import os
import ssl
from typing import Final

from mq9cluster.cluster.peer_words import PeerTls

PROTOCOLS: Final = ["h2"]


def server_context(tls: PeerTls) -> ssl.SSLContext:
    """For connections to us: no word from whoever has no certificate. Raises ssl.SSLError."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: PeerTls) -> ssl.SSLContext:
    """For connections to peers, whose certificates name their hosts. Raises ssl.SSLError."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, tls)


def _context(side: int, tls: PeerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=tls.authority.decode("ascii"))
    number = os.memfd_create("certificate")
    try:
        with os.fdopen(os.dup(number), "wb") as file:
            file.write(tls.key + b"\n" + tls.certificate)
        context.load_cert_chain(f"/proc/self/fd/{number}")
    finally:
        os.close(number)
    context.set_alpn_protocols(PROTOCOLS)
    return context
