"""Passwords and tokens as the configuration keeps them: hashed by argon2 or bcrypt, or in clear.

Pure, and slow on purpose: `matches` of a hash takes tens to hundreds of milliseconds, so the
gateway calls it on threads of its own. The only door to argon2 and bcrypt. Errors never carry a
secret.
"""

import hmac
import re
from typing import Final

import argon2
import bcrypt

BCRYPT_COST: Final = 11  # nats-server's own for its hashes
BCRYPT_COST_MIN: Final = 4
BCRYPT_PASSWORD_BYTES_MAX: Final = 72  # bcrypt knows nothing of what follows them
PASSWORD_BYTES_MAX: Final = 4_096  # more than a CONNECT line holds
ARGON2_MEMORY_KIB_MAX: Final = 1_048_576  # each check under way takes this much
HASHES: Final = ("argon2", "bcrypt")

_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|1\d|20)\$[./A-Za-z0-9]{53}", re.ASCII)
_LOOKS_HASHED: Final = re.compile(r"\$(?:2.?|argon2[a-z]*)\$", re.ASCII)
_ARGON2: Final = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)  # OWASP's


def is_hash(kept: str) -> bool:
    """Whether `kept` is a hash and not a password in clear."""
    return _LOOKS_HASHED.match(kept) is not None


def what_is_wrong(kept: str) -> str:
    """Why `kept` can never match anything, or ""."""
    if not is_hash(kept):
        return ""
    if kept.startswith("$2"):
        return "" if _BCRYPT.fullmatch(kept) else "no whole bcrypt hash of cost 4 to 20"
    try:
        parameters = argon2.extract_parameters(kept)
    except argon2.exceptions.InvalidHashError:
        return "no whole argon2 hash"
    if parameters.memory_cost > ARGON2_MEMORY_KIB_MAX:
        return f"an argon2 hash of more than {ARGON2_MEMORY_KIB_MAX} KiB"
    return ""


def matches(kept: str, given: str) -> bool:
    """Whether `given` is the password that `kept` is, or is a hash of. Takes the same time for a
    wrong one as for the right one.
    """
    secret = given.encode("utf-8", "replace")
    if not is_hash(kept):
        return hmac.compare_digest(secret, kept.encode("utf-8", "replace"))
    if kept.startswith("$2"):
        cut = secret[:BCRYPT_PASSWORD_BYTES_MAX]
        return bcrypt.checkpw(cut, kept.encode()) and len(cut) == len(secret)
    try:
        return _ARGON2.verify(kept, secret)
    except argon2.exceptions.VerifyMismatchError:
        return False


def hashed(password: str, kind: str, bcrypt_cost: int = BCRYPT_COST) -> str:
    """`password` as a hash of `kind`, one of HASHES. Raises ValueError where it is too long."""
    secret = password.encode()
    if kind == "argon2":
        return _ARGON2.hash(secret)
    if len(secret) > BCRYPT_PASSWORD_BYTES_MAX:
        raise ValueError(f"bcrypt takes passwords of at most {BCRYPT_PASSWORD_BYTES_MAX} bytes")
    return bcrypt.hashpw(secret, bcrypt.gensalt(bcrypt_cost)).decode()
