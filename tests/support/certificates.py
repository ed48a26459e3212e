"""Authorities and certificates for tests, made in a moment (elliptic curves)."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LOCALHOST = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

SIGNS = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, as files and as objects."""

    certificate_file: Path
    key_file: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def serial(self) -> int:
        return self.certificate.serial_number


class Authority:
    """Signs certificates; its own is in `file`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._issued = _issue(folder, name, x509.Name.from_rfc4514_string(f"CN={name}"), None, ())
        self.file = self._issued.certificate_file

    def issue(
        self,
        name: str,
        *,
        subject: str = "",
        names: tuple[x509.GeneralName, ...] = (),
    ) -> Issued:
        """A certificate for `subject` (CN=`name`) and the alternative `names`, in files `name`.pem
        and `name`.key: what was there is replaced.
        """
        written = x509.Name.from_rfc4514_string(subject or f"CN={name}")
        return _issue(self._folder, name, written, self._issued, names)

    def trusted(self, client: Issued | None = None) -> ssl.SSLContext:
        """What a client uses to connect, with its own certificate if it has one."""
        context = ssl.create_default_context(cafile=self.file)
        if client is not None:
            context.load_cert_chain(client.certificate_file, client.key_file)
        return context


def _issue(
    folder: Path,
    name: str,
    subject: x509.Name,
    authority: Issued | None,
    names: tuple[x509.GeneralName, ...],
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.now(UTC) - timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
    )
    # Python 3.13 and later want to know who signed what, as RFC 5280 does (4.2.1.1 to 4.2.1.3).
    signer = (authority.key if authority else key).public_key()
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    if authority is None:
        builder = builder.add_extension(SIGNS, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority.key if authority else key, hashes.SHA256())
    issued = Issued(folder / f"{name}.pem", folder / f"{name}.key", certificate, key)
    pem = serialization.Encoding.PEM
    issued.certificate_file.write_bytes(certificate.public_bytes(pem))
    issued.key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return issued
