"""Everything searchable of one shard's agents of one account, on one replica.

Derived from the replicated registry and rebuilt from it if lost: `put`, `remove` and `seen` follow
applied commands, `statistics` and `search` answer the asking node (`ranking.merge` puts the shards'
answers together). Equal registrations in any order give equal answers: scores need nothing but the
card, its codes and the question, and ties are broken by name. Only graph search (large shards, not
`exact`) is approximate.

A version of a card has a slot; slots of versions that are gone are skipped until `compact` numbers
the rest anew, when 30 % are. One thread at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mq9cluster.domain.agent import AgentCard, card_digest
from mq9cluster.domain.errors import EmbedderMismatch
from mq9cluster.search.best import Best
from mq9cluster.search.facets import Facets
from mq9cluster.search.lexical import Found, LexicalIndex, score, unit_weights
from mq9cluster.search.query import NAME, TEXT, Answer, Question, Ranked, Statistics
from mq9cluster.search.text import Analyzer
from mq9cluster.search.vectors import GRAPH_VECTORS_MIN, Graph, Job, VectorSpace, check_code

# What a word is worth by where it stands. Quarters: their sums are exact in any order, so that
# replicas agree to the last bit.
NAME_WEIGHT = 3.0
TAG_WEIGHT = 2.5
SKILL_WEIGHT = 2.0
DESCRIPTION_WEIGHT = 1.0
EXAMPLE_WEIGHT = 0.75
PROVIDER_WEIGHT = 0.75

DEAD_SHARE_MAX = 0.3  # of slots: then they are numbered anew
DEAD_SLOTS_MIN = 1_024  # not worth it below
DIGEST_BYTES = 16  # of a card, as `card_digest` makes them

Slots = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def new_rankings(question: Question) -> dict[str, Best]:
    """Empty rankings of what a question asks for, in their order."""
    by = [TEXT] if question.units else []
    by += [embedder for embedder, _ in question.vectors]
    return {one: Best(question.depth, question.min_score) for one in by}


def answer(rankings: Mapping[str, Best]) -> Answer:
    """What rankings came to."""
    return Answer(tuple((by, best.ranked()) for by, best in rankings.items()))


def _add_near(
    best: Best,
    names: Sequence[str],
    space: VectorSpace,
    code: bytes,
    allowed: Mask,
    question: Question,
    floor: float,
) -> None:
    """Add agents among `allowed` by their cosines, as far as these say something."""
    slots, scores = space.search(code, allowed, question.depth, exact=question.exact)
    scores[scores < floor] = 0.0
    best.add(names, scores, slots)


class ShardIndex:
    """The searchable agents of one shard and account. `dimensions` by embedder id."""

    __slots__ = (
        "_alive",
        "_analyzer",
        "_dead",
        "_digests",
        "_expires",
        "_facets",
        "_lexical",
        "_names",
        "_slots",
        "_spaces",
    )

    def __init__(
        self,
        analyzer: Analyzer,
        dimensions: Mapping[str, int],
        graph_vectors_min: int = GRAPH_VECTORS_MIN,
    ) -> None:
        self._analyzer = analyzer
        self._lexical = LexicalIndex()
        self._facets = Facets()
        self._spaces = {
            embedder: VectorSpace(size, graph_vectors_min) for embedder, size in dimensions.items()
        }
        self._slots: dict[str, int] = {}
        self._names: list[str] = []  # by slot, also of dead ones
        self._alive: Mask = np.zeros(0, np.bool_)  # with room to grow, as `_expires`
        self._expires: Slots = np.zeros(0, np.int64)  # Unix ms; 0: never
        self._dead = 0
        self._digests = bytearray()  # of the cards, by slot

    def __len__(self) -> int:
        return len(self._slots)

    # ---- following the registry

    def put(self, card: AgentCard, codes: Mapping[str, bytes], expires_ms: int = 0) -> None:
        """Register `card`, in place of one of the same name; `codes` by embedder id.

        A code may be missing (the embedding service is down: `put_code` brings it later).
        EmbedderMismatch, and nothing changed, when one is of no embedder here or of another size.
        """
        for embedder, code in codes.items():
            check_code(code, self._space(embedder).dimensions)
        old = self._slots.get(card.name)
        if old is None:
            self._facets.add_name(card.name)
        else:
            self._bury(old)
        slot = len(self._names)
        self._names.append(card.name)
        self._digests += card_digest(card.body)
        self._slots[card.name] = slot
        self._grow(slot + 1)
        self._alive[slot] = True
        self._expires[slot] = expires_ms
        self._index_text(slot, card)
        self._facets.put(slot, card)
        for embedder, code in codes.items():
            self._spaces[embedder].put(slot, code)
        self._compact_if_due()

    def put_code(self, name: str, embedder: str, code: bytes) -> bool:
        """The code of a registered agent, come later; False when it is not registered."""
        space = self._space(embedder)
        check_code(code, space.dimensions)
        slot = self._slots.get(name)
        if slot is None:
            return False
        space.put(slot, code)
        return True

    def seen(self, name: str, expires_ms: int) -> bool:
        """The agent reported; False when it is not registered."""
        slot = self._slots.get(name)
        if slot is None:
            return False
        self._expires[slot] = expires_ms
        return True

    def remove(self, name: str) -> bool:
        """Forget an agent; False when it is not registered."""
        slot = self._slots.pop(name, None)
        if slot is None:
            return False
        self._facets.drop_name(name)
        self._bury(slot)
        self._compact_if_due()
        return True

    def add_embedder(
        self, embedder: str, dimensions: int, graph_vectors_min: int = GRAPH_VECTORS_MIN
    ) -> None:
        """Room for the codes of a new embedder, beside those there are."""
        if embedder not in self._spaces:
            self._spaces[embedder] = VectorSpace(dimensions, graph_vectors_min)

    def check_code(self, embedder: str, code: bytes) -> None:
        """EmbedderMismatch when `code` is of no embedder here, or of another size."""
        check_code(code, self._space(embedder).dimensions)

    def drop_embedder(self, embedder: str) -> None:
        """Forget an embedder's codes."""
        self._spaces.pop(embedder, None)

    def embedders(self) -> list[str]:
        """Whose codes there may be."""
        return list(self._spaces)

    def missing_count(self, embedder: str) -> int:
        """How many agents have no code of `embedder`."""
        space = self._spaces.get(embedder)
        return len(self._slots) - (space.count() if space else 0)

    def missing_codes(self, embedder: str) -> list[str]:
        """Names, in order, of agents without a code of `embedder`: what re-embedding has to do."""
        space = self._spaces.get(embedder)
        slots = self._slots
        return [
            name for name in self._facets.all_names() if space is None or not space.has(slots[name])
        ]

    # ---- answering

    def statistics(self, question: Question) -> Statistics:
        """How many agents there are and how many each unit finds, expired ones included."""
        alive = self._alive[: len(self._names)]
        frequencies = tuple(self._lexical.frequency(unit, alive) for unit in question.units)
        return Statistics(len(self._slots), frequencies)

    def find(self, question: Question) -> tuple[Statistics, list[Found]]:
        """`statistics`, and what they were taken from: `rank` need not look again."""
        found = self._lexical.find(question.units, self._alive[: len(self._names)])
        return Statistics(len(self._slots), self._lexical.count(question.units, found)), found

    def search(self, question: Question, statistics: Statistics) -> Answer:
        """The best of each ranking, by statistics summed over all shards."""
        if question.by_name:
            return Answer(((NAME, self.by_name(question)),))
        found = self._lexical.find(question.units, self._alive[: len(self._names)])
        rankings = new_rankings(question)
        self.rank(question, found, unit_weights(statistics), rankings)
        return answer(rankings)

    def rank(
        self,
        question: Question,
        found: Sequence[Found],
        weights: Sequence[float],
        rankings: Mapping[str, Best],
    ) -> None:
        """Add the agents of this shard to the rankings; `found` is what `find` gave."""
        allowed = self._allowed(question)
        names = self._names
        if question.units:
            scores = score(found, weights, len(names))
            scores[~allowed] = 0.0
            rankings[TEXT].add(names, scores)
        instead = question.stand_in
        for embedder, code in question.vectors:
            best, space = rankings[embedder], self._spaces.get(embedder)
            if space is not None:
                _add_near(best, names, space, code, allowed, question, question.floor)
            if instead is not None:
                by, code_by, floor = instead
                without = allowed if space is None else allowed & ~space.present(len(allowed))
                if by in self._spaces and without.any():
                    other = self._spaces[by]
                    _add_near(best, names, other, code_by, without, question, floor)
                instead = None

    def _allowed(self, question: Question) -> Mask:
        size = len(self._names)
        allowed = self._alive[:size].copy()
        if question.now_ms:
            expires = self._expires[:size]
            allowed &= (expires == 0) | (expires > question.now_ms)
        if question.filter is not None:
            allowed &= self._facets.mask(question.filter, self._slots, size)
        return allowed

    def by_name(self, question: Question) -> Ranked:
        """All agents in order of their names."""
        allowed = self._allowed(question)
        hits: list[tuple[str, float]] = []
        slots = self._slots
        for name in self._facets.all_names():
            if len(hits) == question.depth:
                break
            if allowed[slots[name]]:
                hits.append((name, 0.0))
        return Ranked(tuple(hits), int(np.count_nonzero(allowed)))

    # ---- upkeep

    def maintenance(self) -> Sequence[tuple[str, Job]]:
        """Graph work that is due: run each job in a thread, then `adopt` it."""
        due = ((embedder, space.maintenance()) for embedder, space in self._spaces.items())
        return [(embedder, job) for embedder, job in due if job is not None]

    def adopt(self, embedder: str, job: Job) -> None:
        """Use a finished job; of no effect when the embedder was dropped meanwhile."""
        space = self._spaces.get(embedder)
        if space is not None:
            space.adopt(job)

    def kept(self) -> dict[str, Any]:
        """All but codes and times, which the state has, to be saved: what `restored` takes."""
        alive = self._alive[: len(self._names)]
        return {
            "names": self._names.copy(),
            "alive": alive.tobytes(),
            "digests": bytes(self._digests),
            **self._lexical.kept(),
            **self._facets.kept(),
        }

    @classmethod
    def restored(cls, analyzer: Analyzer, kept: Mapping[str, Any]) -> Self:
        """The index that `kept` told of; `confirm` says who has which codes, and until when."""
        self = cls(analyzer, {})
        self._names = kept["names"]
        self._alive = np.frombuffer(kept["alive"], np.bool_).copy()
        self._expires = np.zeros(len(self._alive), np.int64)
        self._digests = bytearray(kept["digests"])
        self._slots = {self._names[slot]: slot for slot in np.flatnonzero(self._alive).tolist()}
        self._dead = len(self._names) - len(self._slots)
        self._lexical = LexicalIndex.restored(kept)
        self._facets = Facets.restored(kept, self._slots)
        return self

    def confirm(
        self, name: str, digest: bytes, codes: Mapping[str, bytes], expires_ms: int
    ) -> bool:
        """Whether the card of this digest is what is indexed; then it has these codes."""
        slot = self._slots.get(name)
        if slot is None:
            return False
        at = slot * DIGEST_BYTES
        if self._digests[at : at + DIGEST_BYTES] != digest:
            return False
        self._expires[slot] = expires_ms
        for embedder, code in codes.items():
            self._space(embedder).put(slot, code)
        return True

    def names(self) -> list[str]:
        """Everybody, in order; not to be changed."""
        return self._facets.all_names()

    def graphs(self) -> list[tuple[str, Graph, list[str | None]]]:
        """Graphs to be saved, by embedder, and who is at each key; see `VectorSpace.kept`."""
        kept = ((embedder, space.kept(self._names)) for embedder, space in self._spaces.items())
        return [(embedder, *graph) for embedder, graph in kept if graph is not None]

    def attach(self, embedder: str, data: bytes, owners: Sequence[str | None]) -> bool:
        """Use a saved graph, after all agents were put; what changed since is scanned."""
        space = self._spaces.get(embedder)
        return space is not None and space.attach(data, owners, self._slots)

    def memory_bytes(self) -> int:
        """Memory of vectors and graphs, which dominate."""
        return sum(space.memory_bytes() for space in list(self._spaces.values()))

    def _space(self, embedder: str) -> VectorSpace:
        space = self._spaces.get(embedder)
        if space is None:
            raise EmbedderMismatch(f"{embedder} is not an embedder of this cluster")
        return space

    def _index_text(self, slot: int, card: AgentCard) -> None:
        name, tags, skills, description, examples, provider = card.search_text()
        texts = [self._analyzer.name_text(name), *tags, *skills, description, *examples, provider]
        weights = [
            NAME_WEIGHT,
            *[TAG_WEIGHT] * len(tags),
            *[SKILL_WEIGHT] * len(skills),
            DESCRIPTION_WEIGHT,
            *[EXAMPLE_WEIGHT] * len(examples),
            PROVIDER_WEIGHT,
        ]
        self._lexical.put(slot, self._analyzer.fields(texts), weights)

    def _bury(self, slot: int) -> None:
        self._alive[slot] = False
        self._dead += 1
        self._lexical.remove(slot)
        for space in self._spaces.values():
            space.remove(slot)

    def _grow(self, size: int) -> None:
        if size > len(self._alive):
            more = max(256, size // 4)
            self._alive = np.concatenate([self._alive, np.zeros(more, np.bool_)])
            self._expires = np.concatenate([self._expires, np.zeros(more, np.int64)])

    def _compact_if_due(self) -> None:
        if self._dead > max(DEAD_SLOTS_MIN, DEAD_SHARE_MAX * len(self._names)):
            self.compact()

    def compact(self) -> None:
        """Number the slots anew, without the dead."""
        alive = self._alive[: len(self._names)]
        numbers = np.where(alive, np.cumsum(alive) - 1, -1)
        self._lexical.compact(numbers)
        self._facets.compact(numbers)
        for space in self._spaces.values():
            space.compact(numbers)
        self._expires = self._expires[: len(alive)][alive]
        digests = np.frombuffer(self._digests, np.uint8).reshape(-1, DIGEST_BYTES)
        self._digests = bytearray(digests[alive].tobytes())
        self._names = [name for name, keep in zip(self._names, alive.tolist(), strict=True) if keep]
        self._alive = np.ones(len(self._names), np.bool_)
        self._slots = {name: slot for slot, name in enumerate(self._names)}
        self._dead = 0
