"""Who may connect, and as whom. Called by `session` at CONNECT, and for all connections when the
users change.

An `Authenticator` stands for one version of the configuration; SIGHUP brings another. The order in
which credentials count is nats-server's: nkey, certificate, none at all, user and password, token.
"""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from cryptography import x509

from mq9cluster.domain.access import Access, UseLimits, User
from mq9cluster.domain.address import GLOBAL_ACCOUNT
from mq9cluster.domain.nkeys import signed
from mq9cluster.domain.passwords import is_hash, matches
from mq9cluster.domain.ports import Random
from mq9cluster.gateway.password_checks import PasswordChecks
from mq9cluster.gateway.permissions import Rights
from mq9cluster.protocol.nats_connect import ConnectOptions

NONCE_BYTES: Final = 11  # nats-server's: 88 bits, 15 characters

NO_LIMITS: Final = UseLimits()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a connection brings to be let in."""

    options: ConnectOptions = field(repr=False)
    address: str = ""  # the client's host
    nonce: str = ""  # what INFO asked it to sign
    # The client's certificate as DER, already verified; b"": none.
    certificate: Callable[[], bytes] = bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a connection speaks for: its user (empty where none is asked), the account its subjects
    belong to, and what both may.
    """

    account: str = GLOBAL_ACCOUNT
    user: str = ""
    rights: Rights | None = None  # None: everything
    limits: UseLimits = NO_LIMITS
    account_limits: UseLimits = NO_LIMITS
    # What proved it, as the configuration keeps it: with another one it would have to be proved
    # anew. None: nothing had to be.
    proof: str | None = field(default=None, repr=False)


class Busy:
    """Nobody knows whether the credentials are right: too many logins are being checked."""


BUSY: Final = Busy()
Verdict = Identity | Busy | None  # None: `Authorization Violation`
Decided = Callable[[Verdict], None]


class Authenticator(Protocol):
    """Decides about CONNECT."""

    @property
    def anonymous(self) -> Identity | None:
        """Whom a connection is taken for before, or without, CONNECT; None: it has to say."""

    def nonce(self) -> str:
        """What a new connection may sign; "" where there are no nkeys."""

    def authenticate(self, claim: Claim, decided: Decided) -> None:
        """Tell `decided`, now or later, what `claim` proves."""

    def renewed(self, identity: Identity) -> Identity | None:
        """What became of an identity that was decided on by an earlier configuration; None: it
        has to prove itself anew.
        """


class AllowAll:
    """Everybody, whatever credentials they bring."""

    anonymous: Final = Identity()

    def nonce(self) -> str:
        """Nobody signs."""
        return ""

    def authenticate(self, claim: Claim, decided: Decided) -> None:
        """The same for all."""
        decided(Identity(user=claim.options.user))

    def renewed(self, identity: Identity) -> Identity | None:
        """Who was in stays in, unless the account is no more."""
        return Identity(user=identity.user) if identity.account == GLOBAL_ACCOUNT else None


