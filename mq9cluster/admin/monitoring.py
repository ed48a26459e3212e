"""What /varz, /connz, /subsz, /routez and /cluster answer: facts in nats-server's field names.

Pure: view in, JSON-ready values out. Called by http. Mail addresses and inboxes in subjects are
blanked, unless the asker has shown the admin's credential: an operator's dashboard is no place to
read mailboxes from (docs/protocol.md, section 7).
"""

import os
import resource
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Any

from mq9cluster.admin.logs import subject_without_secrets, without_secrets
from mq9cluster.admin.view import (
    ConnectionFacts,
    NodeView,
    RouteFacts,
    ServerFacts,
    SubscriptionFacts,
)

CONNECTIONS_LISTED_DEFAULT = 1_024  # nats-server's
CONNECTIONS_LISTED_MAX = 10_000  # one answer is built in one turn of the loop
SUBJECTS, DETAIL = "subjects", "detail"  # what of subscriptions is asked for
_NANOSECONDS = 1_000_000_000

Json = dict[str, Any]


def varz(view: NodeView, requests: Mapping[str, int]) -> Json:
    """The server: identity, limits, totals."""
    server = view.server()
    now_ms = view.now_ms()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    up_s = max((now_ms - server.started_ms) / 1000, 0.001)
    cores = os.cpu_count() or 1
    return {
        "server_id": server.server_id,
        "server_name": server.server_name,
        "version": server.version,
        "proto": 1,
        "go": "none (Python)",
        "host": server.host,
        "port": server.port,
        "connect_urls": list(server.connect_urls),
        **{key: True for key in _SECURITY if getattr(server, key)},
        "max_connections": server.connections_max,
        "ping_interval": round(server.ping_interval_s * _NANOSECONDS),
        "ping_max": server.pings_outstanding_max,
        "http_host": server.http_host,
        "http_port": server.http_port,
        "http_base_path": "",
        "https_port": 0,
        "auth_timeout": server.auth_timeout_s,
        "max_control_line": server.control_line_bytes_max,
        "max_payload": server.payload_bytes_max,
        "max_pending": server.pending_bytes_max,
        "cluster": _cluster_of(server),
        "websocket": _websocket_of(server),
        "write_deadline": round(server.write_deadline_s * _NANOSECONDS),
        "start": _moment(server.started_ms),
        "now": _moment(now_ms),
        "uptime": _span(now_ms - server.started_ms),
        "mem": usage.ru_maxrss * 1024,
        "cores": cores,
        "gomaxprocs": cores,
        "cpu": round(100 * (usage.ru_utime + usage.ru_stime) / up_s, 1),
        "connections": server.connections,
        "total_connections": server.connections_total,
        "routes": server.routes,
        "remotes": server.routes,
        "leafnodes": 0,
        "in_msgs": server.in_msgs,
        "in_bytes": server.in_bytes,
        "in_client_msgs": server.in_msgs,
        "in_client_bytes": server.in_bytes,
        "out_msgs": server.out_msgs,
        "out_bytes": server.out_bytes,
        "out_client_msgs": server.out_msgs,
        "out_client_bytes": server.out_bytes,
        "slow_consumers": server.slow_consumers,
        "stale_connections": server.stale_connections,
        "subscriptions": server.subscriptions,
        "http_req_stats": dict(requests),
        "config_load_time": _moment(server.started_ms),
        "slow_consumer_stats": {**_NOBODY_ELSE, "clients": server.slow_consumers},
        "stale_connection_stats": {**_NOBODY_ELSE, "clients": server.stale_connections},
    }


_NOBODY_ELSE = {"clients": 0, "routes": 0, "gateways": 0, "leafs": 0}


_SECURITY = ("auth_required", "tls_required", "tls_verify")  # left out where they are not


def _cluster_of(server: ServerFacts) -> Json:
    return {
        "addr": server.cluster_host,
        "cluster_port": server.cluster_port,
        "urls": list(server.cluster_urls),
    }


def _websocket_of(server: ServerFacts) -> Json:
    if not server.websocket_port:
        return {}
    return {"host": server.websocket_host, "port": server.websocket_port}


def connz(
    view: NodeView, *, offset: int, limit: int, subs: str = "", in_full: bool = False
) -> Json:
    """The connections, oldest first, `limit` of them from `offset` on; with their subjects (`subs`
    is SUBJECTS) or subscriptions (DETAIL).

    `in_full` is for who has shown the admin's credential: nothing is blanked.
    """
    now_ms = view.now_ms()
    connections = view.connections(with_subjects=bool(subs))
    shown = list(islice(connections, offset, offset + limit))
    return {
        "server_id": view.server().server_id,
        "now": _moment(now_ms),
        "num_connections": len(shown),
        "total": len(connections),
        "offset": offset,
        "limit": limit,
        "connections": [_connection(facts, now_ms, subs=subs, in_full=in_full) for facts in shown],
    }


