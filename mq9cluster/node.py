"""One node: the composition root. Builds every part, wires it to what it uses, owns start and stop.

Called by cli (`serve`). Parts start from the bottom up and stop in reverse order; the HTTP side
starts before them and stops after them, so that probes are answered all along: alive, but not
ready.
"""

import asyncio
import gc
import logging
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

from mq9cluster.admin.http import AdminServer
from mq9cluster.broker.agents import Agents
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.broker.pushes import Pushes
from mq9cluster.broker.router import Router
from mq9cluster.broker.search_side import SearchSide
from mq9cluster.broker.traced import TracedRouter
from mq9cluster.cluster.cluster import Cluster
from mq9cluster.cluster.durability import DEFAULT_RETENTION, Durability, Retention, offload_to
from mq9cluster.cluster.membership import ForeignData, MemberEvents, Membership
from mq9cluster.cluster.peers import PeerTls
from mq9cluster.cluster.scrubbing import Scrubbing
from mq9cluster.cluster.search_thread import Searchable
from mq9cluster.cluster.tracing import ParcelTraces
from mq9cluster.config import Config
from mq9cluster.config_values import Address, ConfigError
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.gateway.listener import Listener, ServerName
from mq9cluster.gateway.password_checks import PasswordChecks
from mq9cluster.gateway.routes import Routes
from mq9cluster.node_access import authenticator_of, left_for_a_restart, settings_of, tls_of
from mq9cluster.node_view import Parts, Phase, View
from mq9cluster.search.embedder import EmbedderMisconfigured
from mq9cluster.storage.errors import StorageFailed
from mq9cluster.storage.store import Store, open_store

NODE_ID_BYTES = 16
NODE_NUMBER_DIGITS = 15  # of a node's id: a number that every JSON reader holds
COLLECTOR_THRESHOLDS = (100_000, 20, 50)  # some batches' worth of objects; then seldom, seldomer
# Between threads that want Python. A sync that returned waits for it behind the loop: measured
# 7 ms and more with Python's default of 5 ms, 1.2 ms with this.
SWITCH_INTERVAL_S = 0.0005
SYNC_THREADS = 2  # a sync, and a checkpoint that must not hold it up
LOG_KEPT_VARIABLE = "MQ9_TEST_LOG_ENTRIES_KEPT"  # for tests of catching up: a log that ends soon
SYNC_DELAY_VARIABLE = "MQ9_TEST_SYNC_DELAY_MS"  # for tests of slow disks: longer syncs
CLOCK_VARIABLE = "MQ9_TEST_CLOCK_OFFSET_MS"  # for tests of clocks: a wall clock that is off
HASHES_VARIABLE = "MQ9_TEST_STATE_HASHES"  # for tests: /cluster?state_hashes=1 reads all rows

T = TypeVar("T")
log = logging.getLogger(__name__)


class NodeFailed(Exception):
    """The node could not start, or could not go on; the text is one line for the operator."""


class SystemClock:
    """The clocks of this machine."""

    def __init__(self, offset_ms: int = 0) -> None:
        self._offset_ms = offset_ms

    def wall_ms(self) -> int:
        """Unix time in milliseconds; may jump."""
        return time.time_ns() // 1_000_000 + self._offset_ms

    def monotonic_ms(self) -> int:
        """Milliseconds since some start; never goes back."""
        return time.monotonic_ns() // 1_000_000

    seconds = staticmethod(time.perf_counter)
    """Seconds since some start, for measuring. Asked for every message, so no call of ours."""


class SystemRandom:
    """The randomness of this machine."""

    def token(self, length: int) -> bytes:
        """`length` unpredictable bytes."""
        return secrets.token_bytes(length)


