"""The HTTP side over a real socket, with a stub behind it."""

import aiohttp
import orjson
import pytest

from mq9cluster.admin.http import AdminServer
from tests.unit.admin.stub import CONNECTION, StubView


@pytest.fixture
async def view():
    return StubView()


TOKEN = "an-admin-token-of-ours"


@pytest.fixture(params=[TOKEN])
async def get(view, request):
    server = AdminServer(view, "127.0.0.1", 0, request.param)
    port = await server.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def fetch(path, **options):
            async with session.request(options.pop("method", "GET"), path, **options) as answer:
                return answer.status, await answer.read()

        yield fetch
    await server.stop()


async def json_of(get, path):
    status, body = await get(path)
    assert status == 200
    return orjson.loads(body)


async def test_healthz_answers_byte_for_byte_as_nats_server(get):
    assert await get("/healthz") == (200, b'{"status":"ok"}')


async def test_a_node_that_is_not_ready_is_alive_all_the_same(get, view):
    view.not_ready = "draining"
    assert (await get("/healthz"))[0] == 200
    status, body = await get("/readyz")
    assert (status, orjson.loads(body)) == (503, {"status": "unavailable", "error": "draining"})


async def test_a_node_that_is_not_alive_is_not_ready(get, view):
    view.not_alive = "disk does not answer"
    assert (await get("/healthz"))[0] == 503
    assert (await get("/readyz"))[0] == 503


async def test_varz_tells_limits_totals_and_uptime(get):
    varz = await json_of(get, "/varz")
    assert varz["server_name"] == "node1"
    assert varz["max_payload"] == 1_048_576
    assert varz["ping_interval"] == 120_000_000_000
    assert varz["write_deadline"] == 10_000_000_000
    assert varz["uptime"] == "1d2h3m4s"
    assert varz["start"] == "2023-11-14T22:13:20.000Z"
    assert (varz["in_msgs"], varz["out_bytes"], varz["slow_consumers"]) == (10, 200, 1)
    assert (await json_of(get, "/varz"))["http_req_stats"] == {"/varz": 2}


async def test_connz_pages_through_the_connections(get, view):
    view.connection_count = 2_000
    everything = await json_of(get, "/connz")
    assert (everything["num_connections"], everything["total"], everything["limit"]) == (
        1024,
        2000,
        1024,
    )
    page = await json_of(get, "/connz?offset=1998&limit=5")
    assert [connection["cid"] for connection in page["connections"]] == [1999, 2000]


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "offset=1.5", "limit=99999999999"])
async def test_connz_refuses_wrong_numbers(get, query):
    assert (await get(f"/connz?{query}"))[0] == 400


async def test_connz_lists_subjects_only_when_asked_and_never_private_addresses(get):
    plain = (await json_of(get, "/connz"))["connections"][0]
    assert "subscriptions_list" not in plain
    assert (plain["idle"], plain["rtt"]) == ("2s", "123µs")
    detailed = (await json_of(get, "/connz?subs=1"))["connections"][0]
    assert detailed["subscriptions_list"] == ["work.>", "$mq9.AI.MAILBOX.MSG.***"]
    assert detailed["name"] == "agent of mbx.***"


async def test_details_of_subscriptions_are_blanked_too(get):
    (detailed, *_) = (await json_of(get, "/connz?subs=detail"))["connections"]
    assert detailed["subscriptions_list_detail"] == [
        {"subject": "work.>", "sid": "1", "msgs": 3, "cid": 1},
        {"subject": "$mq9.AI.MAILBOX.MSG.***", "qgroup": "q", "sid": "2", "msgs": 0, "cid": 1},
    ]
    listed = await json_of(get, "/subsz?subs=1&offset=1&limit=2")
    assert (listed["total"], listed["offset"], listed["limit"]) == (7, 1, 2)
    assert [one["subject"] for one in listed["subscriptions_list"]] == [
        "$mq9.AI.MAILBOX.MSG.***",
        "work.>",
    ]
    _, body = await get("/subsz?subs=1", **bearer(TOKEN))
    assert b"abcdefghijklmnopqrstuvwxyz" in body


