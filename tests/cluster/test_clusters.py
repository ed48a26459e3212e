"""A cluster as its operators see it from outside: who is in it, and who leads."""

from tests.conftest import ServeCluster
from tests.support.cluster import ServedCluster, until


def test_every_node_is_ready_and_names_the_same_leaders(shared_cluster: ServedCluster) -> None:
    views = [shared_cluster.leaders_now(seen_by=node) for node in shared_cluster]
    assert [sorted(view) for view in views] == [list(range(8))] * 3
    assert views[0] == views[1] == views[2]
    assert set(views[0].values()) <= {"n1", "n2", "n3"}


async def test_leaders_come_to_be_spread_over_the_nodes(shared_cluster: ServedCluster) -> None:
    def counts() -> list[int]:
        led = list(shared_cluster.leaders_now().values())
        return sorted(led.count(node.name) for node in shared_cluster)

    await until(lambda: counts() == [2, 3, 3], "8 leaders are spread over 3 nodes")


async def test_a_paused_node_is_missed_and_welcome_back(serve_cluster: ServeCluster) -> None:
    cluster = await serve_cluster(shards=1)
    leader = await cluster.leader_of(0)
    others = cluster.others(leader)
    async with leader.paused():
        successor = await cluster.leader_of(0, among=others)
        assert successor in others
    await until(cluster.agrees_now, "all nodes agree again")
