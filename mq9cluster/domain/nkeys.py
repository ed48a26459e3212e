"""NATS user keys: an Ed25519 key pair whose halves are written in base32, `S…` and `U…`.

Pure; read by the configuration and the gateway, made by `mq9cluster user`. The only door to
Ed25519.
Source: github.com/nats-io/nkeys (prefix bytes, key, CRC-16/XMODEM, base32 without padding).
"""

import base64
import binascii
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_BYTES: Final = 32
_USER: Final = 20 << 3  # "U"
_SEED: Final = 18 << 3  # "S"
_PUBLIC_CHARS: Final = 56
_PLAIN_ONLY: Final = frozenset("=+/")


class NotAKey(ValueError):
    """The text is no public key of a user."""


class KeyPair(NamedTuple):
    """`seed` is the secret that the client keeps."""

    seed: str
    public: str


def parse_public(text: str) -> bytes:
    """The 32 bytes of the user's public key that `text` writes. Raises NotAKey."""
    if len(text) != _PUBLIC_CHARS:
        raise NotAKey(f"must have {_PUBLIC_CHARS} characters")
    try:
        raw = base64.b32decode(text)
    except ValueError as error:
        raise NotAKey("no base32") from error
    body, checksum = raw[:-2], raw[-2:]
    if raw[0] != _USER or _checksum(body) != checksum:
        raise NotAKey("no public key of a user, or mistyped")
    return body[1:]


def signed(public: bytes, message: bytes, signature: str) -> bool:
    """Whether the owner of `public` signed `message`; `signature` is base64url as clients send it,
    or plain base64 with its padding (both as nats-server).
    """
    try:
        raw = base64.b64decode(_as_padded(signature), b"-_", validate=True)
    except (binascii.Error, ValueError):
        try:
            raw = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(raw, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _as_padded(signature: str) -> str:
    if not _PLAIN_ONLY.isdisjoint(signature):
        raise ValueError("base64url is sent without padding")
    return signature + "=" * (-len(signature) % 4)


def make_user() -> KeyPair:
    """A new key pair."""
    key = Ed25519PrivateKey.generate()
    prefix = bytes((_SEED | _USER >> 5, (_USER & 31) << 3))
    return KeyPair(
        seed=_written(prefix + key.private_bytes_raw()),
        public=_written(bytes((_USER,)) + key.public_key().public_bytes_raw()),
    )


def _written(body: bytes) -> str:
    return base64.b32encode(body + _checksum(body)).decode().rstrip("=")


def _checksum(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(2, "little")
