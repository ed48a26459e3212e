"""The file in which a directory's indexes survive a restart of their node: a cache of what can be
worked out from the state, never trusted further than it can be checked (`search.saved`).

Owned by `directory`, which says when. All of it runs in the search thread, but for the writing,
which is done in the graphs' thread: it is no hurry, and a graph that is written must not grow.
"""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from mq9cluster.cluster.search_thread import Searchable
from mq9cluster.search.index import ShardIndex
from mq9cluster.search.saved import NotSaved, fingerprint, read_file, write_file
from mq9cluster.search.vectors import saved_graph

REST_TIMES: Final = 100  # as long as it took it is not written again: a hundredth of the time
REST_S_MIN: Final = 30.0

_log = logging.getLogger(__name__)

Indexes = dict[str, ShardIndex]
Part = dict[str, Any]


class Saved(Protocol):
    """Called in the search thread once a file is written, or could not be."""

    def __call__(self, rest_s: float, *, is_saved: bool) -> None:
        """It should not be written again for so long."""


class Loaded:
    """What a file held: `indexes` to be confirmed agent by agent, then `attach` their graphs."""

    __slots__ = ("_graphs", "indexes", "unconfirmed")

    def __init__(self, indexes: Indexes, graphs: list[Part]) -> None:
        self.indexes = indexes
        self.unconfirmed = {account: set(index.names()) for account, index in indexes.items()}
        self._graphs = graphs

    def attach(self, indexes: Mapping[str, ShardIndex]) -> None:
        """Give the indexes, which have all their agents now, the graphs there were."""
        for graph in self._graphs:
            index = indexes.get(graph["account"])
            if index is not None:
                index.attach(graph["embedder"], bytes(graph["graph"]), graph["owners"])
        self._graphs = []


class DirectoryFile:
    """One shard's file."""

    def __init__(self, searchable: Searchable, shard: int) -> None:
        self._thread = searchable.thread
        self._analyzer = searchable.analyzer
        self._path = searchable.saved_in / f"{shard}.index" if searchable.saved_in else None
        self._shard = shard

    @property
    def used(self) -> bool:
        """Whether there is a place for it."""
        return self._path is not None

    def load(self) -> Loaded:
        """What was saved last, if it is of any use."""
        if self._path is None or not self._path.exists():
            return Loaded({}, [])
        try:
            parts = read_file(self._path, self._about())
        except NotSaved as error:
            _log.info("the saved search index is not used", extra={"why": str(error)})
            return Loaded({}, [])
        indexes = {
            part["account"]: ShardIndex.restored(self._analyzer(), part)
            for part in parts
            if "graph" not in part
        }
        return Loaded(indexes, [part for part in parts if "graph" in part])

    def save(self, indexes: Indexes, then: Saved) -> None:
        """Write what there is now, and then say so."""
        path = self._path
        if path is None:
            return
        parts = [{"account": account, **index.kept()} for account, index in indexes.items()]
        graphs = [
            (account, *graph) for account, index in indexes.items() for graph in index.graphs()
        ]
        rest_s, is_saved = REST_S_MIN, False

        def write() -> None:
            nonlocal rest_s, is_saved
            began_s = time.monotonic()
            for account, embedder, graph, owners in graphs:
                told = {"account": account, "embedder": embedder, "owners": owners}
                parts.append({**told, "graph": saved_graph(graph)})
            try:
                write_file(path, self._about(), parts)
            except OSError as error:
                _log.warning("the search index cannot be saved", extra={"why": str(error)})
            else:
                is_saved = True
            rest_s = max(REST_S_MIN, REST_TIMES * (time.monotonic() - began_s))

        self._thread.build(write, lambda: then(rest_s, is_saved=is_saved))

    def _about(self) -> dict[str, Any]:
        return {"shard": self._shard, "made_by": fingerprint()}