class Node(MemberEvents):
    """One node, from start to stop."""

    def __init__(self, config: Config, clock: SystemClock, tokens: SystemRandom) -> None:
        self._config = config
        self._clock = clock
        self._tokens = tokens
        self._running = AsyncExitStack()
        self._view = View(config, clock, with_hashes=HASHES_VARIABLE in os.environ)
        self._listener: Listener | None = None
        self._traces: ParcelTraces | None = None
        self._cluster: Cluster | None = None
        self._mailboxes: Mailboxes | None = None
        self._pushes: Pushes | None = None
        self._routes: Routes | None = None
        self._checks = PasswordChecks(tokens)
        self._failure = ""
        self._failing = asyncio.Event()

    async def start(self) -> None:
        """Open and start everything, from the bottom up. Raises NodeFailed."""
        config = self._config
        admin = AdminServer(self._view, *config.http, config.admin_token)
        self._view.http_port = await _listening("--http", config.http, admin.start())
        self._running.push_async_callback(admin.stop)
        try:
            await self._start_serving()
        except (StorageFailed, ForeignData) as error:
            raise NodeFailed(str(error)) from error
        except EmbedderMisconfigured as error:
            raise NodeFailed(f"--embedder: {error}") from error
        self._view.phase = Phase.SERVING
        listen = Address(config.listen.host, self._view.port)
        http = Address(config.http.host, self._view.http_port)
        log.info("ready", extra={"listen": str(listen), "http": str(http)})

    async def _start_serving(self) -> None:
        config = self._config
        store = await self._open_store()
        durability = self._start_durability(store)
        self._start_tracing()
        indexes = config.data_dir / "search"
        search = SearchSide(config.embedder, config.embedder_key, indexes)
        self._running.push_async_callback(search.stop)
        searchable = await search.open()
        cluster = await self._join(store, durability, searchable)
        await search.start(cluster)
        mailboxes = Mailboxes(
            cluster.shards,
            self._tokens,
            cluster.me.node_id,
            cluster.incarnation,
            lambda: cluster.may_hand_out,
            config.duplicate_window_ms,
            config.limits.waiting_fetches_max,
        )
        self._mailboxes = mailboxes
        pushes = Pushes(
            cluster.shards,
            cluster.me.node_id,
            cluster.incarnation,
            lambda: cluster.may_hand_out,
            config.limits.waiting_fetches_max,
        )
        self._pushes = pushes
        agents = Agents(cluster.shards, search.embedding.embed, config.agent_ttl_s)
        parts = (mailboxes, pushes, agents, search.discovery, self._clock)
        router = TracedRouter(self._traces, *parts) if self._traces else Router(*parts)
        chance = random.Random()  # noqa: S311  spreads load, guards nothing
        self._routes = Routes(cluster.peers.send_route, chance)
        for peer in cluster.peers.names:
            if cluster.peers.is_up(peer):
                self._routes.on_up(peer)
        exchange = Exchange(asyncio.get_running_loop().call_soon, chance, self._routes)
        settings = settings_of(config)
        self._running.callback(self._checks.close)
        authenticator = authenticator_of(config, self._checks, self._tokens)
        name = ServerName(server_id=store.node_id, server_name=config.name)
        seconds = self._clock.seconds
        listener = Listener(
            name, settings, exchange, router, authenticator, chance, seconds, cluster.report_beat
        )
        starting = listener.start(*config.listen, tls_of(config))
        await _listening("--listen", config.listen, starting)
        self._running.push_async_callback(listener.close)
        if config.ws_listen:
            opening = listener.start_websockets(*config.ws_listen, config.ws_origins)
            port = await _listening("--ws-listen", config.ws_listen, opening)
            log.info("websockets", extra={"listen": str(Address(config.ws_listen.host, port))})
        self._listener = listener
        self.on_members()
        self._start_scrubbing(store, durability)
        self._view.parts = Parts(
            store,
            durability,
            cluster,
            router,
            mailboxes,
            pushes,
            search,
            self._checks,
            exchange,
            settings,
            listener,
        )

    async def _join(self, store: Store, durability: Durability, searchable: Searchable) -> Cluster:
        """Become a member of the cluster, or found it."""
        config = self._config
        addresses = {peer.name: str(peer.address) for peer in config.peers}
        membership = Membership(
            name=config.name,
            node_id=int(store.node_id[:NODE_NUMBER_DIGITS], 16),
            listen=config.advertised,
            addresses=addresses or {config.name: str(config.peer_listen)},
            shards=config.shards,
            peer_host=config.peer_listen.host,
            peer_port=config.peer_listen.port,
            tls=_peer_tls(config),
            searchable=searchable,
        )
        cluster = Cluster(
            membership,
            store.database,
            durability,
            self._clock,
            self._tokens,
            store.incarnation,
            store.sentinel.count_start,
            self,
        )
        cluster.traces = self._traces
        self._running.push_async_callback(_settle, durability, cluster)
        await _listening("--peer-listen", config.peer_listen, cluster.start(store.cluster_id))
        if not store.cluster_id:
            store.set_cluster(cluster.meta.meta.cluster_id)
        count = cluster.meta.meta.shards
        if count != config.shards:
            log.warning("the number of shards is that of its birth", extra={"shards": count})
        self._cluster = cluster
        return cluster

    async def reload(self, read_again: Callable[[], Config]) -> None:
        """Take users, certificates and limits of a configuration that has changed (SIGHUP).

        What is wrong with it is told in the log, and nothing changes then.
        """
        try:
            config = await asyncio.to_thread(read_again)
        except ConfigError as error:
            log.error("not reloaded", extra={"why": str(error)})  # noqa: TRY400  one line
            return
        parts = self._view.parts
        if parts is None or self._listener is None or self._cluster is None:
            return
        if left := left_for_a_restart(self._config, config):
            log.warning("changed, but only taken at a restart", extra={"settings": ",".join(left)})
        settings = settings_of(config)
        authenticator = authenticator_of(config, self._checks, self._tokens)
        self._listener.change(settings, authenticator, tls_of(config))
        self._view.parts = replace(parts, settings=settings)
        peer_tls = _peer_tls(config)
        if peer_tls is not None:
            self._cluster.peers.change_tls(peer_tls)
        log.info("reloaded", extra={"users": len(config.access.users)})

    def _start_tracing(self) -> None:
        """Where it is asked for; only then is anything of OpenTelemetry imported."""
        if self._config.traces != "otlp":
            return
        try:
            traces = import_module("mq9cluster.admin.traces")
        except ImportError as error:
            why = "--traces: pip install 'mq9cluster[otel]' brings what is missing"
            raise NodeFailed(why) from error
        tracer = traces.otlp_tracer(self._config.name, self._clock)
        self._running.push_async_callback(asyncio.to_thread, tracer.close)
        self._traces = ParcelTraces(tracer, self._clock)

    # --- what the cluster tells ------------------------------------------------------------------

    def on_lease_lost(self) -> None:
        """Cut off: connections that hold messages are closed before others may be given them."""
        if self._listener and self._mailboxes:
            for number in self._mailboxes.holding():
                session = self._listener.sessions.get(number)
                if session:
                    session.close()

    def on_new_run(self, incarnation: int) -> None:
        """Back again, as another run."""
        if self._mailboxes and self._pushes:
            self._mailboxes.begin_run(incarnation)
            self._pushes.begin_run(incarnation)

    def on_peer_up(self, peer: str) -> None:
        """Core NATS reaches one node more."""
        if self._routes:
            self._routes.on_up(peer)

    def on_peer_down(self, peer: str) -> None:
        """And one less."""
        if self._routes:
            self._routes.on_down(peer)

    def on_route(self, peer: str, data: bytes) -> None:
        """Interest or a message from a peer."""
        if self._routes:
            self._routes.on_frame(peer, data)

    def on_members(self) -> None:
        """Clients learn where else they may connect."""
        if self._listener and self._cluster:
            self._listener.set_connect_urls(self._cluster.connect_urls())

    async def _open_store(self) -> Store:
        """Open the data directory, in a thread: recovery may take seconds, and probes go on."""
        store = await asyncio.to_thread(
            open_store,
            self._config.data_dir,
            self._config.name,
            lambda: self._tokens.token(NODE_ID_BYTES).hex(),
        )
        self._running.callback(_close_store, store)
        facts = {"data_dir": self._config.data_dir, "incarnation": store.incarnation}
        log.info("storage open", extra=facts)
        return store

    def _start_durability(self, store: Store) -> Durability:
        threads = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="sync")
        self._running.callback(threads.shutdown)
        durability = Durability(
            store.database,
            self.fail,
            offload_to(threads),
            time.monotonic,
            retention=_retention(os.environ.get(LOG_KEPT_VARIABLE, "")),
            checkpoint=store.checkpoint,
            sync_delay_s=_injected_ms(SYNC_DELAY_VARIABLE) / 1000,
        )
        store.database.on_read_failed = durability.fail
        return durability

    def _start_scrubbing(self, store: Store, durability: Durability) -> None:
        rows = store.database.rows_in_files
        work = Scrubbing(store.scrub(), rows, durability.fail, self._clock.seconds)
        task = asyncio.create_task(work.run(at_once=not store.scrubbed))
        task.add_done_callback(_tell_mistake)
        self._running.callback(task.cancel)

    def fail(self, error: BaseException) -> None:
        """A part cannot go on, so the node cannot either. The first one to say so counts."""
        self._failure = self._failure or str(error)
        self._failing.set()

    async def failure(self) -> None:
        """Wait until the node fails. Raises NodeFailed."""
        await self._failing.wait()
        raise NodeFailed(self._failure)

    async def leave(self) -> None:
        """Lame duck: no new clients; returns when the present ones are gone or their time is up."""
        self._view.phase = Phase.DRAINING
        log.info("leaving", extra={"seconds_max": self._config.lame_duck_s})
        if self._cluster is not None:
            await self._cluster.leave()
        if self._listener is not None:
            await self._listener.lame_duck()

    async def stop(self) -> None:
        """Stop and close everything that was started, top down, and flush. Raises NodeFailed."""
        self._view.phase = Phase.STOPPING
        try:
            await self._running.aclose()
        except StorageFailed as error:
            self.fail(error)
        if self._failing.is_set():
            raise NodeFailed(self._failure)
        log.info("stopped")


