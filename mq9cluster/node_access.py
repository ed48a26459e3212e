"""What the configuration says of clients, as the gateway takes it: limits, users, TLS.

Called by node at start and at each SIGHUP.
"""

import logging
import resource
from dataclasses import fields

from mq9cluster.config import Config
from mq9cluster.domain.passwords import is_hash
from mq9cluster.domain.ports import Random
from mq9cluster.gateway.auth import AllowAll, Authenticator, UserAuthenticator
from mq9cluster.gateway.password_checks import PasswordChecks
from mq9cluster.gateway.settings import Settings
from mq9cluster.gateway.tls import ClientTls, Handshake

FILES_BESIDE_CONNECTIONS = 1_200  # RocksDB keeps its tables open: a thousand are 64 GB; and ours
# What a running node takes from a configuration that is read anew.
RELOADED = frozenset(
    {
        "access",
        "auth_timeout_s",
        "connections_max",
        "lame_duck_s",
        "limits",
        "payload_bytes_max",
        "peer_tls",
        "tls",
    }
)

log = logging.getLogger(__name__)


def settings_of(config: Config) -> Settings:
    """The listener's limits."""
    return Settings(
        payload_bytes_max=config.payload_bytes_max,
        connections_max=_connections_possible(config.connections_max),
        auth_timeout_s=float(config.auth_timeout_s),
        lame_duck_s=config.lame_duck_s,
        subscriptions_max=config.limits.subscriptions_max,
        pending_bytes_max=config.limits.pending_bytes_max,
        write_deadline_s=float(config.limits.write_deadline_s),
        requests_per_s_max=config.limits.requests_per_s_max,
    )


def tls_of(config: Config) -> ClientTls | None:
    """TLS for clients."""
    tls = config.tls
    return ClientTls(tls.context, Handshake(tls.handshake), tls.verify != "no") if tls else None


def authenticator_of(config: Config, checks: PasswordChecks, random: Random) -> Authenticator:
    """Who lets clients in."""
    access = config.access
    if access.open:
        return AllowAll()
    kept = [access.token, *(user.password for user in access.users.values())]
    clear = sum(1 for password in kept if password and not is_hash(password))
    if clear:
        log.warning("passwords in clear in the configuration", extra={"count": clear})
    by_certificate = config.tls is not None and config.tls.verify == "map"
    return UserAuthenticator(access, checks, random, by_certificate=by_certificate)


def left_for_a_restart(before: Config, after: Config) -> list[str]:
    """What differs in `after` and a running node does not take."""
    names = [
        field.name
        for field in fields(Config)
        if field.name not in RELOADED and getattr(before, field.name) != getattr(after, field.name)
    ]
    names += [
        name
        for name in ("peer_tls", "tls")
        if (getattr(before, name) is None) != (getattr(after, name) is None)
    ]
    if before.limits.waiting_fetches_max != after.limits.waiting_fetches_max:
        names.append("waiting_fetches_max")
    return names


def _connections_possible(wanted: int) -> int:
    """How many connections open files allow, of those `wanted`; raises the limit as far as it may.

    Over the limit a client is refused with a word, as long as there is a file left to say it on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = max(hard - FILES_BESIDE_CONNECTIONS, 1)
    if possible < wanted:
        facts = {"open_files_max": hard, "connections_max": possible}
        log.info("fewer connections than set: open files are limited", extra=facts)
    return min(wanted, possible)
