"""What the HTTP side is told of search: the cluster's embedders, the node's indexes. Part of
`node_view`.
"""

from collections.abc import Iterator

from mq9cluster.admin.view import EmbedderFacts, Level, Reading
from mq9cluster.broker.search_side import SearchSide


def embedders(search: SearchSide) -> EmbedderFacts:
    """For /cluster."""
    state = search.embedders
    following = (role.following for role in (state.concept, state.model))
    codes = {by for directory in search.directories.values() for by in directory.embedders()}
    return EmbedderFacts(
        concept=state.concept.current or "",
        model=state.model.current or "",
        following=next(filter(None, following), ""),
        codes=sorted(codes),
        differs=search.embedding.differs(),
    )


def readings(search: SearchSide) -> Iterator[Reading]:
    """For /metrics."""
    directories = search.directories.values()
    for name, text, value in (
        ("agents", "Agents that are searchable here.", sum(len(one) for one in directories)),
        (
            "behind_bytes",
            "Bytes of cards that are applied and not yet searchable.",
            sum(one.behind_bytes for one in directories),
        ),
        (
            "building",
            "Shards whose search index is being built.",
            sum(not one.ready.is_set() for one in directories),
        ),
        (
            "vector_bytes",
            "Memory of vectors and their graphs.",
            sum(one.memory_bytes() for one in directories),
        ),
        ("discovers_under_way", "DISCOVERs not yet answered.", search.discovery.under_way),
        (
            "embedder_differs",
            "1 while this node's embedder is not the cluster's.",
            int(bool(search.embedding.differs())),
        ),
    ):
        yield Level(f"mq9_search_{name}", text, value)
