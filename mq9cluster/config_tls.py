"""TLS for clients, as the settings describe it: files into a context, or a line that says why not.

Called by config at start and at each SIGHUP. A ValueError names the flag it is about.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HANDSHAKES: Final = ("upgrade", "first", "auto", "optional")
VERIFICATIONS: Final = ("no", "yes", "map")


@dataclass(frozen=True, slots=True)
class ClientTlsSettings:
    """A context that is ready for handshakes, and when they are made."""

    context: ssl.SSLContext
    handshake: str  # one of HANDSHAKES
    verify: str  # one of VERIFICATIONS


class _Handshaking(ssl.SSLObject):
    """Takes along what a handshake that fails would have the client told: the error's `alert`. The
    event loop drops it, and the client would only see the connection end; gateway.tls sends it.
    """

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.alert = self.outgoing.read()  # type: ignore[attr-defined]
            raise


class _Context(ssl.SSLContext):
    """Makes such handshakes."""

    sslobject_class = _Handshaking

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002, RUF100  as it is inherited
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(made, _Handshaking)  # noqa: S101  by sslobject_class
        made.outgoing = outgoing
        return made


def client_tls(
    certificate: Path | None, key: Path | None, authority: Path | None, verify: str, handshake: str
) -> ClientTlsSettings | None:
    """TLS for clients, or None where no certificate is given. Raises ValueError."""
    if certificate is None and key is None:
        if authority is not None:
            raise ValueError("--tls-ca: goes with --tls-cert and --tls-key")
        if verify != "no":
            raise ValueError("--tls-verify: goes with --tls-cert and --tls-key")
        return None
    if certificate is None or key is None:
        raise ValueError("--tls-cert, --tls-key: go together")
    if verify != "no" and authority is None:
        raise ValueError("--tls-verify: needs --tls-ca, the authority that signs clients")
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, certificate, key)
    if authority is not None:
        _load_authority(context, authority)
    if verify != "no":
        context.verify_mode = ssl.CERT_REQUIRED
    return ClientTlsSettings(context, handshake, verify)


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for flag, path in (("--tls-cert", certificate), ("--tls-key", key)):
        _readable(flag, path)
    try:
        context.load_cert_chain(certificate, key, password=b"")
    except ssl.SSLError as error:
        raise ValueError(
            f"--tls-cert, --tls-key: no certificate with its key, unencrypted ({error})"
        ) from error


def _load_authority(context: ssl.SSLContext, authority: Path) -> None:
    _readable("--tls-ca", authority)
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise ValueError(f"--tls-ca: holds no certificate ({error})") from error


def _readable(flag: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"{flag}: cannot read {path}: {error.strerror}") from error