class UserAuthenticator:
    """The users of an `Access`, by nkey, certificate, password or token."""

    def __init__(
        self, access: Access, checks: PasswordChecks, random: Random, *, by_certificate: bool
    ) -> None:
        """`by_certificate`: who a user is, is read from the client's certificate."""
        self._access = access
        self._checks = checks
        self._random = random
        self._by_certificate = by_certificate
        self._identities = {name: self._identity_of(user) for name, user in access.users.items()}
        self._subjects = {
            subject: name for name in access.users if (subject := _name(name)) is not None
        }
        self._has_nkeys = any(user.nkey for user in access.users.values())
        # Somebody's hash: an unknown user is refused as slowly as a wrong password.
        kept = (user.password for user in access.users.values())
        self._decoy = next((one for one in kept if is_hash(one)), "")
        default = self._identities.get(access.no_auth_user)
        self.anonymous = (
            Identity(
                default.account,
                default.user,
                default.rights,
                default.limits,
                default.account_limits,
            )
            if default
            else None
        )

    def nonce(self) -> str:
        """A fresh one, where any user has an nkey."""
        return _base64url(self._random.token(NONCE_BYTES)) if self._has_nkeys else ""

    def authenticate(self, claim: Claim, decided: Decided) -> None:
        """By the first kind of credentials that `claim` has."""
        options = claim.options
        if options.nkey and self._has_nkeys:
            decided(self._by_nkey(claim))
        elif self._by_certificate:
            self._check(self._certified(claim.certificate()), claim, decided)
        elif self.anonymous is not None and not _brings_any(options):
            decided(self.anonymous)
        elif self._access.token:
            identity = self._by_token()
            self._compare(self._access.token, options.token, identity, claim, decided)
        elif options.user:
            self._check(self._access.users.get(options.user), claim, decided)
        else:
            decided(None)

    def renewed(self, identity: Identity) -> Identity | None:
        """The same user with the same proof and account, as it is now."""
        if identity.proof is None:
            default = self.anonymous
            return default if default and default.account == identity.account else None
        now = self._identities.get(identity.user) if identity.user else self._by_token()
        if now is None or (now.proof, now.account) != (identity.proof, identity.account):
            return None
        return now

    # --- how each kind is decided ----------------------------------------------------------------

    def _by_nkey(self, claim: Claim) -> Identity | None:
        user = self._access.users.get(claim.options.nkey)
        if user is None or not user.nkey or not claim.nonce:
            return None
        right = signed(user.nkey, claim.nonce.encode(), claim.options.signature)
        return self._identities[user.name] if right else None

    def _certified(self, certificate: bytes) -> User | None:
        """The first user whom the certificate names: by e-mail, DNS name, URI, or as subject."""
        if not certificate:
            return None
        users = self._access.users
        try:
            found = x509.load_der_x509_certificate(certificate)
            name = next((name for name in _alternative_names(found) if name in users), None)
            name = name or self._subjects.get(_rdns(found.subject))
        except ValueError:  # what OpenSSL took and this reader does not
            return None
        return users[name] if name else None

    def _check(self, user: User | None, claim: Claim, decided: Decided) -> None:
        given = claim.options.password
        if user is None or user.nkey:
            self._compare(self._decoy, given, None, claim, decided)
        elif user.password or given:
            identity = self._identities[user.name] if user.password else None
            self._compare(user.password, given, identity, claim, decided)
        else:  # known by certificate, and by nothing else
            decided(self._identities[user.name] if self._by_certificate else None)

    def _compare(
        self, kept: str, given: str, identity: Identity | None, claim: Claim, decided: Decided
    ) -> None:
        """`identity` if `given` is right."""
        if is_hash(kept):
            self._checks.check(kept, given, claim.address, partial(_tell, identity, decided))
        else:
            _tell(identity, decided, matches(kept, given))

    # --- identities ------------------------------------------------------------------------------

    def _identity_of(self, user: User) -> Identity:
        return Identity(
            user.account,
            user.name,
            Rights(user.permissions) if user.permissions.restrict else None,
            user.limits,
            self._access.accounts.get(user.account, NO_LIMITS),
            user.password,
        )

    def _by_token(self) -> Identity | None:
        access = self._access
        if not access.token:
            return None
        rights = Rights(access.token_permissions) if access.token_permissions.restrict else None
        return Identity(rights=rights, proof=access.token)


def _tell(identity: Identity | None, decided: Decided, right: bool | None) -> None:
    decided(BUSY if right is None else identity if right else None)


def _brings_any(options: ConnectOptions) -> bool:
    return bool(options.user or options.password or options.token or options.nkey or options.jwt)


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


# --- certificates --------------------------------------------------------------------------------

_Rdns = frozenset[tuple[str, str]]


def _alternative_names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for kind in (x509.RFC822Name, x509.DNSName, x509.UniformResourceIdentifier):
        yield from names.get_values_for_type(kind)


def _name(written: str) -> _Rdns | None:
    """A distinguished name as the configuration writes it; None where it is none."""
    try:
        return _rdns(x509.Name.from_rfc4514_string(written))
    except ValueError:
        return None


def _rdns(name: x509.Name) -> _Rdns:
    """The parts of a name, in any order (as nats-server compares them)."""
    return frozenset((part.oid.dotted_string, str(part.value)) for part in name)