def _peer_tls(config: Config) -> PeerTls | None:
    files = config.peer_tls
    return PeerTls(files.certificate, files.key, files.authority) if files else None


async def _reload_when_asked(
    asked: asyncio.Event, node: Node, read_again: Callable[[], Config]
) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await node.reload(read_again)


def _retention(entries: str) -> Retention:
    return Retention(entries=int(entries), entries_slack=0) if entries else DEFAULT_RETENTION


def _injected_ms(variable: str) -> int:
    """What a test wants to be off by; said aloud, for nobody should run so."""
    value = int(os.environ.get(variable) or 0)
    if value:
        log.warning("running with a fault that a test asked for", extra={variable: value})
    return value


async def _settle(durability: Durability, cluster: Cluster) -> None:
    """Let what is under way reach the disk, and take part no more."""
    await cluster.stop()
    await durability.idle()


def _tell_mistake(task: "asyncio.Task[None]") -> None:
    """Nobody awaits what goes on in the background; what ends it must be heard of."""
    if not task.cancelled() and (error := task.exception()):
        log.error("a mistake ended work in the background", exc_info=error)


def _close_store(store: Store) -> None:
    """Leave nothing to replay to the next start."""
    store.database.flush()
    store.close()


async def _listening(flag: str, address: Address, starting: Coroutine[Any, Any, T]) -> T:
    try:
        return await starting
    except OSError as error:
        number = error.errno or 0  # negative where a name could not be resolved
        why = os.strerror(number) if number > 0 else error.strerror
        raise NodeFailed(f"{flag}: cannot listen on {address}: {why}") from error


