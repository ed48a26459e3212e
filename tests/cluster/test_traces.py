"""A client's trace through three real nodes: who takes its command, and who leads the shard."""

import asyncio
import gzip
import secrets
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import ServeCluster
from tests.support.mq9 import Mq9
from tests.support.raw_nats import RawNats

ARRIVED_S_MAX = 60.0


class Collector:
    """What takes spans over OTLP; `spans` as (node, name, trace, parent, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, str, str, str]] = []
        self.came = asyncio.Event()
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = (span.trace_id.hex(), span.parent_span_id.hex(), span.span_id.hex())
                    self.spans.append((names["service.instance.id"], span.name, *ids))
        self.came.set()
        return web.Response()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(ARRIVED_S_MAX):
            while len(self.spans) < count:
                self.came.clear()
                await self.came.wait()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.port = runner.addresses[0][1]
    yield collector
    await runner.cleanup()


async def test_a_send_is_followed_from_the_node_that_took_it_to_the_one_that_leads(
    serve_cluster: ServeCluster, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    cluster = await serve_cluster(shards=1, traces="otlp")
    (leader,) = set(cluster.leaders_now().values())
    other = next(node for node in cluster if node.name != leader)
    client = Mq9(await RawNats.connect(other.host, other.port))
    address = await client.create()
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    unsampled = {"traceparent": f"00-{secrets.token_hex(16)}-{parent}-00"}
    assert (await client.ask(f"MSG.SEND.{address}", b"x", unsampled))["error"] == ""
    sampled = {"traceparent": f"00-{trace}-{parent}-01"}
    assert (await client.ask(f"MSG.SEND.{address}", b"x", sampled))["error"] == ""
    await collector.until(4)
    assert {one[2] for one in collector.spans} == {trace}
    (root,) = [span for node, name, _, above, span in collector.spans if above == parent]
    assert sorted((node, name, above) for node, name, _, above, _ in collector.spans) == sorted(
        [
            (other.name, "mq9 MSG.SEND", parent),
            (leader, "mq9 propose", root),
            (leader, "mq9 commit", root),
            (leader, "mq9 apply", root),
        ]
    )
    kept = (await client.fetch(address))["messages"]
    assert [message["header"] for message in kept] == [unsampled, sampled]
    assert isinstance(client.connection, RawNats)
    await client.connection.close()