def _connection(facts: ConnectionFacts, now_ms: int, *, subs: str, in_full: bool) -> Json:
    shown: Json = {
        "cid": facts.cid,
        "kind": "Client",
        "type": "websocket" if facts.over_websocket else "nats",
        "ip": facts.ip,
        "port": facts.port,
        "start": _moment(facts.started_ms),
        "last_activity": _moment(facts.last_activity_ms),
        "rtt": f"{round(facts.rtt_s * 1_000_000)}µs",
        "uptime": _span(now_ms - facts.started_ms),
        "idle": _span(now_ms - facts.last_activity_ms),
        "pending_bytes": facts.pending_bytes,
        "in_msgs": facts.in_msgs,
        "out_msgs": facts.out_msgs,
        "in_bytes": facts.in_bytes,
        "out_bytes": facts.out_bytes,
        "subscriptions": facts.subscriptions,
        "name": facts.name,
        "lang": facts.lang,
        "version": facts.version,
    }
    if facts.tls_version:
        shown |= {"tls_version": facts.tls_version, "tls_cipher_suite": facts.tls_cipher}
    if in_full:
        shown |= {"account": facts.account, "authorized_user": facts.user}
    else:  # clients may call themselves whatever they like
        for field in ("name", "lang", "version"):
            shown[field] = without_secrets(shown[field])
    if subs == SUBJECTS:
        subscribed = [_subscription(one, in_full=in_full) for one in facts.subscribed]
        shown["subscriptions_list"] = [one["subject"] for one in subscribed]
    elif subs == DETAIL:
        shown["subscriptions_list_detail"] = [
            _subscription(one, in_full=in_full) for one in facts.subscribed
        ]
    return shown


def _subscription(facts: SubscriptionFacts, *, in_full: bool) -> Json:
    subject, queue, sid = facts.subject, facts.queue, facts.sid
    if not in_full:
        subject = subject_without_secrets(subject)
        queue, sid = without_secrets(queue), without_secrets(sid)
    group = {"qgroup": queue} if queue else {}
    return {"subject": subject, **group, "sid": sid, "msgs": facts.delivered, "cid": facts.cid}


def subsz(
    view: NodeView, *, offset: int = 0, limit: int = 0, subs: str = "", in_full: bool = False
) -> Json:
    """The subscription table; with `subs` the subscriptions from `offset` on, `limit` of them."""
    interest = view.interest()
    listed: Json = {"total": 0, "offset": 0, "limit": 0}
    if subs:
        everything = chain.from_iterable(
            facts.subscribed for facts in view.connections(with_subjects=True)
        )
        listed = {
            "total": interest.subscriptions,
            "offset": offset,
            "limit": limit,
            "subscriptions_list": [
                {"account": one.account, **_subscription(one, in_full=in_full)}
                for one in islice(everything, offset, offset + limit)
            ],
        }
    return {
        "server_id": view.server().server_id,
        "now": _moment(view.now_ms()),
        "num_subscriptions": interest.subscriptions,
        "num_cache": interest.cached,
        "num_inserts": interest.inserts,
        "num_removes": interest.removes,
        "num_matches": interest.matches,
        "cache_hit_rate": max(
            0, 1 - interest.searches / interest.matches if interest.matches else 0
        ),
        "max_fanout": max(interest.fanouts, default=0),
        "avg_fanout": sum(interest.fanouts) / len(interest.fanouts) if interest.fanouts else 0,
        **listed,
    }


def routez(view: NodeView) -> Json:
    """The links to peer nodes."""
    server = view.server()
    routes = view.routes()
    return {
        "server_id": server.server_id,
        "server_name": server.server_name,
        "now": _moment(view.now_ms()),
        "num_routes": len(routes),
        "routes": [_route(facts) for facts in routes],
    }


def _route(facts: RouteFacts) -> Json:
    return {
        "rid": facts.rid,
        "remote_name": facts.remote_name,
        "ip": facts.ip,
        "port": facts.port,
        "pending_size": facts.pending_bytes,
        "in_msgs": facts.in_msgs,
        "out_msgs": facts.out_msgs,
        "in_bytes": facts.in_bytes,
        "out_bytes": facts.out_bytes,
        "subscriptions": facts.subscriptions,
    }


def cluster(view: NodeView, *, hashes: bool) -> Json:
    """Nodes, shards and their replicas, as this node sees them; with `hashes`, its states', too."""
    facts = asdict(view.cluster())
    return {**facts, "state_hashes": view.state_hashes()} if hashes else facts


def _moment(at_ms: int) -> str:
    """RFC 3339, as nats-server writes it."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _span(span_ms: int) -> str:
    """A duration as nats-server writes it: 1d2h3m4s, from the first part that is not zero."""
    rest = timedelta(milliseconds=max(span_ms, 0))
    hours, seconds = divmod(rest.seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    parts = [(rest.days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return "".join(f"{count}{unit}" for count, unit in parts)