class StopSignals:
    """How an operator asks a node to stop.

    SIGTERM and SIGUSR2: leave, letting clients go elsewhere first; said again, or SIGINT: quit at
    once.
    """

    def __init__(self) -> None:
        self.any = asyncio.Event()
        self.quit = asyncio.Event()

    def listen(self, *, to_stdin: bool) -> None:
        """Heed signals from now on; with `to_stdin` also the end of stdin (whoever started us is
        gone).
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leave)
        loop.add_signal_handler(signal.SIGUSR2, self._leave)
        loop.add_signal_handler(signal.SIGINT, self._quit)
        if to_stdin:
            loop.add_reader(sys.stdin.fileno(), self._read_stdin)

    def _leave(self) -> None:
        if self.any.is_set():
            self.quit.set()
        self.any.set()

    def _quit(self) -> None:
        self.any.set()
        self.quit.set()

    def _read_stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._quit()


def _calm_collector() -> None:
    """Let the cycle collector look rarely, and never at what stays.

    A batch makes thousands of objects that live until its sync, and none of them in cycles. Looking
    through them after every 700th, as is the default, cost a fifth of the throughput and half of
    the p99 (SEND, 16 connections with 64 outstanding each).
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


async def serve_until_stopped(
    config: Config, read_again: Callable[[], Config], *, stop_with_stdin: bool
) -> None:
    """Run a node until it is asked to stop. Raises NodeFailed where it cannot start or go on.

    At SIGHUP the configuration is taken anew from `read_again`, as far as a running node can.

    After a failure nothing is stopped or flushed: what is not on disk yet was not acknowledged, and
    a disk that failed is not to be written to again. The next start recovers as after a crash.
    """
    stop = StopSignals()
    stop.listen(to_stdin=stop_with_stdin)
    hung_up = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    loop.set_exception_handler(_tell_uncaught)
    node = Node(config, SystemClock(_injected_ms(CLOCK_VARIABLE)), SystemRandom())
    await _first(node.start(), stop.any.wait(), node.failure())
    _calm_collector()
    reloading = _reload_when_asked(hung_up, node, read_again)
    await _first(stop.any.wait(), node.failure(), reloading)
    if not stop.quit.is_set():
        await _first(node.leave(), stop.quit.wait(), node.failure())
    await node.stop()


def _tell_uncaught(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no callback or task caught, with its traceback unless that would say nothing more.

    A failed read of storage has told the node, which ends; whose read it was is a line beside that.
    """
    if isinstance(error := context.get("exception"), StorageFailed):
        log.error("reading failed", extra={"where": context["message"], "why": str(error)})
    else:
        loop.default_exception_handler(context)


async def _first(*work: Coroutine[Any, Any, object]) -> None:
    """Wait until one of `work` is done, and cancel the others. Raises what the first one raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others)
    # A start and a failure end together where both tell of the same disk: all must be seen.
    errors = [error for task in done if (error := task.exception())]
    if errors:
        raise errors[0]
