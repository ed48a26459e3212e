"""A node's facts without a node."""

from dataclasses import replace

from mq9cluster.admin.view import (
    ClusterFacts,
    ConnectionFacts,
    InterestFacts,
    NodeFacts,
    ReplicaFacts,
    RouteFacts,
    ServerFacts,
    ShardFacts,
    SubscriptionFacts,
)

STARTED_MS = 1_700_000_000_000
NOW_MS = STARTED_MS + 93_784_500  # 1 day, 2 hours, 3 minutes, 4.5 seconds

SERVER = ServerFacts(
    server_id="NID",
    server_name="node1",
    version="0.1.0",
    host="0.0.0.0",
    port=4222,
    http_host="0.0.0.0",
    http_port=9090,
    started_ms=STARTED_MS,
    connections_max=100,
    payload_bytes_max=1_048_576,
    pending_bytes_max=67_108_864,
    control_line_bytes_max=4096,
    ping_interval_s=120,
    pings_outstanding_max=2,
    auth_timeout_s=2,
    write_deadline_s=10,
    connections=3,
    connections_total=5,
    routes=1,
    in_msgs=10,
    in_bytes=100,
    out_msgs=20,
    out_bytes=200,
    slow_consumers=1,
    stale_connections=0,
    subscriptions=7,
    connect_urls=["10.0.0.1:4222", "10.0.0.2:4222"],
    cluster_host="0.0.0.0",
    cluster_port=7422,
    cluster_urls=["10.0.0.2:7422"],
    websocket_host="0.0.0.0",
    websocket_port=8080,
)
CONNECTION = ConnectionFacts(
    cid=1,
    ip="127.0.0.1",
    port=50_000,
    started_ms=STARTED_MS,
    last_activity_ms=NOW_MS - 2_000,
    rtt_s=0.000123,
    pending_bytes=0,
    in_msgs=1,
    in_bytes=2,
    out_msgs=3,
    out_bytes=4,
    subscriptions=2,
    name="agent of mbx.abcdefghijklmnopqrstuvwxyz",
    lang="python3",
    version="2.9.0",
    subscribed=(
        SubscriptionFacts("$G", "work.>", "", "1", 3, 1),
        SubscriptionFacts(
            "$G", "$mq9.AI.MAILBOX.MSG.mbx.abcdefghijklmnopqrstuvwxyz.*", "q", "2", 0, 1
        ),
    ),
)
ROUTE = RouteFacts(1, "node2", "10.0.0.2", 7422, 0, 1, 2, 3, 4, 5)


class StubView:
    """Answers what its fields say."""

    def __init__(self):
        self.not_alive = ""
        self.not_ready = ""
        self.connection_count = 3
        self.metric_readings = ()

    def now_ms(self):
        return NOW_MS

    def why_not_alive(self):
        return self.not_alive

    def why_not_ready(self):
        return self.not_ready

    def server(self):
        return SERVER

    def connections(self, *, with_subjects):
        facts = CONNECTION if with_subjects else replace(CONNECTION, subscribed=())
        return [replace(facts, cid=number + 1) for number in range(self.connection_count)]

    def interest(self):
        return InterestFacts(7, 5, 9, 2, matches=40, searches=10, fanouts=(1, 3))

    def routes(self):
        return [ROUTE]

    def cluster(self):
        return ClusterFacts(
            "c1",
            [
                NodeFacts(
                    "node1",
                    "0.0.0.0:4222",
                    "0.0.0.0:7422",
                    alive=True,
                    draining=False,
                    clock_offset_ms=0,
                ),
                NodeFacts(
                    "node2",
                    "0.0.0.0:4223",
                    "0.0.0.0:7423",
                    alive=False,
                    draining=False,
                    clock_offset_ms=-3,
                ),
            ],
            [
                ShardFacts(
                    0,
                    "node1",
                    4,
                    [
                        ReplicaFacts("node1", 120, 120, "leader"),
                        ReplicaFacts("node2", 100, 90, "follower"),
                    ],
                    mailboxes=1_234,
                    messages=7,
                    agents=5,
                ),
                ShardFacts(1, "", 2, [], mailboxes=1, messages=0, agents=0),
            ],
        )

    def state_hashes(self):
        return {"0": (120, "ab12")}

    def readings(self):
        return self.metric_readings
