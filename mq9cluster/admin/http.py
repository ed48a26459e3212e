"""The HTTP listener of a node: routes requests to health, metrics and monitoring.

Built, started first and stopped last by the node, so that probes are answered while it starts and
while it drains. Everything is read-only and answered in one turn of the event loop.
"""

import hmac
import logging
from collections import Counter
from collections.abc import Callable

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mq9cluster.admin import monitoring
from mq9cluster.admin.metrics import Metrics
from mq9cluster.admin.view import NodeView

REQUEST_BYTES_MAX = 64 * 1024  # nothing here takes a body
IDLE_S_MAX = 75.0  # a scraper's interval fits into it
ANSWER_S_MAX = 1.0  # at the end; every answer is made in one turn
_JSON = "application/json"

_server_log = logging.getLogger(f"{__name__}.server")

Handler = Callable[[web.Request], web.Response]


class AdminServer:
    """Answers operators, probes and Prometheus."""

    def __init__(self, view: NodeView, host: str, port: int, admin_token: str = "") -> None:
        """Without `admin_token` nobody is shown what only the admin may see."""
        self._view = view
        self._admin_token = admin_token.encode()
        self._host = host
        self._port = port
        self._metrics = Metrics(view)
        self._requests: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self._routes: dict[str, Handler] = {
            "/": self._index,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics_text,
            "/varz": lambda _: _json(monitoring.varz(self._view, self._requests)),
            "/connz": self._connz,
            "/subsz": self._subsz,
            "/routez": lambda _: _json(monitoring.routez(self._view)),
            "/cluster": self._cluster,
        }

    async def start(self) -> int:
        """Listen; the port. Raises OSError where the address is taken or not ours."""
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        for path in self._routes:
            app.router.add_get(path, self._answer)
        _server_log.addFilter(_is_no_clients_fault)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_server_log,
            keepalive_timeout=IDLE_S_MAX,
            shutdown_timeout=ANSWER_S_MAX,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        port = runner.addresses[0][1]
        if not isinstance(port, int):
            raise TypeError(f"a TCP socket has the address {runner.addresses[0]}")
        return port

    async def stop(self) -> None:
        """Answer what is under way, then close."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        self._requests[request.path] += 1
        if "Authorization" in request.headers and not self._is_admin(request):
            refused = _json({"error": "invalid credentials"}, status=401)
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
        return self._routes[request.path](request)

    def _is_admin(self, request: web.Request) -> bool:
        """Whether the request shows the admin's credential, compared in constant time."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        shown = token.strip().encode("utf-8", "surrogateescape")
        same = hmac.compare_digest(shown, self._admin_token)
        return same and bool(self._admin_token) and scheme.lower() == "bearer"

    def _index(self, _: web.Request) -> web.Response:
        return web.Response(text="".join(f"{path}\n" for path in self._routes if path != "/"))

    def _healthz(self, _: web.Request) -> web.Response:
        return _state(self._view.why_not_alive(), "ok")

    def _readyz(self, _: web.Request) -> web.Response:
        return _state(self._view.why_not_alive() or self._view.why_not_ready(), "ok")

    def _metrics_text(self, request: web.Request) -> web.Response:
        body, content_type = self._metrics.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    def _cluster(self, request: web.Request) -> web.Response:
        hashes = request.query.get("state_hashes", "") == "1"
        return _json(monitoring.cluster(self._view, hashes=hashes))

    def _connz(self, request: web.Request) -> web.Response:
        return self._listed(monitoring.connz, request)

    def _subsz(self, request: web.Request) -> web.Response:
        return self._listed(monitoring.subsz, request)

    def _listed(self, page: Callable[..., monitoring.Json], request: web.Request) -> web.Response:
        """A page of which `offset` and `limit` choose a part, and `subs` how much of it."""
        try:
            limit = _count(request, "limit", monitoring.CONNECTIONS_LISTED_DEFAULT)
            offset = _count(request, "offset", 0)
        except ValueError as error:
            return _json({"error": str(error)}, status=400)
        asked = request.query.get("subs", "").lower()
        subs = _SUBS.get(asked, "")
        limit = min(limit, monitoring.CONNECTIONS_LISTED_MAX)
        in_full = self._is_admin(request)
        return _json(page(self._view, offset=offset, limit=limit, subs=subs, in_full=in_full))


_SUBS = {"1": monitoring.SUBJECTS, "true": monitoring.SUBJECTS, "detail": monitoring.DETAIL}


def _is_no_clients_fault(record: logging.LogRecord) -> bool:
    """Who sends what is no HTTP is told so, and cannot fill the log with our insides."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _count(request: web.Request, name: str, default: int) -> int:
    raw = request.query.get(name, "")
    if not raw:
        return default
    if not raw.isascii() or not raw.isdigit() or len(raw) > len("1000000000"):
        raise ValueError(f"invalid {name}: {raw[:32]}")
    return int(raw)


def _state(trouble: str, fine: str) -> web.Response:
    """As nats-server's /healthz: 200 with status ok, or 503 with what is wrong."""
    if trouble:
        return _json({"status": "unavailable", "error": trouble}, status=503)
    return web.Response(body=orjson.dumps({"status": fine}), content_type=_JSON)


def _json(value: monitoring.Json, status: int = 200) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=status, content_type=_JSON)