def bearer(token, scheme="Bearer"):
    return {"headers": {"Authorization": f"{scheme} {token}"}}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_admin_is_shown_subjects_in_full(get, scheme):
    status, body = await get("/connz?subs=1", **bearer(TOKEN, scheme))
    (shown, *_) = orjson.loads(body)["connections"]
    assert (status, shown["subscriptions_list"]) == (
        200,
        [one.subject for one in CONNECTION.subscribed],
    )
    assert shown["name"] == CONNECTION.name


@pytest.mark.parametrize("page", ["/connz?subs=1", "/varz", "/metrics", "/healthz", "/cluster"])
@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "tökén"])
async def test_a_wrong_credential_is_refused_on_every_page(get, page, token):
    status, body = await get(page, **bearer(token))
    assert (status, orjson.loads(body)) == (401, {"error": "invalid credentials"})
    assert (await get(page, **bearer(TOKEN, "Basic")))[0] == 401


@pytest.mark.parametrize("get", [""], indirect=True)
@pytest.mark.parametrize("token", ["", " ", "x", TOKEN])
async def test_where_no_credential_is_configured_none_is_right(get, token):
    assert (await get("/connz?subs=1", **bearer(token)))[0] == 401
    _, body = await get("/connz?subs=1")
    assert b"abcdefghijklmnopqrstuvwxyz" not in body


async def test_subsz_and_routez_answer(get):
    subsz = await json_of(get, "/subsz")
    assert (subsz["num_subscriptions"], subsz["num_removes"], subsz["total"]) == (7, 2, 0)
    assert (subsz["num_matches"], subsz["cache_hit_rate"]) == (40, 0.75)
    assert (subsz["max_fanout"], subsz["avg_fanout"]) == (3, 2)
    routez = await json_of(get, "/routez")
    assert (routez["num_routes"], routez["routes"][0]["remote_name"]) == (1, "node2")


async def test_hashes_of_states_are_told_only_when_asked_for(get):
    assert "state_hashes" not in await json_of(get, "/cluster")
    asked = await json_of(get, "/cluster?state_hashes=1")
    assert asked["state_hashes"] == {"0": [120, "ab12"]}


async def test_cluster_answers_in_the_shape_the_contract_names(get):
    cluster = await json_of(get, "/cluster")
    assert cluster["cluster_id"] == "c1"
    assert cluster["nodes"][1] == {
        "name": "node2",
        "listen": "0.0.0.0:4223",
        "peer": "0.0.0.0:7423",
        "alive": False,
        "draining": False,
        "clock_offset_ms": -3,
    }
    assert cluster["shards"][0] == {
        "id": 0,
        "leader": "node1",
        "term": 4,
        "replicas": [
            {"node": "node1", "commit_index": 120, "applied_index": 120, "state": "leader"},
            {"node": "node2", "commit_index": 100, "applied_index": 90, "state": "follower"},
        ],
        "mailboxes": 1234,
        "messages": 7,
        "agents": 5,
    }


async def test_metrics_are_served_in_the_format_asked_for(get):
    status, body = await get("/metrics")
    assert status == 200
    assert b"process_cpu_seconds_total" in body
    _, openmetrics = await get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert openmetrics.endswith(b"# EOF\n")


async def test_what_is_not_there_or_not_a_read_is_refused(get):
    assert (await get("/secrets"))[0] == 404
    assert (await get("/varz", method="POST"))[0] == 405


async def test_a_taken_port_is_an_oserror(view):
    first = AdminServer(view, "127.0.0.1", 0)
    port = await first.start()
    with pytest.raises(OSError, match="address already in use"):
        await AdminServer(view, "127.0.0.1", port).start()
    await first.stop()
