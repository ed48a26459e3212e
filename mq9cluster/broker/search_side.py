"""Search on one node, put together: its thread, its language, its embedders, its background work.

`node` opens it before the cluster, whose directories need it, starts it once the node is a member,
and stops it last.
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mq9cluster.broker.discovery import Discovery
from mq9cluster.broker.embedding import Embedding
from mq9cluster.broker.http_post import HttpPost
from mq9cluster.broker.reembedding import Reembedding
from mq9cluster.cluster.cluster import Cluster
from mq9cluster.cluster.directory import Directory
from mq9cluster.cluster.embedders import Embedders
from mq9cluster.cluster.finding import ask
from mq9cluster.cluster.search_thread import Searchable, SearchThread
from mq9cluster.cluster.wire import Kind
from mq9cluster.search.embedder import EmbedderUnavailable
from mq9cluster.search.embedders import BUILT_IN, open_embedder
from mq9cluster.search.language import Language
from mq9cluster.search.lexicon import load_lexicon

ASK_PEER_S = 1.0  # a question that waits longer is answered by concepts

_log = logging.getLogger(__name__)


class SearchSide:
    """What of a node has to do with search. Raises EmbedderMisconfigured at `open`."""

    def __init__(self, setting: str, key: str, saved_in: Path | None = None) -> None:
        self._setting = setting
        self._saved_in = saved_in  # a folder for the indexes
        self._post = HttpPost(key)
        self._thread = SearchThread()
        self._cluster: Cluster | None = None
        self._language: Language
        self._looking: asyncio.Task[None] | None = None
        self.embedding: Embedding
        self.discovery: Discovery

    async def open(self) -> Searchable:
        """Read the lexicon and the model that is set; what makes shards searchable."""
        language = self._language = Language(await asyncio.to_thread(load_lexicon))
        self.embedding = Embedding(self._thread, language, lambda: self.embedders, self._ask_peers)
        if self._setting != BUILT_IN:
            try:
                self.embedding.model = await open_embedder(self._setting, self._post)
            except EmbedderUnavailable as error:
                self.embedding.model_known = False
                facts = {"embedder": self._setting.partition("#")[0], "why": str(error)}
                _log.warning("the embedder does not answer; concepts stand in", extra=facts)
        return Searchable(self._thread, lambda: language.analyzer, self._saved_in)

    async def start(self, cluster: Cluster) -> None:
        """The node is a member: tell the others what it embeds with, and begin to look."""
        self._cluster = cluster
        embedding = self.embedding
        cluster.finding.embed = embedding.code_here
        self.discovery = Discovery(cluster.finder, embedding, self._language, self._thread)
        await cluster.announce_surely(embedding.announced())
        again = None
        if not embedding.model_known:
            again = partial(open_embedder, self._setting, self._post)
        reembedding = Reembedding(cluster, embedding, self._thread, again)
        self._looking = asyncio.create_task(reembedding.run())
        # A tenth of a second that the first REGISTER would wait for otherwise.
        self._thread.post(lambda: self._language.explainer)

    async def stop(self) -> None:
        """Ask and answer nothing more."""
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self.discovery.stop()
        if hasattr(self, "embedding"):
            self.embedding.stop()
        await self._post.close()
        await asyncio.to_thread(self._thread.stop)

    @property
    def embedders(self) -> Embedders:
        """The cluster's, as far as this node knows."""
        return self._cluster.meta.meta.embedders if self._cluster else Embedders()

    @property
    def directories(self) -> Mapping[int, Directory]:
        """Those of this node's replicas, by shard."""
        return self._cluster.directories if self._cluster else {}

    async def _ask_peers(self, embedder: str, text: str) -> bytes | None:
        """A question's code from a node that has the embedder."""
        cluster = self._cluster
        if cluster is None:
            return None
        for node in self.embedders.having(embedder):
            if cluster.peers.is_up(node):
                try:
                    async with asyncio.timeout(ASK_PEER_S):
                        fields = {"embedder": embedder, "text": text}
                        answer = await ask(cluster.peers, node, Kind.EMBED, fields)
                except TimeoutError:
                    continue
                if answer and answer.get("code"):
                    return bytes.fromhex(answer["code"])
        return None
